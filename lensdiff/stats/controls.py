"""An effect beside the same effect of controls of one kind: meaningless changes of the same size, made with n seeds.

    rank   p = (1 + number of controls at least as extreme) / (1 + n)                  exact if all are exchangeable
    band   the values of one more control whose p is above 1 - level

The effect is one number: one p-value per claim, a statistic fixed beforehand. Per layer and head show the band and no
p. A plain z-score (effect - mean) / sd is not offered: with 5 controls it calls 15 % of meaningless changes
significant at the 5 % level.
"""

from typing import SupportsFloat

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from lensdiff.results.errors import InputError
from lensdiff.stats.result import Band, Test
from lensdiff.stats.samples import TooFew, check_alternative, check_level, numbers, observations

FEWEST_FOR_RANK = 19  # p can reach 0.05; a headline uses 99 or more


def control_rank(
    effect: SupportsFloat, control_effects: ArrayLike, *, alternative: str = "two-sided", level: float = 0.95
) -> Test:
    """Rank an effect among those of at least 19 controls: p = (1 + controls at least as extreme) / (1 + n).

    Two-sided, extreme means far from the median of effect and controls together, which keeps the rank exact and
    assumes no centre. The estimate is effect - median control; its interval holds the shifts of the effect that the
    two-sided rank would not reject; the statistic is the number of controls at least as extreme.

    Raises:
        InputError: too few controls for an interval at this level, or a value is not finite.
        TooFew: fewer than 19 controls.
    """
    check_alternative(alternative)
    check_level(level)
    value = _one_effect(effect)
    controls = observations(control_effects, "control_effects", least=1)
    n = len(controls)
    if n < FEWEST_FOR_RANK:
        raise TooFew(f"a rank needs at least {FEWEST_FOR_RANK} controls, given {n}")
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
        InputError: too few controls for this level, or a value is not finite.
        TooFew: fewer than 19 controls.
    """
    check_level(level)
    controls: Float[np.ndarray, "control ..."] = numbers(control_effects, "control_effects")
    n = len(controls) if controls.ndim else 0
    if n < FEWEST_FOR_RANK:
        raise TooFew(
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


def _rejected(n: int, level: float) -> int:
    """Return how many of the n + 1 places of a rank are extreme at this level."""
    rejected = int((1 - level) * (n + 1) + 1e-9)
    if rejected < 1:
        needed = int(np.ceil(1 / (1 - level) - 1e-9)) - 1
        raise InputError(f"an interval at level {level} needs at least {needed} controls, given {n}")
    return rejected


def _one_effect(effect: SupportsFloat) -> float:
    value = numbers(effect, "effect")
    if value.size != 1:
        raise InputError(f"effect has shape {value.shape}, expected one number")
    return float(value.item())
