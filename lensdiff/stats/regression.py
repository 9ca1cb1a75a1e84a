"""A group's effect on an outcome at equal covariate, by ordinary least squares.

    outcome = a + effect * group + c . covariate + error

By the theorem of Frisch and Waugh the effect is that of g, the group without what intercept and covariates explain of
it, on y, the outcome without the same: effect = g.y / g.g. With residuals e and leverages h, its variance is

    classical   sum(e^2) / (n - k - 2) / g.g                     k covariates; errors of equal variance
    HC3         sum( g^2 e^2 / (1 - h)^2 ) / (g.g)^2             errors of any variance

Rows of one prompt, one from each model, are related: errors that take them for independent have a level of 0.001
instead of 0.05 where prompts differ more than models do, and hide what there is. Name them by `pairs`, which only the
caller knows: then differences within pairs are regressed, and what a prompt does to both rows is gone.

    outcome's difference = effect + c . covariate's difference + error

It says nothing about causes, and takes the covariate's influence as linear.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from lensdiff.results.errors import InputError
from lensdiff.stats.result import Test, from_standard_error, no_change
from lensdiff.stats.samples import (
    ROUNDING,
    NoVariation,
    TooFew,
    check_alternative,
    check_level,
    magnitude,
    numbers,
    observations,
)

ERRORS = ("classical", "HC3")
COLLINEAR = 1e-10  # share of a column that others leave unexplained
FULL_LEVERAGE = 1e-10


def covariate(
    outcome: ArrayLike,
    group: ArrayLike,
    covariate: ArrayLike,
    *,
    errors: str = "classical",
    pairs: Sequence[Hashable] | None = None,
    alternative: str = "two-sided",
    level: float = 0.95,
) -> Test:
    """Test the effect of a group (1 against 0) on an outcome with a covariate beside it, for example response length.

    Args:
        outcome: [n] in the units of the estimate.
        group: [n] of 0 and 1 (or booleans); 1 is tuned, or followed.
        covariate: [n], or [n, k] for several; k = 0 gives the t test with pooled variance.
        errors: "classical" (equal variances) or "HC3" (any variances).
        pairs: [n] names of what two rows share, one of each group: prompt ids, where both models answered the prompts.
            A covariate that never differs within a pair is left out. k = 0 gives the paired t test.

    Raises:
        InputError: lengths differ, a value is not finite, a group is empty, several covariates are collinear, or a pair
            has not one row of each group.
        TooFew: fewer observations than the coefficients need.
        NoVariation: a covariate does not vary, or the group does not at equal covariate; or the fit leaves no residual
            and the groups differ.
    """
    check_alternative(alternative)
    check_level(level)
    if errors not in ERRORS:
        raise InputError(f"unknown errors {errors!r}, expected one of {', '.join(ERRORS)}")
    y, treated, values = _columns(outcome, group, covariate)
    scale, sizes = magnitude(y), (int(treated.sum()), int(len(y) - treated.sum()))
    if pairs is None:
        known = _intercept_and(values)
        return _effect(y, treated, known, errors, alternative, level, scale, sizes, known.shape[1] - 1)
    y, values = _differences(y, treated, values, pairs)
    return _effect(y, np.ones(len(y)), values, errors, alternative, level, scale, (len(y),), values.shape[1])


def _effect(
    y: Float[np.ndarray, " n"],
    treated: Float[np.ndarray, " n"],
    known: Float[np.ndarray, "n known"],
    errors: str,
    alternative: str,
    level: float,
    scale: float,
    sizes: tuple[int, ...],
    k: int,
) -> Test:
    """Return the test of the coefficient of `treated` beside the columns that are known, k of them covariates."""
    n, df = len(y), len(y) - known.shape[1] - 1.0
    basis, _ = np.linalg.qr(known)
    g, centred = _residual(treated, basis), _residual(y, basis)
    gg = float(g @ g)
    if gg <= COLLINEAR * n:
        raise NoVariation("group and covariate are collinear: the covariate alone tells the groups apart")
    effect = float(g @ centred) / gg
    residuals = centred - effect * g
    rounding = ROUNDING * scale * np.sqrt(n)
    name = "regression" if len(sizes) > 1 else "regression of differences"
    name, note = name if errors == "classical" else f"{name}, HC3", f"{k} covariate(s)"
    if np.linalg.norm(residuals) <= rounding:
        if abs(effect) * np.sqrt(gg) > rounding:
            raise NoVariation(
                f"{name}: the fit leaves no residual and the groups differ by {effect:g}, no test is possible"
            )
        return no_change(name, effect, level=level, n=sizes, alternative=alternative, note=f"{note}, no variation")
    if errors == "classical":
        variance = float(residuals @ residuals) / df / gg
    else:
        room = 1 - (basis**2).sum(axis=1) - g**2 / gg
        if room.min() < FULL_LEVERAGE:
            raise InputError(f"HC3: observation {int(room.argmin())} determines its own fit, use errors='classical'")
        variance = float(((g * residuals / room) ** 2).sum()) / gg**2
    return from_standard_error(
        name, effect, float(np.sqrt(variance)), df, level=level, n=sizes, alternative=alternative, note=note
    )


def _columns(
    outcome: ArrayLike, group: ArrayLike, covariate: ArrayLike
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], Float[np.ndarray, "n k"]]:
    """Return outcome, group and covariates, checked."""
    y, treated = observations(outcome, "outcome", least=0), observations(group, "group", least=0)
    values = numbers(covariate, "covariate")
    if values.ndim not in (1, 2):
        raise InputError(f"covariate has shape {values.shape}, expected [n] or [n, k]")
    values = values[:, None] if values.ndim == 1 else values
    if not len(y) == len(treated) == len(values):
        raise InputError(
            f"lengths differ: {len(y)} outcomes, {len(treated)} group labels and {len(values)} covariate values"
        )
    if set(np.unique(treated)) != {0.0, 1.0}:
        raise InputError(f"group holds {np.unique(treated).tolist()[:5]}, expected both 0 and 1 and nothing else")
    return y, treated, values


def _intercept_and(values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n known"]:
    """Return the intercept beside the standardised covariates."""
    n, k = values.shape
    if n < k + 3:
        raise TooFew(f"{n} observations, expected at least {k + 3} for {k} covariate(s)")
    spread = values.std(axis=0)
    if (spread <= ROUNDING * np.abs(values).max(axis=0)).any():
        raise NoVariation(f"covariate {int(spread.argmin())} does not vary")
    known = np.column_stack([np.ones(n), (values - values.mean(axis=0)) / spread])
    _check_independent(known, k)
    return known


def _differences(
    y: Float[np.ndarray, " n"],
    treated: Float[np.ndarray, " n"],
    values: Float[np.ndarray, "n k"],
    pairs: Sequence[Hashable],
) -> tuple[Float[np.ndarray, " pair"], Float[np.ndarray, "pair known"]]:
    """Return the differences within pairs of the outcome, and of those covariates that differ, in units of their size.

    They are not centred: the effect is the outcome's difference where the covariates' are zero.
    """
    if len(pairs) != len(y):
        raise InputError(f"lengths differ: {len(y)} outcomes and {len(pairs)} names of pairs")
    rows: dict[Hashable, list[int]] = {}
    for i, name in enumerate(pairs):
        rows.setdefault(name, []).append(i)
    for name, own in rows.items():
        if sorted(treated[own]) != [0.0, 1.0]:
            groups = ", ".join(f"{label:g}" for label in treated[own])
            raise InputError(f"pair {name!r} has rows of group {groups}, expected one of 0 and one of 1")
    after, before = (np.array([own[int(np.argmax(treated[own] == g))] for own in rows.values()]) for g in (1, 0))
    moved, scale = values[after] - values[before], np.abs(values).max(axis=0, initial=0.0)
    moved = moved[:, np.abs(moved).max(axis=0) > ROUNDING * scale]
    n, k = moved.shape
    if n < k + 2:
        raise TooFew(f"{n} pairs, expected at least {k + 2} for {k} covariate(s)")
    known = moved / np.sqrt((moved**2).mean(axis=0))
    _check_independent(known, k)
    return y[after] - y[before], known


def _check_independent(known: Float[np.ndarray, "n known"], k: int) -> None:
    if k and np.linalg.svd(known, compute_uv=False)[-1] ** 2 <= COLLINEAR * len(known):
        raise InputError(f"the {k} covariates are collinear")


def _residual(values: Float[np.ndarray, " n"], basis: Float[np.ndarray, "n known"]) -> Float[np.ndarray, " n"]:
    return values - basis @ (basis.T @ values)
