"""The bootstrap of shares: by hand, against the delta method, its coverage, and its errors."""

import numpy as np
import pytest

from lensdiff import stats
from lensdiff.analyses.annotate.shares import share_interval, share_values
from lensdiff.analyses.annotate.shift import _equivalence, _over_seeds, _test
from lensdiff.results import InputError


def sample(n: int, share: float, rng: np.random.Generator, *, of: int = 5) -> np.ndarray:
    """n components, each with a probability of its own around a share, annotated up to `of` times."""
    total = rng.integers(1, of + 1, n)
    own = rng.beta(4 * share, 4 * (1 - share), n)
    return np.stack([rng.binomial(total, own), total], axis=1).astype(float)


def test_the_estimate_is_the_difference_of_the_ratios_of_sums() -> None:
    tuned, base = [[1, 2], [3, 3], [0, 5]], [[1, 4], [1, 4]]
    found = stats.ratio_bootstrap(tuned, base)
    assert found.estimate == pytest.approx(4 / 10 - 2 / 8)
    assert (found.n, found.p) == ((3, 2), None)
    assert "1999 resamples, seed 0" in str(found)


def test_the_interval_is_that_of_the_delta_method() -> None:
    rng = np.random.default_rng(0)
    tuned, base = sample(800, 0.4, rng), sample(700, 0.3, rng)
    found = stats.ratio_bootstrap(tuned, base, seed=1)
    values = share_values(tuned), share_values(base)
    for x, counts in zip(values, (tuned, base), strict=True):
        assert x.mean() == pytest.approx(counts[:, 0].sum() / counts[:, 1].sum())
    welch = stats.welch(*values)
    assert welch.estimate == pytest.approx(found.estimate)
    bca = stats.ratio_bootstrap(tuned, base, method="BCa")
    for other in (welch, bca):
        assert (other.low, other.high) == pytest.approx((found.low, found.high), abs=0.006)


def test_the_intervals_hold_the_true_difference_as_often_as_they_say() -> None:
    held, single = [], []
    for draw in range(200):
        rng = np.random.default_rng(draw)
        tuned, base = sample(80, 0.5, rng), sample(80, 0.4, rng)
        found = stats.ratio_bootstrap(tuned, base, seed=draw, n_resamples=199)
        assert found.low is not None
        assert found.high is not None
        held.append(found.low <= 0.1 <= found.high)
        _, low, high = share_interval(tuned, 0.95)
        single.append(low <= 0.5 <= high)
    assert 0.89 <= np.mean(held) <= 0.99
    assert 0.90 <= np.mean(single) <= 0.99


def test_annotations_of_one_component_are_no_samples() -> None:
    # five equal annotations of a component say no more than one
    rng = np.random.default_rng(3)
    once = np.stack([rng.integers(0, 2, 60), np.ones(60)], axis=1)
    one, five = (stats.ratio_bootstrap(k * once, k * once[::-1], seed=2) for k in (1.0, 5.0))
    assert (one.low, one.high) == pytest.approx((five.low, five.high))


def test_a_seed_means_the_same_interval_and_nothing_counted_is_no_share() -> None:
    rng = np.random.default_rng(4)
    pair = sample(30, 0.5, rng), sample(30, 0.5, rng)
    assert stats.ratio_bootstrap(*pair, seed=5) == stats.ratio_bootstrap(*pair, seed=5)
    assert stats.ratio_bootstrap(*pair, seed=5) != stats.ratio_bootstrap(*pair, seed=6)
    empty = stats.ratio_bootstrap([[0, 0], [0, 0]], [[1, 2], [2, 4]])
    assert (empty.estimate, empty.low, empty.note) == (-0.5, -0.5, "no variation")


def test_shares_stay_within_0_and_1_and_single_components_have_no_interval() -> None:
    _, low, high = share_interval(np.array([[1.0, 1.0]] * 9 + [[0.0, 1.0]]), 0.95)
    assert low < 0.9
    assert high == 1.0
    assert share_interval(np.array([[1.0, 1.0]] * 4), 0.95) == (1.0, 1.0, 1.0)
    one = share_interval(np.array([[1.0, 4.0]]), 0.95)
    assert one[0] == 0.25
    assert np.isnan(one[1:]).all()
    assert np.isnan(share_interval(np.zeros((0, 2)), 0.95)).all()


@pytest.mark.parametrize("values", [[0.5, 0.5, 0.5, np.nan], [np.nan, 0.5]])
def test_a_share_that_is_no_number_is_an_error(values: list[float]) -> None:
    """Neither few seeds or components nor equal ones, which have no test, hide it."""
    bad, good = np.array(values), np.array([0.5])
    for call in (
        lambda: _over_seeds(good, bad),
        lambda: _over_seeds(bad, good),
        lambda: _equivalence(good, bad, 0.1),
        lambda: _test(bad, good, 0),
        lambda: share_interval(np.stack([bad, np.ones(len(bad))], axis=1), 0.95),
    ):
        with pytest.raises(InputError, match=r"is nan, expected finite values"):
            call()
    assert np.isnan(_over_seeds(good, good))
    assert np.isnan(_over_seeds(np.array([0.5, 0.5]), np.array([0.25, 0.25])))
    assert _equivalence(np.full(12, 0.5), np.full(12, 0.5), 0.1) is _equivalence(good, good, 0.1) is None


@pytest.mark.parametrize(
    ("tuned", "options", "message"),
    [
        ([[1, 2]], {}, r"tuned has shape \(1, 2\), expected at least 2 rows"),
        ([1, 2], {}, r"tuned has shape \(2,\)"),
        ([[3, 2], [0, 1]], {}, "tuned holds a count below 0 or above its total"),
        ([[-1, 2], [0, 1]], {}, "tuned holds a count below 0"),
        ([[0, 2], [0, 1]], {"method": "student"}, "unknown bootstrap method 'student'"),
        ([[0, 2], [0, 1]], {"n_resamples": 9}, "n_resamples=9 given, expected at least 99"),
        ([[0, 2], [0, 1]], {"level": 1.0}, "level is 1.0"),
    ],
)
def test_errors(tuned: list, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        stats.ratio_bootstrap(tuned, [[0, 1], [1, 1]], **options)
