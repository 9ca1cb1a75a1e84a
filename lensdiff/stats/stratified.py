"""Labels permuted within strata: does a group differ from others that are alike in what would confound it?

    T = mean over the group of ( x - mean of x over its stratum )        the stratum's mean is of both labels
    p = (1 + permutations with T at least as extreme) / (1 + B) per side, two-sided twice the smaller, at most 1

A stratum that holds one label only says nothing, and is left out. Exact under any distribution of x whose labels are
exchangeable within strata, whatever the observations share. Memory: a batch of about 32 MB of random keys.
"""

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from lensdiff.results.errors import InputError
from lensdiff.results.numbers import check_count
from lensdiff.stats.resampling import BATCH, FEWEST_RESAMPLES
from lensdiff.stats.result import Test
from lensdiff.stats.samples import check_alternative, numbers


def stratified_permutations(
    values: ArrayLike,
    group: ArrayLike,
    strata: ArrayLike,
    *,
    seed: int = 0,
    n_resamples: int = 9999,
    alternative: str = "two-sided",
) -> list[Test]:
    """Test whether the group's values differ from those of its strata: a test per statistic, of the same permutations.

    The estimate is T, n counts group and others in strata with both labels, and the note says what was left out.

    Args:
        values: [statistic, n] statistics of the same n observations.
        group: [n] of 0 and 1 (or booleans); 1 is the group.
        strata: [n] numbers that name each observation's stratum.

    Raises:
        InputError: shapes differ, a value is not finite, no stratum holds both labels, or an option does not exist.
    """
    check_alternative(alternative)
    check_count("n_resamples", n_resamples, least=FEWEST_RESAMPLES)
    x, member, rows = _checked(values, group, strata)
    kept = [own for own in rows if 0 < member[own].sum() < len(own)]
    if not kept:
        raise InputError(f"none of {len(rows)} strata holds both labels, expected at least one")
    rng, n_group = np.random.default_rng(seed), sum(int(member[own].sum()) for own in kept)
    effects, permuted = stratified_effects(x, member, strata), np.zeros((len(x), n_resamples))
    for own in kept:
        centred = x[:, own] - x[:, own].mean(axis=1, keepdims=True)
        permuted += _sums(centred, int(member[own].sum()), n_resamples, rng) / n_group
    unit = np.abs(x).max(axis=1, keepdims=True) + np.finfo(np.float64).tiny
    t, drawn = (np.round(v / unit, 12) for v in (effects[:, None], permuted))  # no rounding error breaks a tie
    above, below = ((1 + side.sum(axis=1)) / (1 + n_resamples) for side in (drawn >= t, drawn <= t))
    p = {"greater": above, "less": below}.get(alternative, np.minimum(1.0, 2 * np.minimum(above, below)))
    out, lost = len(rows) - len(kept), int(member.sum()) - n_group
    note = f"{n_resamples} permutations in {len(kept)} strata, seed {seed}"
    if out:
        note += f"; {out} strata without both labels left out, with {lost} of the group"
    sizes = n_group, sum(len(own) for own in kept) - n_group
    name = "labels permuted in strata"
    return [
        Test(name, float(e), None, None, 0.95, float(e), sizes, float(q), alternative=alternative, note=note)
        for e, q in zip(effects, p, strict=True)
    ]


def stratified_effects(values: ArrayLike, group: ArrayLike, strata: ArrayLike) -> Float[np.ndarray, " statistic"]:
    """Return T of every row of `values` [statistic, n] without a test; NaN where no stratum holds both labels."""
    x, member, rows = _checked(values, group, strata)
    kept = [own for own in rows if 0 < member[own].sum() < len(own)]
    if not kept:
        return np.full(len(x), np.nan)
    sums = [(x[:, own] - x[:, own].mean(axis=1, keepdims=True))[:, member[own]].sum(axis=1) for own in kept]
    return np.sum(sums, axis=0) / sum(int(member[own].sum()) for own in kept)


def _sums(
    centred: Float[np.ndarray, "statistic n"], k: int, n_resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "statistic resample"]:
    """Return the sums over `n_resamples` random subsets of k observations."""
    n = centred.shape[1]
    few = min(k, n - k)  # the rest sums to the same with the other sign
    batch, sums = max(1, BATCH // n), []
    for start in range(0, n_resamples, batch):
        keys = rng.random((min(batch, n_resamples - start), n))
        chosen = np.argpartition(keys, few - 1, axis=1)[:, :few]
        sums.append(centred[:, chosen].sum(axis=2))
    return np.concatenate(sums, axis=1) * (1 if few == k else -1)


def _checked(
    values: ArrayLike, group: ArrayLike, strata: ArrayLike
) -> tuple[Float[np.ndarray, "statistic n"], Bool[np.ndarray, " n"], list[np.ndarray]]:
    """Return the values, who is of the group, and the observations of each stratum."""
    x, labels, names = numbers(values, "values"), numbers(group, "group"), numbers(strata, "strata")
    if x.ndim != 2 or labels.ndim != 1 or names.ndim != 1 or not x.shape[1] == len(labels) == len(names):
        raise InputError(
            f"values of shape {x.shape[-1:]}, group of {labels.shape} and strata of {names.shape} given, "
            "expected one of each per observation"
        )
    if not set(np.unique(labels)) <= {0.0, 1.0}:
        raise InputError(f"group holds {np.unique(labels).tolist()[:5]}, expected 0 and 1 and nothing else")
    return x, labels == 1, [np.flatnonzero(names == name) for name in np.unique(names)]
