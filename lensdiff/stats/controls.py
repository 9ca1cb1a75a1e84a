"""An effect beside the effects of controls: meaningless changes of the same size, made with n seeds.

    rank   p = (1 + number of controls at least as extreme) / (1 + n)                  exact if all are exchangeable
    t      t = (effect - mean) / ( sd * sqrt(1 + 1/n) ),  n - 1 degrees of freedom     controls near normal
    band   mean -+ t_{n-1} * sd * sqrt(1 + 1/n)                                        holds one more control

The effect is one number: one p-value per claim, a statistic fixed beforehand. Per layer and head show the band and no
p. A plain z-score (effect - mean) / sd is not offered: with 5 controls it calls 15 % of meaningless changes
significant at the 5 % level.
"""

from dataclasses import replace
from typing import SupportsFloat

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats

from lensdiff.results.errors import InputError
from lensdiff.stats.result import Band, Test, from_standard_error, no_change
from lensdiff.stats.samples import (
    ROUNDING,
    NoVariation,
    check_alternative,
    check_level,
    is_constant,
    magnitude,
    numbers,
    observations,
)

FEWEST_FOR_RANK = 19  # p can reach 0.05; a headline uses 99 or more
FEWEST_FOR_T = 3
FEW_CONTROLS = f"one-sided from fewer than {FEWEST_FOR_RANK} controls: too often significant if they are skewed"


def control_rank(
    effect: SupportsFloat, control_effects: ArrayLike, *, alternative: str = "two-sided", level: float = 0.95
) -> Test:
    """Rank an effect among those of at least 19 controls: p = (1 + controls at least as extreme) / (1 + n).

    Two-sided, extreme means far from the median of effect and controls together, which keeps the rank exact and
    assumes no centre. The estimate is effect - median control; its interval holds the shifts of the effect that the
    two-sided rank would not reject; the statistic is the number of controls at least as extreme.

    Raises:
        InputError: fewer than 19 controls, too few for an interval at this level, or a value is not finite.
    """
    check_alternative(alternative)
    check_level(level)
    value = one_effect(effect)
    controls = observations(control_effects, "control_effects", least=1)
    n = len(controls)
    if n < FEWEST_FOR_RANK:
        raise InputError(f"a rank needs at least {FEWEST_FOR_RANK} controls, given {n}: use control_t")
    _rejected(n, level)
    if alternative == "two-sided":
        centre = np.median(np.append(controls, value))
        extreme = np.abs(controls - centre) >= abs(value - centre)
    else:
        extreme = controls >= value if alternative == "greater" else controls <= value
    smallest, largest = rank_band(controls, level=level)
    count = int(extreme.sum())
    return Test(
        "rank among controls",
        estimate=value - float(np.median(controls)),
        low=float(value - largest),
        high=float(value - smallest),
        level=level,
        statistic=float(count),
        n=(n,),
        p=(1 + count) / (1 + n),
        alternative=alternative,
    )


def rank_band(control_effects: ArrayLike, *, level: float = 0.95) -> Band:
    """Return between which values an effect is one more control by the two-sided rank, controls on axis 0.

    An effect lies outside (on a limit or beyond it) exactly when `control_rank` has a p of at most 1 - level.

    Raises:
        InputError: fewer than 19 controls, too few for this level, or a value is not finite.
    """
    check_level(level)
    controls: Float[np.ndarray, "control ..."] = numbers(control_effects, "control_effects")
    n = len(controls) if controls.ndim else 0
    if n < FEWEST_FOR_RANK:
        raise InputError(
            f"a rank band needs at least {FEWEST_FOR_RANK} controls on axis 0 of control_effects, "
            f"given shape {controls.shape}"
        )
    farthest, ordered = -_rejected(n, level), np.sort(controls, axis=0)
    # the medians of the controls and an effect that is far above, or far below, all of them
    up, down = (ordered[(n + 1) // 2] + ordered[n // 2]) / 2, (ordered[n // 2 - 1] + ordered[(n - 1) // 2]) / 2
    return Band(
        np.asarray(down - np.sort(np.abs(controls - down), axis=0)[farthest]),
        np.asarray(up + np.sort(np.abs(controls - up), axis=0)[farthest]),
    )


def control_t(
    effect: SupportsFloat, control_effects: ArrayLike, *, alternative: str = "two-sided", level: float = 0.95
) -> Test:
    """Test whether an effect could be one more control, from a few controls (at least 3) that are near normal.

    The estimate is effect - mean control, with its t interval. Controls without variation say nothing about chance:
    an effect that equals them is "no change" (p = 1), another one is refused. Near normal matters: toward the long
    tail of 3 or 5 exponential controls a one-sided p is at most 0.05 in 11 or 10 % of draws (two-sided in 8 %); one of
    fewer than 19 controls says so in its `warning`, and a verdict needs ranks (`envelope`).

    Raises:
        InputError: fewer than 3 controls, or a value that is not finite.
        NoVariation: the controls do not vary while the effect differs from them.
    """
    check_alternative(alternative)
    check_level(level)
    value = one_effect(effect)
    controls = observations(control_effects, "control_effects", least=FEWEST_FOR_T)
    n, scale = len(controls), magnitude(controls, np.array([value]))
    estimate = value - float(controls.mean())
    if is_constant(controls, scale):
        if abs(estimate) > ROUNDING * scale:
            raise NoVariation(
                f"all {n} controls have the effect {controls[0]:g} and the model has {value:g}: "
                "controls that do not vary allow no test, use controls with different seeds"
            )
        return no_change("control t", estimate, level=level, n=(n,), alternative=alternative)
    error = float(controls.std(ddof=1)) * np.sqrt(1 + 1 / n)
    found = from_standard_error("control t", estimate, error, n - 1.0, level=level, n=(n,), alternative=alternative)
    return found if n >= FEWEST_FOR_RANK or alternative == "two-sided" else replace(found, warning=FEW_CONTROLS)


def control_band(control_effects: ArrayLike, *, level: float = 0.95) -> Band:
    """Return where one more control falls with probability `level`: mean -+ t * sd * sqrt(1 + 1/n), controls on axis 0.

    One band per entry of the other axes (layer, head); an effect lies outside it exactly when control_t has a p below
    1 - level.

    Raises:
        InputError: fewer than 3 controls, or a value is not finite.
    """
    check_level(level)
    controls: Float[np.ndarray, "control ..."] = numbers(control_effects, "control_effects")
    n = len(controls) if controls.ndim else 0
    if n < FEWEST_FOR_T:
        raise InputError(
            f"a band needs at least {FEWEST_FOR_T} controls on axis 0 of control_effects, given shape {controls.shape}"
        )
    half = stats.t.ppf((1 + level) / 2, n - 1) * controls.std(axis=0, ddof=1) * np.sqrt(1 + 1 / n)
    centre = controls.mean(axis=0)
    return Band(np.asarray(centre - half), np.asarray(centre + half))


def _rejected(n: int, level: float) -> int:
    """Return how many of the n + 1 places of a rank are extreme at this level."""
    rejected = int((1 - level) * (n + 1) + 1e-9)
    if rejected < 1:
        needed = int(np.ceil(1 / (1 - level) - 1e-9)) - 1
        raise InputError(f"an interval at level {level} needs at least {needed} controls, given {n}")
    return rejected


def one_effect(effect: SupportsFloat) -> float:
    """Return the effect as a number.

    Raises:
        InputError: it is not one finite number.
    """
    value = numbers(effect, "effect")
    if value.size != 1:
        raise InputError(f"effect has shape {value.shape}, expected one number: per layer or head use control_band")
    return float(value.item())
