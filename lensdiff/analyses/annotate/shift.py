"""What tuning changed in the annotations of components: shares of tasks and linguistic levels (Table 5 and Figure 3).

    share of a label = annotations with the label / annotations of explainable components        [0, 1]
    explainable      = explained annotations / explained and unexplained ones
    difference       = tuned - base

As the paper: mean and (population) standard deviation over the annotator's seeds, and Welch's test over seeds
(`paper_p`). Seeds are readings of the same components, not samples, so that test makes a difference of annotators'
mood significant as easily as one of models. Beside it, with components as the observations, the seeds pooled:

    low, high            bootstrap interval of the difference, whole components resampled
    p, p_adjusted        Welch, over values z_c whose mean is the share: z_c = R + (x_c - R n_c) / mean(n), where x_c of
                         component c's n_c annotations carry the label and R = sum x / sum n
    equivalence_p        two one-sided tests that the difference lies within +- `bound`: "did not change"; NaN with
                         fewer than 12 components, or where all of a model's agree, which leaves "undecided"

Adjusted p-values are over the labels of a table. Components are taken as independent; neighbouring layers' are not
quite, so intervals are a little too narrow. Refused, malformed and rejected annotations are left out and counted.
Groups of layers show shares with intervals, and no p.
Reference: Wu et al., NAACL 2024, section 6, Table 5 and Figure 3; doi 10.18653/v1/2024.naacl-long.130.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.annotate.annotations import STATUSES, Annotations
from lensdiff.analyses.annotate.shares import (
    counts_of,
    labels_of,
    marks_of,
    share_interval,
    share_values,
    shares_over_seeds,
)
from lensdiff.analyses.mlp.components import Side
from lensdiff.results import InputError, Result
from lensdiff.results.numbers import check_count, check_seed
from lensdiff.results.tidy import tidy

STATISTICS = (
    *("base_mean", "base_std", "tuned_mean", "tuned_std", "difference", "low", "high"),
    *("p", "p_adjusted", "equivalence_p", "equivalence_p_adjusted", "paper_p"),
)
GROUP_STATISTICS = (
    *("base_share", "base_low", "base_high", "tuned_share", "tuned_low", "tuned_high"),
    *("difference", "low", "high"),
)
BOUND = 0.02
SIGNIFICANT = 0.05


@dataclass(frozen=True, eq=False)
class AnnotationShift(Result):
    """Shares of every label in both models; see the module for what each number is.

    Attributes:
        sides, labels, kinds: what the axes count; a label's kind is "explainable", "task", "task group" or "level".
        groups: groups of layers.
        bound: the difference up to which a share "did not change".
        statistics: axis `statistic` as `STATISTICS`; NaN where a test cannot be had.
        by_group: axis `group_statistic` as `GROUP_STATISTICS`.
        left_out: share of annotations without an answer, base and tuned.
    """

    calls = ("groups_df()", "top()", "to_df()", "show()")

    sides: tuple[Side, ...]
    labels: tuple[str, ...]
    kinds: tuple[str, ...]
    groups: tuple[str, ...]
    bound: float
    statistics: Float[Tensor, "side label statistic"]
    by_group: Float[Tensor, "side group label group_statistic"]
    left_out: tuple[float, float]

    def told(self) -> list[str]:
        """Return how many labels have each verdict, and the one that changed most."""
        counts = ", ".join(f"{n} {verdict}" for verdict, n in self.to_df().verdict.value_counts(sort=False).items())
        most: Any = self.top(1).iloc[0]
        return [f"labels: {counts}", f"changed most: {most.label} {most.difference:+.3g} ({most.verdict})"]

    def to_df(self) -> pd.DataFrame:
        """Return one row per side and label.

        Columns: side, label, kind; base_mean, base_std, tuned_mean, tuned_std (over seeds); difference with low and
        high; p and p_adjusted; equivalence_p and equivalence_p_adjusted; paper_p; verdict.
        """
        statistics = dict(zip(STATISTICS, self.statistics.unbind(-1), strict=True))
        frame = tidy({"side": self.sides, "label": self.labels}, {"kind": self.kinds} | statistics)
        rows = zip(frame.p_adjusted, frame.equivalence_p_adjusted, strict=True)
        return frame.assign(verdict=[self._verdict(p, alike) for p, alike in rows])

    def groups_df(self) -> pd.DataFrame:
        """Return one row per side, group of layers and label: side, group, label, kind, `GROUP_STATISTICS`."""
        statistics = dict(zip(GROUP_STATISTICS, self.by_group.unbind(-1), strict=True))
        axes = {"side": self.sides, "group": self.groups, "label": self.labels}
        return tidy(axes, {"kind": self.kinds} | statistics)

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k labels whose share changed most."""
        columns, frame = ["side", "label", "difference", "p_adjusted", "verdict"], self.to_df()
        return frame.loc[frame.difference.abs().nlargest(k).index].reset_index(drop=True).loc[:, columns]

    def _verdict(self, p: float, equivalence_p: float) -> str:
        # a comparison with NaN is false: what cannot be tested is undecided
        if equivalence_p <= SIGNIFICANT:
            within = f"within ±{self.bound:g}"
            return f"changed, but {within}" if p <= SIGNIFICANT else f"did not change ({within})"
        return "changed" if p <= SIGNIFICANT else "undecided"


def annotation_shift(
    base: Annotations,
    tuned: Annotations,
    *,
    bound: float = BOUND,
    layers_per_group: int = 4,
    n_resamples: int = 1999,
    level: float = 0.95,
    adjustment: str = "bh",
    seed: int = 0,
) -> AnnotationShift:
    """Return how the shares of tasks and linguistic levels differ, tuned - base.

    Args:
        base, tuned: annotations of the same layers by the same annotator with the same prompts.
        bound: the largest difference of shares that counts as no change.
        layers_per_group: layers of a group (the paper's Figure 3 has 8 groups of 4).
        n_resamples, seed: of the bootstrap over components.
        level: of the intervals.
        adjustment: false-discovery control over the labels of a side, "bh" or "by".

    Raises:
        InputError: the two were annotated differently, or an option cannot be used.
    """
    _check(base, tuned)
    check_count("layers_per_group", layers_per_group)
    check_seed(seed)
    if not bound > 0:
        raise InputError(f"bound is {bound}, expected the largest difference that counts as no change, above 0")
    labels = labels_of(base)
    groups = sorted({layer // layers_per_group for layer in base.layers})
    statistics, by_group = [], []
    for side in range(len(base.sides)):
        options = {"n_resamples": n_resamples, "level": level, "seed": seed}
        statistics.append(_table(base, tuned, side, bound=bound, adjustment=adjustment, **options))
        by_group.append([_group(base, tuned, side, group, layers_per_group, **options) for group in groups])
    recorded = {
        "base": base.provenance.model,
        "annotator": base.provenance.options,
        "bound": bound,
        "layers_per_group": layers_per_group,
        "n_resamples": n_resamples,
        "level": level,
        "adjustment": adjustment,
    }
    names = [[layer for layer in base.layers if layer // layers_per_group == group] for group in groups]
    return AnnotationShift(
        replace(tuned.provenance, analysis="annotation_shift", options=recorded, seed=seed),
        base.sides,
        tuple(label for label, _, _ in labels),
        tuple(kind for _, kind, _ in labels),
        tuple(f"{layers[0]}-{layers[-1]}" for layers in names),
        bound,
        torch.tensor(statistics, dtype=torch.float64),
        torch.tensor(by_group, dtype=torch.float64),
        (_left_out(base), _left_out(tuned)),
    )


def _check(base: Annotations, tuned: Annotations) -> None:
    for name in ("layers", "sides", "tasks", "levels", "groups"):
        mine, theirs = getattr(base, name), getattr(tuned, name)
        if mine != theirs:
            raise InputError(f"the tuned annotations have {name} {theirs}, the base's have {mine}: expected the same")
    for name in ("annotator", "prompts", "top_words", "temperature"):
        mine, theirs = (side.provenance.options.get(name) for side in (base, tuned))
        if mine != theirs:
            raise InputError(f"the tuned annotations were made with {name}={theirs!r}, the base's with {mine!r}")


def _left_out(annotations: Annotations) -> float:
    return float((annotations.status > STATUSES.index("unexplained")).double().mean())


def _table(
    base: Annotations,
    tuned: Annotations,
    side: int,
    *,
    bound: float,
    n_resamples: int,
    level: float,
    adjustment: str,
    seed: int,
) -> list[list[float]]:
    """Return a row of `STATISTICS` per label."""
    layers = list(range(len(base.layers)))
    rows, tests, alike = [], {}, {}
    both = zip(marks_of(base, side, layers), marks_of(tuned, side, layers), strict=True)
    for i, marks in enumerate(both):
        seeds = [shares_over_seeds(*m) for m in marks]
        counts = [counts_of(*m) for m in marks]
        row = dict.fromkeys(STATISTICS, np.nan)
        for name, values in zip(("base", "tuned"), seeds, strict=True):
            if len(values):
                row |= {f"{name}_mean": float(values.mean()), f"{name}_std": float(values.std())}
        row["paper_p"] = _over_seeds(seeds[1], seeds[0])
        if min(map(len, counts)) > 1:
            interval = stats.ratio_bootstrap(counts[1], counts[0], seed=seed, n_resamples=n_resamples, level=level)
            row |= {"difference": interval.estimate, "low": interval.low, "high": interval.high}
            values = [share_values(c) for c in counts]
            if (same := _equivalence(values[1], values[0], bound)) is not None:
                alike[i] = same
            tests[i] = _test(values[1], values[0], seed)
        rows.append(row)
    for name, found in (("p", tests), ("equivalence_p", alike)):
        adjusted = stats.adjust(list(found.values()), family=f"{len(found)} labels", method=adjustment)
        for i, test in zip(found, adjusted, strict=True):
            rows[i] |= {name: test.p, f"{name}_adjusted": test.p_adjusted}
    return [[row[name] for name in STATISTICS] for row in rows]


def _test(tuned: Float[np.ndarray, " n_tuned"], base: Float[np.ndarray, " n_base"], seed: int) -> stats.Test:
    try:
        return stats.welch(tuned, base)
    except stats.NoVariation:  # all of one model and none of the other: no t statistic
        return stats.permutation(tuned, base, seed=seed)


def _equivalence(
    tuned: Float[np.ndarray, " n_tuned"], base: Float[np.ndarray, " n_base"], bound: float
) -> stats.Test | None:
    try:
        return stats.equivalence(tuned, base, bound)
    except stats.NotTestable:  # too few components, or all of a model agree
        return None


def _over_seeds(tuned: Float[np.ndarray, " n_tuned"], base: Float[np.ndarray, " n_base"]) -> float:
    try:
        p = stats.welch(tuned, base).p
    except stats.NotTestable:  # one seed, or seeds that agree in each model, and differ between the two
        return np.nan
    return np.nan if p is None else p


def _group(
    base: Annotations,
    tuned: Annotations,
    side: int,
    group: int,
    layers_per_group: int,
    *,
    n_resamples: int,
    level: float,
    seed: int,
) -> list[list[float]]:
    """Return a row of `GROUP_STATISTICS` per label."""
    layers = [i for i, layer in enumerate(base.layers) if layer // layers_per_group == group]
    rows = []
    for marks in zip(marks_of(base, side, layers), marks_of(tuned, side, layers), strict=True):
        counts = [counts_of(*m) for m in marks]
        row = [value for c in counts for value in share_interval(c, level)]
        if min(map(len, counts)) > 1:
            change = stats.ratio_bootstrap(counts[1], counts[0], seed=seed, n_resamples=n_resamples, level=level)
            row += [change.estimate, change.low, change.high]
        else:
            row += [np.nan] * 3
        rows.append(row)
    return rows
