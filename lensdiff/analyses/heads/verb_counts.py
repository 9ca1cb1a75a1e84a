"""The kernels behind `verb_shift`: how often a head's knowledge names a verb, and controls of equal base count.

Reference: Wu et al., NAACL 2024, section 5 (Table 3); doi 10.18653/v1/2024.naacl-long.130; the formulas are in
    `verb_shift`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs, check_comparable
from lensdiff.analyses.heads.word_pairs import Pairs
from lensdiff.inputs.verbs import INSTRUCTION_VERBS
from lensdiff.results.tidy import tidy

CALIPER = 1.5  # largest ratio of 1 + base count between a verb and its control; a count of 0 is matched with 0 alone
WHOLE = "all"  # the name of all layers as one group
FORBIDDEN = 1e6  # cost of a match beyond the caliper


def verb_counts(
    pairs: Pairs, forms: Int[Tensor, " word"], verb_of_form: Int[Tensor, " form"], n_verbs: int, *, min_seen: int = 2
) -> Int[Tensor, " verb"]:
    """Return how often each verb occurs in one head's knowledge: its unordered pairs seen at least `min_seen` times.

    Args:
        pairs: the head's pairs over all its dimensions.
        forms: each word's lower-case form, as an index; verb_of_form: each form's verb, -1 for no verb.
    """
    one, other = forms[pairs.key.long()], forms[pairs.query.long()]
    listed = verb_of_form >= 0
    named = listed[one] | listed[other]  # only pairs with a verb can count
    one, other = one[named], other[named]
    codes, seen = (torch.minimum(one, other) * len(verb_of_form) + torch.maximum(one, other)).unique(return_counts=True)
    known = codes[seen >= min_seen]
    verbs = verb_of_form[torch.cat([known // len(verb_of_form), known % len(verb_of_form)])]
    return verbs[verbs >= 0].bincount(minlength=n_verbs)


def counts_of_heads(
    result: HeadWordPairs, verbs: tuple[str, ...], *, min_seen: int = 2
) -> Int[Tensor, "layer head_index verb"]:
    """Return `verb_counts` of every head; words and verbs are compared in lower case."""
    lower = [word.lower() for word in result.words]
    index = {form: i for i, form in enumerate(dict.fromkeys(lower))}
    forms = torch.tensor([index[form] for form in lower])
    verb_of_form = torch.full((len(index),), -1)
    for i, verb in enumerate(verbs):
        if verb in index:
            verb_of_form[index[verb]] = i
    counts = [
        verb_counts(result.of_head(layer, head), forms, verb_of_form, len(verbs), min_seen=min_seen)
        for layer in result.layers
        for head in result.heads
    ]
    return torch.stack(counts).reshape(len(result.layers), len(result.heads), len(verbs))


def head_rises(
    layers: Sequence[int],
    heads: Sequence[int],
    base: Int[Tensor, "layer head_index"],
    tuned: Int[Tensor, "layer head_index"],
) -> pd.DataFrame:
    """Return a row per head, those in which a count rose most first: layer, head_index, base_count, tuned_count, rise.

    Args:
        base, tuned: the count of a head, of all instruction verbs together.
    """
    counts = {"base_count": base, "tuned_count": tuned, "rise": tuned - base}
    frame = tidy({"layer": layers, "head_index": heads}, counts)
    return frame.sort_values("rise", ascending=False, kind="stable", ignore_index=True)


def verb_rises(
    base: HeadWordPairs, tuned: HeadWordPairs, *, verbs: Sequence[str] = INSTRUCTION_VERBS, min_seen: int = 2
) -> pd.DataFrame:
    """Return `head_rises` of two models' word pairs: what `verb_shift(...).heads()` says, without its tests.

    Raises:
        InputError: the results are not comparable.
    """
    check_comparable(base, tuned, "tuned")
    listed = tuple(verb.lower() for verb in verbs)
    before, after = (counts_of_heads(x, listed, min_seen=min_seen).sum(dim=-1) for x in (base, tuned))
    return head_rises(base.layers, base.heads, before, after)


def matched_controls(
    verb_counts: Int[np.ndarray, " verb"], control_counts: Int[np.ndarray, " control"], *, matches: int
) -> list[list[int]]:
    """Return, for every verb, up to `matches` controls with about its count, none of them used twice.

    In each round every verb gets one more of the controls that are left, by the assignment with the smallest total
    |log (1 + count) - log (1 + control's count)|; beyond `CALIPER` none is better than a wrong one.
    """
    found: list[list[int]] = [[] for _ in verb_counts]
    distance = np.abs(np.log1p(verb_counts)[:, None] - np.log1p(control_counts)[None, :])
    distance = np.where(distance > np.log(CALIPER) + 1e-12, FORBIDDEN, distance)
    left = np.arange(len(control_counts))
    for _ in range(matches):
        if not len(left) or not len(verb_counts):
            break
        rows, columns = linear_sum_assignment(distance[:, left])
        near = distance[rows, left[columns]] < FORBIDDEN
        for row, control in zip(rows[near], left[columns[near]], strict=True):
            found[row].append(int(control))
        left = np.setdiff1d(left, left[columns[near]])
    return found


def shares(
    up: Int[np.ndarray, "*batch verb"], down: Int[np.ndarray, "*batch verb"]
) -> Float[np.ndarray, "*batch verb"]:
    """Return up / (up + down); NaN for a verb that moved nowhere: nothing is known of it, not "as often as not"."""
    total = up + down
    return np.where(total > 0, up / np.maximum(total, 1), np.nan)


def flat_heads(counts: Int[np.ndarray, "layer head_index verb"]) -> Int[np.ndarray, "heads verb"]:
    """Return the counts of all heads of some layers on one axis."""
    return rearrange(counts, "layer head verb -> (layer head) verb")


def layer_groups(layers: tuple[int, ...], layers_per_group: int) -> dict[str, Int[np.ndarray, " row"]]:
    """Return the rows of each group of layers by its name, and last those of all."""
    group = np.array(layers) // layers_per_group
    rows = [np.flatnonzero(group == g) for g in dict.fromkeys(group.tolist())]
    named = {f"{min(layers[r] for r in own)}-{max(layers[r] for r in own)}": own for own in rows}
    return named | {WHOLE: np.arange(len(layers))}
