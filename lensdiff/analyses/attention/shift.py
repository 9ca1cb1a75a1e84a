"""How far tuning moved each head's attention: distances between the patterns, and differences of the shares.

Base and tuned model read the same tokens. With P and Q a query's attention in the base and in the tuned model:

    JS distance   sqrt( (KL(P || M) + KL(Q || M)) / 2 ),  M = (P + Q) / 2,  log base 2      in [0, 1], mean over queries
    without sink  the same after dropping the first key and renormalising the rest, query 0 skipped
    difference    tuned - base of each measure of `attention`, mean over prompts

Queries are prompt and response tokens. Distances are means over the queries of a prompt, then over prompts. A query
that gives the first key all it has, in either model, says nothing of the rest: it adds 0 to the distance without sink.

What the numbers can say and what not:
- A distance is never negative, so an interval around it cannot exclude zero. It stands beside the same distance of
  control models, and so does each difference: the band is the largest of those of all kinds of controls, each of which
  holds one more control with probability `level`; with fewer than 19 of a kind there is none. There is one p-value for
  the whole model (`whole`): the mean distance of all heads beside that of the controls.
- Intervals and p-values of the differences are over prompts: is the difference steady from prompt to prompt? That of
  a meaningless change can be steady too; the band tells.

Memory: one text's patterns of all models at a time, if the results come from generators. Ignored: the values that are
attended to; a head that moves its attention between equal values does the same as before.

Reference: Lin, IEEE Trans. Inf. Theory 37, 1991 (divergence); Endres and Schindelin, ibid. 49, 2003 (its root).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.attention.control import ControlAttention, check_apart, measures_of
from lensdiff.analyses.attention.distances import DISTANCES, distances_of
from lensdiff.analyses.attention.patterns import MEASURES, AttentionPatterns
from lensdiff.analyses.attention.same_texts import Patterns, same_texts
from lensdiff.models.given import check_controls, check_results
from lensdiff.models.templates import stamped
from lensdiff.results import InputError, Provenance, Result
from lensdiff.results.numbers import check_seed
from lensdiff.results.tidy import tidy

STATISTICS = ("base", "tuned", "difference", "low", "high", "control_low", "control_high", "p", "p_adjusted")


@dataclass(frozen=True, eq=False)
class AttentionShift(Result):
    """What changed in every head's attention, tuned - base, over prompts; see the module for what each number says.

    Attributes:
        layers: the layers that were compared, counted from 0.
        n_prompts: how many prompts each measure was had from, in the order of `MEASURES`.
        distances: the mean distance with and without the first key (axis `distance`, as `DISTANCES`).
        distance_band: limits (axis `limit`: low, high) within which one more control's distance lies.
        measures: axis `statistic` as `STATISTICS`, axis `measure` as `MEASURES`.
        whole: the mean distance of all heads beside that of the controls; None without controls.

    NaN where a number cannot be had: bands with fewer than 19 controls of a kind, intervals and p from fewer than two
    prompts, shares of a part that no prompt marks.
    """

    layers: tuple[int, ...]
    n_prompts: tuple[int, ...]
    distances: Float[Tensor, "distance layer head_index"]
    distance_band: Float[Tensor, "distance limit layer head_index"]
    measures: Float[Tensor, "measure statistic layer head_index"]
    whole: stats.Envelope | None

    def told(self) -> list[str]:
        """Return the mean distance beside controls, and the head that moved most."""
        where: Any = self.ranked(1).iloc[0]
        beside = f"{float(self.distances[0].mean()):.3g}" if self.whole is None else str(self.whole)
        most = f"layer {where.layer:.0f}, head {where.head_index:.0f}: {where.js_distance:.3g}"
        return [f"JS distance, mean of all heads: {beside}", f"moved most: {most}"]

    def to_df(self) -> pd.DataFrame:
        """Return a row per head: layer, head_index, each distance with its band, each measure with its statistics.

        Distances: js_distance and js_distance_no_sink, each also with _control_low and _control_high behind its name.
        Measures: sink_share, entropy, instruction_share, context_share, rest_share, template_share, each with _base,
        _tuned (means over prompts), _difference, _low, _high (its interval), _control_low, _control_high (the controls'
        band), _p and _p_adjusted.
        """
        columns: dict[str, Tensor] = {}
        for name, values, (low, high) in zip(DISTANCES, self.distances, self.distance_band, strict=True):
            columns |= {name: values, f"{name}_control_low": low, f"{name}_control_high": high}
        for name, statistics in zip(MEASURES, self.measures, strict=True):
            columns |= {f"{name}_{s}": values for s, values in zip(STATISTICS, statistics, strict=True)}
        return tidy({"layer": self.layers, "head_index": range(self.distances.shape[-1])}, columns)

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k heads whose attention moved most, by `js_distance`, with its band."""
        name = DISTANCES[0]
        return self.ranked(k).loc[:, ["layer", "head_index", name, f"{name}_control_low", f"{name}_control_high"]]

    def ranked(self, k: int = 10) -> pd.DataFrame:
        """Return the same rows with every column of `to_df`.

        Args:
            k: how many.
        """
        return self.to_df().nlargest(k, "js_distance").reset_index(drop=True)


def attention_shift(
    base: Patterns,
    tuned: Patterns,
    controls: Sequence[Patterns | ControlAttention] = (),
    *,
    level: float = 0.95,
    adjustment: str = "bh",
    seed: int = 0,
) -> AttentionShift:
    """Return how far each head's attention moved from base to tuned, over one text or many.

    Args:
        base, tuned: results of `attention` on the same texts in the same order; lists, or generators to save memory.
        controls: results of `attention` on the same texts, one entry per control model, or of `control_attention`.
        level: of the intervals over prompts (paired t) and of the controls' bands.
        adjustment: false-discovery control over all p-values of the table, "bh" or "by" (see `stats.adjust`). They come
            from paired t tests, or from sign flips where all prompts differ by the same amount.
        seed: of the sign flips.

    Raises:
        InputError: no results, unequal numbers of them, patterns that were not kept, base and tuned (or a control) read
            other tokens, layers or heads, measured parts differently, or an unusable option.
    """
    for given in (base, tuned):
        check_results(given, AttentionPatterns, "attention_shift", "attention", many=True)
    check_controls(controls, "attention_shift", "attention")
    check_seed(seed)
    read = _together(base, tuned, controls)
    before, after, *controlled = read.origins
    options = {
        "base": before.model,
        "attention": before.options,
        "n_prompts": read.measures.shape[1],
        "level": level,
        "adjustment": adjustment,
    }
    provenance = replace(after, analysis="attention_shift", options=options, seed=seed).beside(controlled)
    kinds = provenance.control_kinds
    moved, *meaningless = read.distances
    of_heads = stats.against_controls(moved, stats.by_kind(meaningless, kinds), level=level, limits=(0.0, np.inf))
    mean, *means = read.distances[:, 0].mean(axis=(1, 2)).tolist()
    found = AttentionShift(
        provenance,
        read.layers,
        tuple(int(n) for n in (~np.isnan(read.measures[0, :, :, 0, 0])).sum(axis=0)),
        torch.from_numpy(moved),
        torch.from_numpy(np.stack(of_heads.band, axis=1)),
        torch.from_numpy(_measures(read.measures, kinds, level=level, adjustment=adjustment, seed=seed)),
        stats.against_controls(mean, stats.by_kind(means, kinds), level=level).envelope,
    )
    return stamped(found, after.template)


class _Read(NamedTuple):
    """What was read of all models, on the same texts; of each model where it comes from: base, tuned, then controls."""

    origins: list[Provenance]
    layers: tuple[int, ...]
    distances: Float[np.ndarray, "model_but_base distance layer head_index"]
    measures: Float[np.ndarray, "model text measure layer head_index"]


def _together(base: Patterns, tuned: Patterns, controls: Sequence[Patterns | ControlAttention]) -> _Read:
    """Read all models text by text, and set the controls beside them that were read apart."""
    given = [control for control in controls if not isinstance(control, ControlAttention)]
    names = ("base", "tuned", *(f"control {i}" for i in range(len(given))))
    distances, values, origins, layers, texts = [], [], [], (), []
    for group in same_texts(names, (base, tuned, *given)):
        origins, layers = [result.provenance for result in group], group[0].layers
        distances.append([distances_of(group[0], other) for other in group[1:]])
        values.append([measures_of(result) for result in group])
        texts.append(tuple(group[0].tokens))
    if not values:
        raise InputError("there are no attention results to compare, expected at least one of base and of tuned")
    apart = [control for control in controls if isinstance(control, ControlAttention)]
    for control in apart:
        check_apart(control, layers, tuple(texts))
    return _Read(
        origins + [control.provenance for control in apart],
        layers,
        np.concatenate(
            [np.mean(distances, axis=0), *(control.distances.numpy().mean(axis=0)[None] for control in apart)]
        ),
        np.concatenate([np.stack(values, axis=1), *(control.measures.numpy()[None] for control in apart)]),
    )


def _measures(
    read: Float[np.ndarray, "model prompt measure layer head_index"],
    kinds: Sequence[str],
    *,
    level: float,
    adjustment: str,
    seed: int,
) -> Float[np.ndarray, "measure statistic layer head_index"]:
    shape = read.shape[3:]
    out = np.full((len(MEASURES), len(STATISTICS), *shape), np.nan)
    tests = {}
    for m in range(len(MEASURES)):
        per_prompt = read[:, ~np.isnan(read[0, :, m, 0, 0]), m]
        if not per_prompt.shape[1]:
            continue
        base, tuned = per_prompt[:2]
        difference = (tuned - base).mean(axis=0)
        meaningless = stats.by_kind((per_prompt[2:] - base).mean(axis=1), kinds)
        out[m, :3] = base.mean(axis=0), tuned.mean(axis=0), difference
        out[m, 5:7] = stats.against_controls(difference, meaningless, level=level).band
        if len(base) < stats.FEWEST_PAIRS:
            continue
        out[m, 3:5] = stats.paired_interval(tuned, base, level=level)
        for head in np.ndindex(shape):
            tests[m, *head] = stats.paired_difference(tuned[:, *head], base[:, *head], seed=seed)
            out[m, 7, *head] = tests[m, *head].p
    family = f"attention_shift, {len(tests)} differences"
    for (m, *head), test in zip(
        tests, stats.adjust(list(tests.values()), family=family, method=adjustment), strict=True
    ):
        out[m, 8, *head] = test.p_adjusted
    return out
