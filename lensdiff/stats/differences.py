"""The one test of a mean difference, over prompts or over whatever else is paired, with its fallback inside.

    t            with its interval (`paired`, `one_sample`)
    sign flips   where every difference is the same and not zero: there is no t statistic, and no interval
    None         with fewer than two differences

A difference of zero everywhere is "no change" (p = 1). A mistake in the data (a value that is not finite, unequal
lengths) is refused, however few they are.
"""

from numpy.typing import ArrayLike

from lensdiff.stats.resampling import sign_flip
from lensdiff.stats.result import Test
from lensdiff.stats.samples import NoVariation, TooFew, numbers
from lensdiff.stats.t_tests import one_sample, paired


def paired_difference(
    tuned: ArrayLike, base: ArrayLike, *, alternative: str = "two-sided", level: float = 0.95, seed: int = 0
) -> Test | None:
    """Test the mean of paired differences, tuned[i] - base[i]; the module says by what, and when there is no test.

    Args:
        level: of the interval; seed: of the sign flips.

    Raises:
        InputError: a sample is unusable, the lengths differ, or an option does not exist.
    """
    try:
        return paired(tuned, base, alternative=alternative, level=level)
    except TooFew:
        return None
    except NoVariation:
        return sign_flip(numbers(tuned, "tuned") - numbers(base, "base"), alternative=alternative, seed=seed)


def mean_difference(
    values: ArrayLike, *, alternative: str = "two-sided", level: float = 0.95, seed: int = 0
) -> Test | None:
    """Test the mean of values that are differences by themselves against zero, as `paired_difference` does.

    Args:
        level: of the interval; seed: of the sign flips.

    Raises:
        InputError: the sample is unusable, or an option does not exist.
    """
    try:
        return one_sample(values, alternative=alternative, level=level)
    except TooFew:
        return None
    except NoVariation:
        return sign_flip(values, alternative=alternative, seed=seed)
