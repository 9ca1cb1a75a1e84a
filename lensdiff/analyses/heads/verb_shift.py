"""Do tuned heads relate more words to instruction verbs? The paper's Table 3, and what it takes to believe it.

    knowledge   of a head: its unordered lower-case word pairs, seen at least twice over its dimensions (both orders)
    c_v(head)   occurrences of verb v in that set
    share_v     heads with c_tuned > c_base / heads with c_tuned != c_base, within a group of layers    0.5: no drift

The paper's numbers: mean and standard deviation (population) of share_v over the instruction verbs and over general
verbs, each verb with a differing head, and Welch's test between them, two-sided. Their weakness: a verb with a base
count of zero can only rise, so its share is 1 by construction, and rare verbs have few differing heads. Beside them:

    coverage    share of the instruction verbs with at least `min_heads` differing heads; only such verbs count below
    matched     each instruction verb against up to `matches` control verbs of about its base count (`verb_counts`)
    difference  mean over matched verbs of share_v - mean share of its controls                     in [-1, 1]
    test        paired t over the matched verbs; "not testable" with fewer than `min_verbs` of them
    head test   sign flips over heads of d = mean over matched verbs of sign(c_tuned - c_base) less that of the controls
    band        the same difference of control models (meaningless changes of the base): the largest of those of all
                kinds, each of which holds one more with `level`

A share selects heads by the outcome, and of a verb with base count 0 it is 1 in 60 heads as in 6. What sees the
difference takes all heads, and holds a verb against those with about its base count and frequency (`verb_labels`):

    sign_mean   mean over all heads of sign(c_tuned - c_base)                              in [-1, 1]
    log_mean    mean over all heads of log(1 + c_tuned) - log(1 + c_base)
    T           mean over instruction verbs of x - mean of x over the verb's stratum, x = sign_mean or log_mean
    label test  T among those of 9,999 permutations of the labels within strata, two-sided
    beside      T of the whole model beside that of each kind of control (`beside`)

Verbs share heads, so a t test over verbs takes related observations for independent ones; the head test takes heads
for independent, which a changed row of the embedding moves all at once. The label test and the control models need
neither. Memory: one model's pairs at a time, if `controls` is a generator.

Reference: Wu et al., NAACL 2024, section 5 (Table 3); doi 10.18653/v1/2024.naacl-long.130; the rest is ours.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.heads.defaults import LAYERS_PER_GROUP
from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs, check_comparable
from lensdiff.analyses.heads.verb_counts import counts_of_heads, flat_heads, head_rises, layer_groups, shares
from lensdiff.analyses.heads.verb_groups import (
    GroupShift,
    Options,
    difference,
    group_shift,
    matched_verbs,
    with_band,
)
from lensdiff.analyses.heads.verb_labels import (
    TESTS,
    Labels,
    label_effects,
    labels_of,
    movement,
    with_family,
    with_label_tests,
)
from lensdiff.analyses.heads.verb_lists import listed_verbs, missing_verbs
from lensdiff.inputs.verbs import INSTRUCTION_VERBS
from lensdiff.inputs.vocabulary import Vocabulary
from lensdiff.models.given import check_results, results_on_controls
from lensdiff.models.progress import tracked
from lensdiff.results import InputError, Provenance, Result
from lensdiff.results.numbers import check_count, check_seed
from lensdiff.results.tidy import tidy

STATISTICS = ("sign", "log")


@dataclass(frozen=True, eq=False)
class VerbShift(Result):
    """The shares of every verb and layer group, and what they add up to; see the module.

    Attributes:
        verbs: the instruction verbs, then the control verbs; `n_instruction` of them are the former.
        groups: the groups of layers, in order.
        whole: all layers as one group.
        heads_up, heads_down: heads whose count rose and fell, per group and verb.
        base_count, tuned_count: each verb's count over a group's heads.
        layers, head_indices: that were read.
        head_base_count, head_tuned_count: each head's count of all instruction verbs.
        sign_mean, log_mean: each verb's, per group and (last) for the whole.
        control_differences: `difference` of every control model, per group and (last) for the whole; NaN: not testable.
        control_sign, control_log: T of every control model, of sign_mean and of log_mean.

    Controls are in the order of `provenance.controls`.
    """

    calls = ("summary()", "heads()", "top()", "to_df()", "show()")

    verbs: tuple[str, ...]
    n_instruction: int
    groups: tuple[GroupShift, ...]
    whole: GroupShift
    heads_up: Int[Tensor, "group verb"]
    heads_down: Int[Tensor, "group verb"]
    base_count: Int[Tensor, "group verb"]
    tuned_count: Int[Tensor, "group verb"]
    layers: tuple[int, ...]
    head_indices: tuple[int, ...]
    head_base_count: Int[Tensor, "layer head_index"]
    head_tuned_count: Int[Tensor, "layer head_index"]
    sign_mean: Float[Tensor, "group_and_whole verb"]
    log_mean: Float[Tensor, "group_and_whole verb"]
    control_differences: Float[Tensor, "control group_and_whole"]
    control_sign: Float[Tensor, "control group_and_whole"]
    control_log: Float[Tensor, "control group_and_whole"]

    @property
    def control_kinds(self) -> tuple[str, ...]:
        """The kind of every control."""
        return self.provenance.control_kinds

    def told(self) -> list[str]:
        """Return the test of the whole model, beside controls, and the verb that rose most."""
        test, beside = self.whole.label_test, self.beside() if self.provenance.controls else None
        lines = [f"T of all layers: {self.whole.label_note or 'not testable' if test is None else test}"]
        lines += [] if beside is None else [f"beside controls: {beside}"]
        verb: Any = self.top(1).iloc[0]
        most = f"rose most: {verb.verb!r}, in {verb.heads_up} heads (fell in {verb.heads_down})"
        return [*lines, most if verb.heads_up else "no instruction verb rose in any head"]

    def to_df(self) -> pd.DataFrame:
        """Return a row per verb and group of layers; share is NaN where no head differs.

        Columns: group, verb, kind, heads_up, heads_down, share, base_count, tuned_count, sign_mean, log_mean.
        """
        columns = {
            "kind": self._kinds(),
            "heads_up": self.heads_up,
            "heads_down": self.heads_down,
            "share": shares(self.heads_up.numpy(), self.heads_down.numpy()),
            "base_count": self.base_count,
            "tuned_count": self.tuned_count,
            "sign_mean": self.sign_mean[:-1],
            "log_mean": self.log_mean[:-1],
        }
        return tidy({"group": [group.group for group in self.groups], "verb": self.verbs}, columns)

    def heads(self) -> pd.DataFrame:
        """Return a row per head, those in which instruction verbs rose most first.

        Columns: layer, head_index, base_count and tuned_count (of all instruction verbs), rise (tuned - base).
        """
        return head_rises(self.layers, self.head_indices, self.head_base_count, self.head_tuned_count)

    def effects(self, statistic: str = "sign") -> tuple[float | None, list[float]]:
        """Return T of the whole model (None: not testable) and that of every control, of "sign" or "log" means.

        Raises:
            InputError: there is no such statistic.
        """
        if statistic not in STATISTICS:
            raise InputError(f"statistic={statistic!r} is none of {', '.join(STATISTICS)}")
        test = self.whole.label_test if statistic == "sign" else self.whole.log_label_test
        controls = self.control_sign if statistic == "sign" else self.control_log
        return None if test is None else test.estimate, controls[:, -1].tolist()

    def beside(self, statistic: str = "sign") -> stats.Envelope | None:
        """Return T of the whole model beside that of each kind of control; None without controls, or not testable.

        Raises:
            InputError: there is no such statistic.
        """
        effect, controls = self.effects(statistic)
        if effect is None:
            return None
        level = self.provenance.options["level"]
        return stats.against_controls(effect, stats.by_kind(controls, self.control_kinds), level=level).envelope

    def summary(self) -> pd.DataFrame:
        """Return a row per group and one for the whole model: the fields of `GroupShift`, tests as p and sentence.

        Columns `paper_test`, `test`, `head_test`, `label_test` and `log_label_test` hold sentences, the same names with
        `_p` their p-values, and with `_p_adjusted` those adjusted over the row.
        """
        rows = []
        for group in (*self.groups, self.whole):
            row = asdict(group)
            for name in TESTS:
                found: stats.Test | None = getattr(group, name)
                row[name] = None if found is None else str(found)
                row[f"{name}_p"] = np.nan if found is None else found.p
                row[f"{name}_p_adjusted"] = np.nan if found is None else found.p_adjusted
            rows.append(row)
        return pd.DataFrame(rows)

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k instruction verbs that rose in most heads more than they fell, over the whole model."""
        up, down = (x.sum(dim=0)[: self.n_instruction].numpy() for x in (self.heads_up, self.heads_down))
        frame = pd.DataFrame({"verb": self.verbs[: self.n_instruction], "heads_up": up, "heads_down": down})
        order = np.argsort(down - up, kind="stable")[:k]
        whole = {name: getattr(self, name)[-1, : self.n_instruction].numpy() for name in ("sign_mean", "log_mean")}
        return frame.assign(share=shares(up, down), **whole).iloc[order].reset_index(drop=True)

    def _kinds(self) -> list[str]:
        return ["instruction"] * self.n_instruction + ["control"] * (len(self.verbs) - self.n_instruction)


def verb_shift(
    base: HeadWordPairs,
    tuned: HeadWordPairs,
    *,
    verbs: Sequence[str] = INSTRUCTION_VERBS,
    control_verbs: Sequence[str] | None = None,
    layers_per_group: int = LAYERS_PER_GROUP,
    frequencies: Vocabulary | None = None,
    controls: Iterable[HeadWordPairs] = (),
    min_seen: int = 2,
    min_heads: int = 5,
    min_verbs: int = 5,
    matches: int = 5,
    level: float = 0.95,
    seed: int = 0,
) -> VerbShift:
    """Return in how many heads each verb's count rose, by groups of layers, tuned - base.

    Args:
        base, tuned, controls: word pairs found with the same words, vectors and options; controls are those of
            `pair.control(kind, seed)`, at least 19 of each kind for a band.
        verbs, control_verbs: by default the paper's instruction verbs, and the shipped general verbs without `verbs`.
        layers_per_group: layers 0 to 7 are the first group of 8.
        frequencies: the list whose frequencies form strata, best the heads' own; the shipped one by default. Verbs that
            it lacks are strata of their own.
        min_seen: how often a pair is seen before it counts as a head's knowledge.
        min_heads, min_verbs, matches: differing heads per verb, matched verbs per test, controls per verb.
        level: of the controls' band; seed: of the sign flips and permutations.

    Raises:
        InputError: the results are not comparable, a verb is listed twice, or an option is out of range.
    """
    for given in (base, tuned):
        check_results(given, HeadWordPairs, "verb_shift", "head_word_pairs")
    controls = results_on_controls(controls, HeadWordPairs, "verb_shift", "head_word_pairs")
    listed = listed_verbs(verbs, control_verbs)
    numbers = {
        "layers_per_group": layers_per_group,
        "min_seen": min_seen,
        "min_heads": min_heads,
        "min_verbs": min_verbs,
        "matches": matches,
    }
    _check(numbers)
    check_seed(seed)
    check_comparable(base, tuned, "tuned")
    before, after = (counts_of_heads(x, listed, min_seen=min_seen).numpy() for x in (base, tuned))
    options = Options(len(verbs), min_heads, min_verbs, matches, seed)
    groups = layer_groups(base.layers, layers_per_group)
    frequencies = Vocabulary.default() if frequencies is None else frequencies
    labels = labels_of(listed, len(verbs), base.words, frequencies)
    sides = {name: (flat_heads(before[rows]), flat_heads(after[rows])) for name, rows in groups.items()}
    origins, beside = _control_effects(base, before, controls, listed, groups, min_seen, options, labels)
    recorded = {"base": base.provenance.model, "heads": base.provenance.options, "level": level}
    recorded |= numbers | missing_verbs(listed, len(verbs), base.words) | {"frequencies": frequencies.source}
    provenance = replace(tuned.provenance, analysis="verb_shift", options=recorded, seed=seed).beside(origins)
    kinds = provenance.control_kinds
    found = [
        with_family(
            with_label_tests(with_band(group_shift(name, *x, options), own, kinds, level), *x, labels, seed=seed)
        )
        for (name, x), own in zip(sides.items(), beside[..., 0].T, strict=True)
    ]
    moved = np.stack([np.stack(movement(*both)) for both in sides.values()], axis=1)
    of_groups = list(groups.values())[:-1]
    up, down, base_count, tuned_count = (
        torch.from_numpy(np.stack([x[rows].sum(axis=(0, 1)) for rows in of_groups]).astype(np.int64))
        for x in (after > before, after < before, before, after)
    )
    return VerbShift(
        provenance,
        listed,
        len(verbs),
        tuple(found[:-1]),
        found[-1],
        up,
        down,
        base_count,
        tuned_count,
        base.layers,
        base.heads,
        *(torch.from_numpy(x[..., : len(verbs)].sum(axis=-1).astype(np.int64)) for x in (before, after)),
        *(torch.from_numpy(values) for values in (*moved, *np.moveaxis(beside, 2, 0).copy())),
    )


def _control_effects(
    base: HeadWordPairs,
    before: Int[np.ndarray, "layer head_index verb"],
    controls: Iterable[HeadWordPairs],
    listed: tuple[str, ...],
    groups: dict[str, Int[np.ndarray, " row"]],
    min_seen: int,
    options: Options,
    labels: Labels,
) -> tuple[list[Provenance], Float[np.ndarray, "control group 3"]]:
    """Return where the controls' pairs come from, and each one's difference and T of both statistics, by group."""
    origins, effects = [], []
    for i, control in enumerate(tracked(controls, "comparing controls")):
        check_comparable(base, control, f"control {i}")
        changed = counts_of_heads(control, listed, min_seen=min_seen).numpy()
        sides = [(flat_heads(before[rows]), flat_heads(changed[rows])) for rows in groups.values()]
        effects.append([(difference(matched_verbs(*x, options), options), *label_effects(*x, labels)) for x in sides])
        origins.append(control.provenance)
    return origins, np.array(effects, dtype=np.float64).reshape(len(origins), len(groups), 3)


def _check(numbers: dict[str, int]) -> None:
    for name, value in numbers.items():
        least = stats.FEWEST_PAIRS if name == "min_verbs" else 1  # a test needs as many
        check_count(name, value, least=least)
