"""The mean of few, skewed differences: a bootstrap of the t statistic itself.

    t* = (mean of resample - mean) / (standard error of resample)         resamples of the n differences
    p  = (1 + resamples with t* at least as extreme as mean / error) / (1 + B), two-sided twice the smaller side

Skewed data make t skewed too, which the resamples show and Student's table cannot know. At the 5 % level exponential
differences are rejected in 7 % of draws at n = 5 and in 6 % at n = 12 (t test: 11 and 10 %), lognormal ones in 10
and 9 % (t test: 18 and 15 %), normal ones in 5 %. A resample without variation counts as extreme on its side, both
where its mean is the sample's: rare binary data are hardly ever rejected.

Reference: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 12.
"""

from functools import cache

import numpy as np
from jaxtyping import Float, Int

FEW = 20  # differences; with more of them a t test is near its level on moderately skewed data
RESAMPLES = 1999


def studentised_p(differences: Float[np.ndarray, " n"], *, alternative: str = "two-sided", seed: int = 0) -> float:
    """Return the p of the mean of differences that vary, against zero."""
    d = np.asarray(differences, dtype=np.float64)
    d = d / np.abs(d).max()  # the rounding below is relative
    n = len(d)
    t = d.mean() / (d.std(ddof=1) / np.sqrt(n))
    drawn = d[_resamples(n, seed)]
    moved, error = drawn.mean(axis=1) - d.mean(), drawn.std(axis=1, ddof=1) / np.sqrt(n)
    flat = error < 1e-12
    spread = np.round(moved / np.where(flat, 1.0, error), 9)
    above = np.where(flat, moved > -1e-12, spread >= np.round(t, 9)).sum()
    below = np.where(flat, moved < 1e-12, spread <= np.round(t, 9)).sum()
    p_above, p_below = ((1 + int(count)) / (1 + RESAMPLES) for count in (above, below))
    return {"greater": p_above, "less": p_below}.get(alternative, min(1.0, 2 * min(p_above, p_below)))


@cache
def _resamples(n: int, seed: int) -> Int[np.ndarray, "resample n"]:
    return np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
