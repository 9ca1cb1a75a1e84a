"""Tests and intervals that assume no distribution: permutation, sign flip, bootstrap. All take a seed.

A test is exact (all rearrangements) when there are no more of them than `n_resamples`; otherwise B random ones give
p = (1 + k) / (1 + B) per side, k being at least as extreme. Two-sided p: twice the smaller side, at most 1.
"""

from collections.abc import Callable
from math import comb
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy import stats

from lensdiff.results.errors import InputError
from lensdiff.results.numbers import check_count
from lensdiff.stats.result import Test
from lensdiff.stats.samples import (
    check_alternative,
    check_level,
    is_constant,
    magnitude,
    numbers,
    observations,
    two_samples,
)
from lensdiff.stats.studentised import FEW

BATCH = 2**22  # float64 numbers that are resampled at once: 32 MB
FEWEST_RESAMPLES = 99  # p can reach 0.01 one-sided
NARROW = f"fewer than {FEW}, the interval is too narrow"
METHODS = ("BCa", "percentile", "basic")


def ratio_bootstrap(
    tuned: ArrayLike,
    base: ArrayLike,
    *,
    seed: int = 0,
    n_resamples: int = 1999,
    method: str = "percentile",
    level: float = 0.95,
) -> Test:
    """Return the difference of two shares with its bootstrap interval; observations are resampled, and there is no p.

    A sample is [observation, 2]: how often each observation counts, and out of how many. Its share is the ratio of the
    two sums, 0 where nothing was counted: so several annotations of one component are resampled together. With fewer
    than 20 observations in a sample `warning` says that the interval is too narrow.

    Raises:
        InputError: a sample is not of that shape, is too small, or an option does not exist.
    """
    check_level(level)
    _check_resamples(n_resamples)
    if method not in METHODS:
        raise InputError(f"unknown bootstrap method {method!r}, expected one of {', '.join(METHODS)}")
    t, b = (_counts(values, name) for values, name in ((tuned, "tuned"), (base, "base")))
    n, estimate = (len(t), len(b)), float(_ratio(t, np.arange(len(t))) - _ratio(b, np.arange(len(b))))
    name = f"bootstrap of shares, {method}"
    if all(is_constant(x[x[:, 1] > 0, 0] / x[x[:, 1] > 0, 1], 1.0) for x in (t, b) if (x[:, 1] > 0).any()):
        return Test(name, estimate, estimate, estimate, level, None, n, None, note="no variation")
    low, high = stats.bootstrap(
        (np.arange(len(t)), np.arange(len(b))),
        lambda i, j, axis: _ratio(t, i, axis) - _ratio(b, j, axis),
        vectorized=True,
        n_resamples=n_resamples,
        batch=_batch(len(t) + len(b)),
        confidence_level=level,
        method=method,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    note, warning = f"{n_resamples} resamples, seed {seed}", NARROW if min(n) < FEW else ""
    return Test(name, estimate, float(low), float(high), level, None, n, None, note=note, warning=warning)


def _counts(values: ArrayLike, name: str) -> Float[np.ndarray, "n 2"]:
    found = numbers(values, name)
    if found.ndim != 2 or found.shape[1] != 2 or len(found) < 2:
        raise InputError(f"{name} has shape {found.shape}, expected at least 2 rows of a count and its total")
    if (found < 0).any() or (found[:, 0] > found[:, 1]).any():
        raise InputError(f"{name} holds a count below 0 or above its total")
    return found


def _ratio(counts: Float[np.ndarray, "n 2"], index: Int[np.ndarray, "..."], axis: int = -1) -> Float[np.ndarray, "..."]:
    counted, total = (counts[:, column][index].sum(axis=axis) for column in (0, 1))
    return np.divide(counted, total, out=np.zeros_like(np.asarray(total)), where=np.asarray(total) > 0)


def permutation(
    tuned: ArrayLike, base: ArrayLike, *, seed: int = 0, n_resamples: int = 9999, alternative: str = "two-sided"
) -> Test:
    """Test whether two independent samples come from one distribution, by permuting labels; statistic: mean difference.

    Raises:
        InputError: a sample is unusable, or an option does not exist.
    """
    check_alternative(alternative)
    _check_resamples(n_resamples)
    t, b = two_samples(tuned, base)
    centre = float(np.concatenate([t, b]).mean())  # the difference stays, the digits are spent on what varies
    mean = _rounded_mean(magnitude(t - centre, b - centre))
    test: Any = stats.permutation_test(
        (t - centre, b - centre),
        lambda x, y, axis: mean(x, axis) - mean(y, axis),
        permutation_type="independent",
        vectorized=True,
        n_resamples=n_resamples,
        batch=_batch(len(t) + len(b)),
        alternative=alternative,
        rng=np.random.default_rng(seed),
    )
    exact = comb(len(t) + len(b), len(t)) <= n_resamples
    estimate = float(t.mean() - b.mean())
    return _test("permutation", estimate, (len(t), len(b)), test.pvalue, alternative, exact, n_resamples, seed)


def sign_flip(
    differences: ArrayLike, *, seed: int = 0, n_resamples: int = 9999, alternative: str = "two-sided"
) -> Test:
    """Test whether paired differences are symmetric about zero, by flipping signs; statistic: their mean.

    Raises:
        InputError: the sample is unusable, or an option does not exist.
    """
    check_alternative(alternative)
    _check_resamples(n_resamples)
    d = observations(differences, "differences")
    test: Any = stats.permutation_test(
        (d,),
        _rounded_mean(magnitude(d)),
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_resamples,
        batch=_batch(len(d)),
        alternative=alternative,
        rng=np.random.default_rng(seed),
    )
    exact = 2 ** len(d) <= n_resamples
    return _test("sign flip", float(d.mean()), (len(d),), test.pvalue, alternative, exact, n_resamples, seed)


def _test(
    name: str,
    estimate: float,
    n: tuple[int, ...],
    p: float,
    alternative: str,
    exact: bool,
    n_resamples: int,
    seed: int,
) -> Test:
    note = "exact" if exact else f"{n_resamples} resamples, seed {seed}"
    return Test(name, estimate, None, None, 0.95, estimate, n, float(p), alternative=alternative, note=note)


def _rounded_mean(scale: float) -> Callable[..., Float[np.ndarray, "..."]]:
    """Return a mean in units of `scale` without its last digits, so that no rounding error breaks a tie."""
    unit = scale or 1.0
    return lambda x, axis: np.round(np.mean(x / unit, axis=axis), 12)


def _batch(n: int) -> int:
    return max(1, BATCH // n)


def _check_resamples(n_resamples: int) -> None:
    check_count("n_resamples", n_resamples, least=FEWEST_RESAMPLES)
