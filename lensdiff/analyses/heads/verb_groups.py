"""What one group of layers shows of the verbs: the paper's numbers, and the matched ones; formulas in `verb_shift`.

Reference: Wu et al., NAACL 2024, section 5 (Table 3); doi 10.18653/v1/2024.naacl-long.130; the matching is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lensdiff import stats
from lensdiff.analyses.heads.verb_counts import matched_controls, shares

Counts = Int[np.ndarray, "head_index verb"]


@dataclass(frozen=True)
class GroupShift:
    """What one group of layers shows; None where a number cannot be had, with the reason in `note`.

    The p-values of a group are one family: each test has its adjusted p beside its own.

    Attributes:
        group: its layers, "0-7", or "all".
        n, mean, std: instruction verbs with a differing head, and their shares; control_n and so on: control verbs'.
        paper_test: Welch's test between the two.
        coverage: share of the instruction verbs with enough differing heads; n_matched: those that have controls.
        matched_mean, matched_control_mean, difference, test, head_test: of the matched verbs.
        band_low, band_high: where one more control model's difference lies.
        label_test, log_label_test: labels permuted, of sign_mean and log_mean; the estimates are T.
        label_note: why there are none.
    """

    group: str
    n: int
    mean: float | None
    std: float | None
    control_n: int
    control_mean: float | None
    control_std: float | None
    paper_test: stats.Test | None
    coverage: float
    n_matched: int
    matched_mean: float | None = None
    matched_control_mean: float | None = None
    difference: float | None = None
    test: stats.Test | None = None
    head_test: stats.Test | None = None
    note: str = ""
    band_low: float | None = None
    band_high: float | None = None
    label_test: stats.Test | None = None
    log_label_test: stats.Test | None = None
    label_note: str = ""


class Options(NamedTuple):
    """What the matched numbers depend on; the first `n_instruction` verbs are instruction verbs, the rest controls."""

    n_instruction: int
    min_heads: int
    min_verbs: int
    matches: int
    seed: int


class Matched(NamedTuple):
    """The instruction verbs with enough differing heads and controls, and those controls, as indices of verbs."""

    covered: int
    verbs: list[int]
    controls: list[list[int]]
    shares: Float[np.ndarray, " verb"]
    control_shares: Float[np.ndarray, " verb"]


def matched_verbs(base: Counts, tuned: Counts, options: Options) -> Matched:
    """Return the matched verbs of a group of heads, with their shares and the mean shares of their controls."""
    up, down = (tuned > base).sum(axis=0), (tuned < base).sum(axis=0)
    share, total = shares(up, down), base.sum(axis=0)
    enough = up + down >= options.min_heads
    verbs = np.flatnonzero(enough[: options.n_instruction])
    others = np.flatnonzero(enough[options.n_instruction :]) + options.n_instruction
    found = matched_controls(total[verbs], total[others], matches=options.matches)
    both = [(int(verb), others[own].tolist()) for verb, own in zip(verbs, found, strict=True) if own]
    chosen, controls = [verb for verb, _ in both], [own for _, own in both]
    beside = np.array([share[own].mean() for own in controls], dtype=np.float64)
    return Matched(len(verbs), chosen, controls, share[chosen], beside)


def difference(matched: Matched, options: Options) -> float:
    """Return the mean share of the matched verbs less that of their controls; NaN with fewer than `min_verbs`."""
    if len(matched.verbs) < options.min_verbs:
        return float("nan")
    return float((matched.shares - matched.control_shares).mean())


def head_differences(base: Counts, tuned: Counts, matched: Matched) -> Float[np.ndarray, " head_index"]:
    """Return each head's mean over matched verbs of sign(c_tuned - c_base), less that of their controls; in [-2, 2]."""
    rose = np.sign(tuned.astype(np.int64) - base)
    beside = np.stack([rose[:, own].mean(axis=1) for own in matched.controls], axis=1)
    return (rose[:, matched.verbs] - beside).mean(axis=1)


def group_shift(name: str, base: Counts, tuned: Counts, options: Options) -> GroupShift:
    """Return what a group of heads shows, before control models stand beside it."""
    up, down = (tuned > base).sum(axis=0), (tuned < base).sum(axis=0)
    share, differs, is_instruction = shares(up, down), up + down > 0, np.arange(len(up)) < options.n_instruction
    instruction, control = share[differs & is_instruction], share[differs & ~is_instruction]
    matched = matched_verbs(base, tuned, options)
    group = GroupShift(
        name,
        len(instruction),
        *_mean_and_std(instruction),
        len(control),
        *_mean_and_std(control),
        _welch(instruction, control),
        matched.covered / options.n_instruction,
        len(matched.verbs),
    )
    if len(matched.verbs) < options.min_verbs:
        note = (
            f"not testable: {len(matched.verbs)} of {options.n_instruction} verbs have {options.min_heads} differing "
            f"heads and controls of equal base count, expected at least {options.min_verbs}"
        )
        return replace(group, note=note)
    heads = head_differences(base, tuned, matched)
    return replace(
        group,
        matched_mean=float(matched.shares.mean()),
        matched_control_mean=float(matched.control_shares.mean()),
        difference=difference(matched, options),
        test=stats.paired_difference(matched.shares, matched.control_shares, seed=options.seed),
        head_test=_sign_flip(heads, options.seed),
    )


def with_band(
    group: GroupShift, differences: Float[np.ndarray, " control"], kinds: Sequence[str], level: float
) -> GroupShift:
    """Return the group with the band of the control models in which it is testable, if they are enough."""
    testable = ~np.isnan(differences)
    of = [kind for kind, known in zip(kinds, testable, strict=True) if known]
    low, high = stats.against_controls(None, stats.by_kind(differences[testable], of), level=level).band
    return group if np.isnan(low) else replace(group, band_low=float(low), band_high=float(high))


def _mean_and_std(values: Float[np.ndarray, " verb"]) -> tuple[float | None, float | None]:
    return (float(values.mean()), float(values.std())) if len(values) else (None, None)


def _welch(instruction: Float[np.ndarray, " verb"], control: Float[np.ndarray, " control"]) -> stats.Test | None:
    try:
        return stats.welch(instruction, control)
    except stats.NotTestable:  # one verb alone, or neither list varies, and they differ
        return None


def _sign_flip(heads: Float[np.ndarray, " head_index"], seed: int) -> stats.Test | None:
    try:
        return stats.sign_flip(heads, seed=seed)
    except stats.TooFew:  # one head alone
        return None
