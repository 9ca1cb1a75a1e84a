"""What a statistic accepts: finite numbers, enough of them, and options that exist; everything else is refused here."""

from typing import Any, SupportsFloat, cast

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from lensdiff.results.errors import InputError


class NotTestable(InputError):
    """The data are sound, and this test cannot be had of them: a table leaves a gap, or another test stands in.

    Whatever else a statistic refuses (a value that is no number, lengths that differ) is a mistake, and looked for
    first: few data hide none.
    """


class NoVariation(NotTestable):
    """The data do not vary, so this test knows no chance to hold a difference against."""


class TooFew(NotTestable):
    """There are fewer observations than the test needs."""


FEWEST_PAIRS = 2  # that an interval can be had from
ALTERNATIVES = ("two-sided", "greater", "less")
ROUNDING = 64 * float(np.finfo(np.float64).eps)  # relative to the largest number that went in


def numbers(values: ArrayLike | SupportsFloat, name: str) -> Float[np.ndarray, "..."]:
    """Return the values in float64, of any shape.

    Raises:
        InputError: something in it is no number, or not finite.
    """
    try:
        array = np.asarray(cast(Any, values), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be an array of numbers ({error})") from error
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        index = ", ".join(str(i) for i in bad[0])
        where = f"{name}[{index}]" if index else name
        raise InputError(
            f"{where} is {array[tuple(bad[0])]}, expected finite values ({len(bad)} of {array.size} are not)"
        )
    return array


def observations(values: ArrayLike, name: str, *, least: int = 2) -> Float[np.ndarray, " n"]:
    """Return one sample in float64.

    Raises:
        InputError: it is not one-dimensional, or holds not only finite numbers.
        TooFew: it holds fewer than `least` observations.
    """
    array = numbers(values, name)
    if array.ndim != 1:
        raise InputError(f"{name} has shape {array.shape}, expected one axis")
    return enough(array, name, least=least)


def enough(sample: Float[np.ndarray, "n ..."], name: str, *, least: int = 2) -> Float[np.ndarray, "n ..."]:
    """Return the sample.

    Raises:
        TooFew: it holds fewer than `least` observations.
    """
    if len(sample) < least:
        raise TooFew(f"{name} has {len(sample)} observation(s), expected at least {least}")
    return sample


def two_samples(
    tuned: ArrayLike, base: ArrayLike
) -> tuple[Float[np.ndarray, " n_tuned"], Float[np.ndarray, " n_base"]]:
    """Return two independent samples in float64.

    Raises:
        InputError: one of them is no sample, whatever the other's number.
        TooFew: one of them holds fewer than two observations.
    """
    t, b = observations(tuned, "tuned", least=0), observations(base, "base", least=0)
    return enough(t, "tuned"), enough(b, "base")


def pairs(tuned: ArrayLike, base: ArrayLike) -> tuple[Float[np.ndarray, " pair"], float]:
    """Return the differences tuned - base and the largest magnitude that went into them.

    Raises:
        InputError: the samples differ in length, or one is not a sample.
        TooFew: there are fewer than two pairs.
    """
    t, b = observations(tuned, "tuned", least=0), observations(base, "base", least=0)
    if len(t) != len(b):
        raise InputError(f"paired data need equal lengths, given {len(t)} tuned and {len(b)} base observations")
    if len(t) < FEWEST_PAIRS:
        raise TooFew(f"{len(t)} pair(s) given, expected at least {FEWEST_PAIRS}")
    return t - b, magnitude(t, b)


def magnitude(*arrays: Float[np.ndarray, "..."]) -> float:
    """Return the largest absolute value, the scale of rounding errors."""
    return max(float(np.abs(a).max()) for a in arrays)


def is_constant(values: Float[np.ndarray, " n"], scale: float) -> bool:
    """Return whether the values differ by no more than rounding errors of numbers as large as `scale`."""
    return float(np.ptp(values)) <= ROUNDING * scale


def check_alternative(alternative: str) -> None:
    """Raise InputError for an alternative that does not exist."""
    if alternative not in ALTERNATIVES:
        raise InputError(f"unknown alternative {alternative!r}, expected one of {', '.join(ALTERNATIVES)}")


def check_level(level: float) -> None:
    """Raise InputError for a level of confidence that is not strictly between 0 and 1."""
    if not 0 < level < 1:
        raise InputError(f"level is {level}, expected a number between 0 and 1 such as 0.95")
