"""The statistics against scipy, closed forms and enumerations; no change, no variation, sentences, JSON and errors."""

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from scipy import stats as scipy_stats

from lensdiff.results import InputError
from lensdiff.stats import (
    NotTestable,
    NoVariation,
    Test,
    TooFew,
    adjust,
    control_rank,
    covariate,
    equivalence,
    format_p,
    holm,
    mean_difference,
    mean_interval,
    one_sample,
    paired,
    paired_difference,
    paired_interval,
    permutation,
    rank_band,
    ratio_bootstrap,
    sign_flip,
    told_apart,
    welch,
)
from lensdiff.stats.studentised import studentised_p

ALTERNATIVES = ("two-sided", "greater", "less")
RNG = np.random.default_rng(20)
TUNED, BASE = RNG.normal(0.6, 1.0, 12), RNG.normal(0.0, 2.0, 12)
CONTROLS = RNG.exponential(size=99)


# --- t tests


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_welch_is_the_closed_form(alternative: str) -> None:
    base = BASE[:9]
    test = welch(TUNED, base, alternative=alternative, level=0.9)
    v, w = TUNED.var(ddof=1) / 12, base.var(ddof=1) / 9
    df = (v + w) ** 2 / (v**2 / 11 + w**2 / 8)
    difference = TUNED.mean() - base.mean()
    t = difference / np.sqrt(v + w)
    p = {
        "two-sided": 2 * scipy_stats.t.sf(abs(t), df),
        "greater": scipy_stats.t.sf(t, df),
        "less": scipy_stats.t.cdf(t, df),
    }
    half = scipy_stats.t.ppf(0.95, df) * np.sqrt(v + w)
    got = (test.estimate, test.low, test.high, test.statistic, test.p)
    assert got == pytest.approx((difference, difference - half, difference + half, t, p[alternative]), rel=1e-12)
    assert (test.n, test.level, test.alternative, test.name) == ((12, 9), 0.9, alternative, "Welch")


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_paired_is_scipys_and_its_interval_stays_two_sided(alternative: str) -> None:
    test = paired(TUNED, BASE, alternative=alternative, level=0.8)
    oracle: Any = scipy_stats.ttest_rel(TUNED, BASE, alternative=alternative)
    low, high = scipy_stats.ttest_rel(TUNED, BASE).confidence_interval(0.8)
    expected = (np.mean(TUNED - BASE), low, high, oracle.statistic, oracle.pvalue)
    assert (test.estimate, test.low, test.high, test.statistic, test.p) == pytest.approx(expected, rel=1e-12)
    assert test.n == (12,)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_one_sample_is_scipys(alternative: str) -> None:
    test = one_sample(TUNED, alternative=alternative, level=0.99)
    oracle: Any = scipy_stats.ttest_1samp(TUNED, 0.0, alternative=alternative)
    low, high = scipy_stats.ttest_1samp(TUNED, 0.0).confidence_interval(0.99)
    assert (test.low, test.high, test.p) == pytest.approx((low, high, oracle.pvalue), rel=1e-12)


def test_signs_are_tuned_minus_base() -> None:
    up, down = np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0, 1.0])
    for test in (welch(up, down), paired(up, down), permutation(up, down)):
        assert test.estimate == pytest.approx(5 / 3)
    assert paired(up, down, alternative="greater").p == paired(down, up, alternative="less").p
    assert (paired(up, down, alternative="greater").p or 1) < 0.1


def test_paired_interval_is_the_paired_test_of_each_entry() -> None:
    tuned, base = RNG.normal(size=(7, 2, 3)), RNG.normal(size=(7, 2, 3))
    tuned[:, 0, 0] = base[:, 0, 0]
    band = paired_interval(tuned, base, level=0.9)
    for layer, head in itertools.product(range(2), range(3)):
        test = paired(tuned[:, layer, head], base[:, layer, head], level=0.9)
        assert (band.low[layer, head], band.high[layer, head]) == pytest.approx((test.low, test.high))
        assert test.interval == (test.low, test.high)
    assert sign_flip(TUNED).interval is None
    assert band.low[0, 0] == band.high[0, 0] == 0


def test_an_interval_of_a_mean_is_students_of_what_is_there() -> None:
    values = RNG.normal(size=(9, 2, 2))
    values[2:4, 1, 0], values[1:, 1, 1], values[:, 0, 1] = np.nan, np.nan, 0.3
    low, high = mean_interval(values, level=0.9)
    for entry, own in {(0, 0): values[:, 0, 0], (1, 0): np.delete(values[:, 1, 0], [2, 3])}.items():
        error = own.std(ddof=1) / np.sqrt(len(own))
        expected = scipy_stats.t.interval(0.9, len(own) - 1, loc=own.mean(), scale=error)
        assert (low[entry], high[entry]) == pytest.approx(expected, rel=1e-12)
    assert (low[0, 1], high[0, 1]) == pytest.approx((0.3, 0.3), rel=1e-12)
    assert np.isnan([low[1, 1], high[1, 1]]).all(), "of one observation there is no interval"
    assert np.isnan(mean_interval(np.zeros((0, 3)))).all()
    with pytest.raises(InputError, match=r"values\[1\] is inf"):
        mean_interval([1.0, np.inf])
    with pytest.raises(InputError, match="values is one number, expected one per observation on axis 0"):
        mean_interval(np.array(1.0))


def test_a_difference_is_told_from_0_by_its_interval_its_size_and_rounding() -> None:
    base = np.zeros((3, 8))
    tuned = np.array([
        [1.0, -1.0, 1.0, 0.0, 0.5, np.nan, np.nan, 0.002],
        [1.1, -1.1, -1.1, 0.0, np.nan, np.nan, np.nan, 0.002],
        [1.2, -1.2, 0.2, 0.0, np.nan, np.nan, 0.0, 0.003],
    ])  # fmt: skip
    assert told_apart(tuned, base).tolist() == [True, True, False, False, True, False, False, True]
    assert told_apart(tuned, base, least=0.01).tolist() == [True, True, False, False, True, False, False, False]
    wide = np.array([[1.0], [3.0], [9.0]])  # 4.33, standard error 2.40
    assert told_apart(wide, np.zeros((3, 1)), level=0.5).all()
    assert not told_apart(wide, np.zeros((3, 1))).any()
    assert not told_apart([1.0 + 1e-15] * 3, [1.0] * 3), "rounding of the same number"
    assert not told_apart([], [])
    for wrong, said in (([1.0], "equal shapes"), ([1.0, np.inf], "finite")):
        with pytest.raises(InputError, match=said):
            told_apart(wrong, [1.0, 2.0])


@pytest.mark.parametrize("shift", [-0.3, 0.4])
@pytest.mark.parametrize("same_prompts", [True, False])
def test_equivalence_is_the_larger_of_two_one_sided_tests(same_prompts: bool, shift: float) -> None:
    tuned, base, bound = TUNED + shift, BASE, 1.7
    test = equivalence(tuned, base, bound, paired=same_prompts)
    if same_prompts:
        above: Any = scipy_stats.ttest_rel(tuned + bound, base, alternative="greater")
        below: Any = scipy_stats.ttest_rel(tuned - bound, base, alternative="less")
        plain = paired(tuned, base, level=0.9)
    else:
        above = scipy_stats.ttest_ind(tuned + bound, base, equal_var=False, alternative="greater")
        below = scipy_stats.ttest_ind(tuned - bound, base, equal_var=False, alternative="less")
        plain = welch(tuned, base, level=0.9)
    worse = max(above, below, key=lambda t: t.pvalue)
    toward_equivalence = worse.statistic if worse is above else -worse.statistic
    assert (test.p, test.statistic) == pytest.approx((worse.pvalue, toward_equivalence), rel=1e-9)
    assert (test.low, test.high) == pytest.approx((plain.low, plain.high))
    assert (test.level, test.n) == (0.9, plain.n)


@pytest.mark.parametrize("bound", [0.1, 0.5, 1.0, 1.5, 2.0, 3.0])
def test_equivalence_and_its_interval_agree(bound: float) -> None:
    test = equivalence(TUNED, BASE, bound)
    assert test.p is not None
    assert test.low is not None
    assert test.high is not None
    assert (test.p < 0.05) == (-bound < test.low and test.high < bound)


# --- resampling


@pytest.mark.parametrize(("alternative", "p"), [("greater", 1 / 6), ("less", 1.0), ("two-sided", 2 / 6)])
def test_permutation_of_two_against_two_is_enumerated(alternative: str, p: float) -> None:
    test = permutation([3.0, 4.0], [1.0, 2.0], alternative=alternative)
    assert test.p == pytest.approx(p)
    assert (test.n, test.note, test.low) == ((2, 2), "exact", None)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("values", [[3, -1, 2, 2, 5, -4, 1], [7777, -7776, 1, -7, 7, -1, 8]])
def test_sign_flip_is_the_enumeration_and_rounding_breaks_no_tie(values: list[int], alternative: str) -> None:
    tenths = np.array(values)  # many sums tie; as multiples of 0.1 they tie only up to rounding
    sums = np.array([np.dot(tenths, signs) for signs in itertools.product((1, -1), repeat=7)])
    greater, less = np.mean(sums >= tenths.sum()), np.mean(sums <= tenths.sum())
    p = {"greater": greater, "less": less, "two-sided": 2 * min(greater, less)}[alternative]
    test = sign_flip(tenths * 0.1, alternative=alternative)
    assert (test.p, test.note) == (pytest.approx(p), "exact")


def test_permutation_ties_survive_rounding_and_an_offset() -> None:
    tuned, base = np.array([3, 1, 4, 1, 5]), np.array([2, 7, 1, 8])
    exact = permutation(tuned, base).p
    pool, total = np.concatenate([tuned, base]), tuned.sum()
    sums = np.array([sum(pick) for pick in itertools.combinations(pool, 5)])
    assert exact == pytest.approx(min(1, 2 * min(np.mean(sums >= total), np.mean(sums <= total))))
    assert permutation(tuned * 0.1, base * 0.1).p == exact
    assert permutation(1e6 + tuned * 2.0**-23, 1e6 + base * 2.0**-23).p == exact


@pytest.mark.parametrize("run", [permutation, lambda t, b, **options: sign_flip(t - b, **options)])
def test_random_resampling_counts_the_data_themselves(run: Callable[..., Test]) -> None:
    tuned, base = np.arange(20.0) + 100, np.arange(20.0)
    test = run(tuned, base, seed=3, n_resamples=199, alternative="greater")
    assert test.p == 1 / 200  # (1 + 0) / (1 + B)
    assert test.note == "199 resamples, seed 3"
    near = base + np.where(np.arange(20) % 2, 6.0, -5.0)
    assert run(near, base, seed=3, n_resamples=199) == run(near, base, seed=3, n_resamples=199)
    assert len({run(near, base, seed=seed, n_resamples=199).p for seed in range(5)}) > 1


# --- controls


@pytest.mark.parametrize(
    ("effect", "alternative", "p"),
    [
        (98.5, "greater", 2 / 100),  # one control (99) is as large
        (98.5, "less", 99 / 100),
        (98.5, "two-sided", 4 / 100),  # median 50.5: 99, 2 and 1 are further than 48
        (99.0, "greater", 2 / 100),  # a tie counts as extreme
        (1.0, "less", 2 / 100),
        (1000.0, "two-sided", 1 / 100),
        (-1000.0, "less", 1 / 100),
        (50.0, "two-sided", 1.0),
    ],
)
def test_control_rank_counts_controls(effect: float, alternative: str, p: float) -> None:
    test = control_rank(effect, np.arange(1.0, 100.0), alternative=alternative)
    assert test.p == pytest.approx(p)
    assert test.estimate == effect - 50
    assert test.n == (99,)
    assert test.statistic == pytest.approx(100 * p - 1)


@pytest.mark.parametrize("n", [19, 20, 40, 99])
@pytest.mark.parametrize("level", [0.95, 0.9])
def test_a_rank_band_ends_where_the_rank_rejects(n: int, level: float) -> None:
    controls = np.stack([CONTROLS[:n], -CONTROLS[-n:]], axis=1)
    band = rank_band(controls, level=level)
    assert band.low.shape == (2,)
    for i, own in enumerate(controls.T):
        for effect in np.linspace(-12, 12, 201):
            p = control_rank(effect, own, level=level).p
            assert p is not None
            assert (p > 1 - level + 1e-12) == (band.low[i] < effect < band.high[i]), effect


@pytest.mark.parametrize("n", [19, 40, 99])
@pytest.mark.parametrize("level", [0.95, 0.9])
def test_rank_interval_holds_the_shifts_that_the_rank_accepts(n: int, level: float) -> None:
    controls, effect = CONTROLS[:n], 2.5
    test = control_rank(effect, controls, level=level)
    assert test.low is not None
    assert test.high is not None
    for shift in np.linspace(-8, 8, 401):
        p = control_rank(effect - shift, controls, level=level).p
        assert p is not None
        assert (p > 1 - level + 1e-12) == (test.low < shift < test.high), shift


def test_the_interval_of_a_regression_is_at_its_level() -> None:
    outcome, group, _ = regression_data(1)
    pooled: Any = scipy_stats.ttest_ind(outcome[group == 1], outcome[group == 0])
    regression = covariate(outcome, group, np.empty((40, 0)), level=0.8)
    assert (regression.low, regression.high) == pytest.approx(tuple(pooled.confidence_interval(0.8)))


def test_controls_that_do_not_vary() -> None:
    assert control_rank(0.0, np.zeros(19)).p == 1
    assert control_rank(0.1, np.zeros(19)).p == 1 / 20  # a rank needs no variation: none of them is as far


# --- covariate


def regression_data(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(k)
    group = (rng.random(40) < 0.4).astype(float)
    lengths = rng.gamma(3.0, 30.0, size=(40, k)) + 20 * group[:, None]
    return 0.5 * group + 0.01 * lengths.sum(axis=1) + rng.normal(size=40) * (1 + group), group, lengths


@pytest.mark.parametrize("errors", ["classical", "HC3"])
@pytest.mark.parametrize("k", [1, 2])
def test_covariate_is_the_normal_equations(k: int, errors: str) -> None:
    outcome, group, lengths = regression_data(k)
    X = np.column_stack([np.ones(40), group, lengths])
    inverse = np.linalg.inv(X.T @ X)
    fitted = inverse @ X.T @ outcome
    residuals = outcome - X @ fitted
    leverage = np.diag(X @ inverse @ X.T)
    df = 40 - 2 - k
    meat = X.T @ (X * ((residuals / (1 - leverage)) ** 2)[:, None])
    covariance = inverse @ meat @ inverse if errors == "HC3" else inverse * (residuals @ residuals) / df
    error = np.sqrt(covariance[1, 1])
    half = scipy_stats.t.ppf(0.975, df) * error
    t = fitted[1] / error
    test = covariate(outcome, group, lengths if k > 1 else lengths[:, 0], errors=errors)
    expected = (fitted[1], fitted[1] - half, fitted[1] + half, t, 2 * scipy_stats.t.sf(abs(t), df))
    assert (test.estimate, test.low, test.high, test.statistic, test.p) == pytest.approx(expected, rel=1e-9)
    assert test.n == (int(group.sum()), 40 - int(group.sum()))


@pytest.mark.parametrize("errors", ["classical", "HC3"])
def test_paired_rows_are_a_regression_of_differences(errors: str) -> None:
    rng = np.random.default_rng(4)
    order, pairs = rng.permutation(24), np.tile(np.arange(12), 2)
    group, values = np.repeat([1.0, 0.0], 12), rng.normal(size=(24, 2))
    outcome = rng.normal(size=24) + 5 * pairs + values[:, 0]
    values = np.column_stack([values, 3 * pairs])  # the last says nothing within pairs
    test = covariate(outcome[order], group[order], values[order], errors=errors, pairs=pairs[order].tolist())
    d, moved = outcome[:12] - outcome[12:], (values[:12] - values[12:])[:, :2]
    X = np.column_stack([np.ones(12), moved])
    inverse = np.linalg.inv(X.T @ X)
    beta = inverse @ X.T @ d
    e, h = d - X @ beta, np.einsum("ij,jk,ik->i", X, inverse, X)
    scatter = X.T @ (X * ((e / (1 - h)) ** 2)[:, None])
    variance = (e @ e / 9 * inverse if errors == "classical" else inverse @ scatter @ inverse)[0, 0]
    t = beta[0] / np.sqrt(variance)
    assert (test.estimate, test.statistic) == pytest.approx((beta[0], t))
    assert test.p == pytest.approx(2 * scipy_stats.t.sf(abs(t), 9))
    assert (test.n, test.note) == ((12,), "2 covariate(s)")
    assert test.name == ("regression of differences" if errors == "classical" else "regression of differences, HC3")


@pytest.mark.parametrize(
    ("errors", "error", "p", "low", "high"),
    [
        ("classical", 0.05791443499485966, 0.010635077495987265, 0.058375978900068376, 0.3254778320723868),
        ("HC3", 0.07617577699028238, 0.035835183288330144, 0.016265248744246064, 0.3675885622282091),
    ],
)
def test_paired_rows_meet_statsmodels(errors: str, error: float, p: float, low: float, high: float) -> None:
    # statsmodels 0.15.0: OLS(d, add_constant(moved)).fit(), and get_robustcov_results("HC3", use_t=True) of it
    d = np.array([0.8, -0.3, 1.1, 0.4, 0.9, -0.1, 0.6, 1.4, 0.2, 0.5])
    moved = np.array([30.0, -12, 44, 5, 21, -8, 17, 60, -3, 9])
    level = np.linspace(-40, 900, 10)  # what the prompts are like, in both models
    outcome, length = np.concatenate([level + d, level]), np.concatenate([200 + moved, np.full(10, 200.0)])
    test = covariate(outcome, [1] * 10 + [0] * 10, length, errors=errors, pairs=list(range(10)) * 2)
    assert test.estimate == pytest.approx(0.1919269054862276)
    assert test.statistic == pytest.approx(0.1919269054862276 / error)
    assert (test.p, test.low, test.high) == pytest.approx((p, low, high))


@pytest.mark.parametrize("errors", ["classical", "HC3"])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("alike", [False, True], ids=["independent rows", "paired rows"])
def test_covariate_is_that_of_statsmodels(alike: bool, k: int, errors: str) -> None:
    api = pytest.importorskip("statsmodels.api")
    if alike:
        rng = np.random.default_rng(k)
        values, outcome = rng.normal(size=(40, k)), rng.normal(size=40) * np.linspace(0.2, 3.0, 40)
        group, labels = np.repeat([1.0, 0.0], 20), list(range(20)) * 2
        y, X, place = outcome[:20] - outcome[20:], api.add_constant(values[:20] - values[20:]), 0
    else:
        y, group, values = regression_data(k)
        outcome, labels, X, place = y, None, api.add_constant(np.column_stack([group, values])), 1
    how = {"cov_type": "nonrobust"} if errors == "classical" else {"cov_type": "HC3", "use_t": True}
    fit = api.OLS(y, X).fit(**how)
    test = covariate(outcome, group, values, errors=errors, pairs=labels)
    expected = [fit.params[place], fit.tvalues[place], fit.pvalues[place], *fit.conf_int()[place]]
    assert [test.estimate, test.statistic, test.p, test.low, test.high] == pytest.approx(expected, rel=1e-9)


def test_hc3_by_hand() -> None:
    """Without a covariate the fit is the group means: a group of one has a leverage of 1, one of two 1/2 each."""
    with pytest.raises(InputError, match="HC3: observation 2 determines its own fit"):
        covariate([1.0, 3.0, 7.0], [0, 0, 1], np.empty((3, 0)), errors="HC3")
    # a residual e counts e / (1 - 1/2) = 2 e, and a mean of two has the variance of the sum of
    # (2 e)^2 / 4 = e^2: e = -1, 1 and -2, 2 give 1 + 1 + 4 + 4 = 10
    test = covariate([1.0, 3.0, 6.0, 10.0], [0, 0, 1, 1], np.empty((4, 0)), errors="HC3")
    assert (test.estimate, test.statistic) == (pytest.approx(6.0), pytest.approx(6.0 / np.sqrt(10.0)))
    assert test.p == pytest.approx(2 * scipy_stats.t.sf(6.0 / np.sqrt(10.0), 2))


def test_paired_rows_without_a_covariate_that_differs_are_the_paired_t_test() -> None:
    labels, length = [f"prompt {i}" for i in range(12)] * 2, np.tile(np.arange(12.0), 2)
    test = covariate(np.concatenate([TUNED, BASE]), [1] * 12 + [0] * 12, length, pairs=labels)
    plain = paired(TUNED, BASE)
    assert (test.estimate, test.low, test.high, test.p) == pytest.approx(
        (plain.estimate, plain.low, plain.high, plain.p)
    )
    alike = covariate(np.concatenate([TUNED, TUNED]), [1] * 12 + [0] * 12, length, pairs=labels)
    assert (alike.estimate, alike.p) == (0.0, 1.0)
    with pytest.raises(NoVariation, match="the fit leaves no residual and the groups differ by 2"):
        covariate(np.concatenate([TUNED + 2, TUNED]), [1] * 12 + [0] * 12, length, pairs=labels)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_no_covariate_is_the_pooled_t_test(alternative: str) -> None:
    outcome, group, _ = regression_data(1)
    test = covariate(outcome, group, np.empty((40, 0)), alternative=alternative)
    oracle: Any = scipy_stats.ttest_ind(outcome[group == 1], outcome[group == 0], alternative=alternative)
    assert (test.statistic, test.p) == pytest.approx((oracle.statistic, oracle.pvalue))


def test_covariate_does_not_depend_on_its_unit() -> None:
    outcome, group, lengths = regression_data(1)
    plain, scaled = covariate(outcome, group, lengths), covariate(outcome, group, 1e6 + 1e-3 * lengths)
    assert scaled.p == pytest.approx(plain.p, rel=1e-6)


# --- no change, no variation


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("values", [[0.1] * 5, [0.0] * 5])
def test_identical_constants_are_no_change(values: list[float], alternative: str) -> None:
    tests = [
        welch(values, values[:3], alternative=alternative),
        paired(values, values, alternative=alternative),
        permutation(values, values[:3], alternative=alternative),
        sign_flip(np.zeros(5), alternative=alternative),
        one_sample(np.zeros(5), alternative=alternative),
        covariate(values * 2, [0, 1] * 5, np.arange(10.0), alternative=alternative),
    ]
    for test in tests:
        assert test.estimate == pytest.approx(0, abs=1e-16)
        assert test.p == 1
        json.dumps(test.to_dict(), allow_nan=False)


def test_identical_samples_are_no_change() -> None:
    for test in (paired(TUNED, TUNED), welch(TUNED, TUNED)):
        assert (test.estimate, test.p) == (0, 1)


def test_one_constant_sample_is_an_ordinary_welch_test() -> None:
    constant = np.full(6, 0.1)
    test = welch(TUNED, constant)
    assert test.p == pytest.approx(one_sample(TUNED - 0.1).p)  # all the variance is tuned's


@pytest.mark.parametrize("same_prompts", [True, False])
@pytest.mark.parametrize("shift", [0.0, 0.2, 0.7])
def test_equivalence_needs_variation(shift: float, same_prompts: bool) -> None:
    base = np.full(12, 0.3) if not same_prompts else BASE
    with pytest.raises(NoVariation, match=r"equivalence, .*: (tuned|differences) does not vary, which leaves nothing"):
        equivalence(base + shift, base, 0.5, paired=same_prompts)
    with pytest.raises(NoVariation, match="base does not vary"):
        equivalence(TUNED, np.full(12, 0.3), 0.5)


@pytest.mark.parametrize(("same_prompts", "name"), [(True, "differences"), (False, "tuned")])
def test_equivalence_needs_twelve(same_prompts: bool, name: str) -> None:
    with pytest.raises(InputError, match=rf"equivalence, .*: {name} has 11 observation\(s\), expected at least 12"):
        equivalence(TUNED[:11], BASE[:11], 1.0, paired=same_prompts)
    assert equivalence(TUNED[:12], BASE[:12], 1.0, paired=same_prompts).n[0] == 12


@pytest.mark.parametrize("test", [welch, paired])
def test_a_difference_without_variation_has_no_t(test: Callable[..., Test]) -> None:
    base = np.full(4, 0.3)
    with pytest.raises(
        NoVariation, match=r"the data do not vary and differ by 0\.2, which has no t statistic: use sign"
    ):
        test(base + 0.2, base)
    assert sign_flip(np.full(4, 0.2)).p == 2 / 16


def test_paired_differences_equal_up_to_rounding_do_not_vary() -> None:
    base = np.array([0.1, 0.7, 12.3, 100.9])
    with pytest.raises(NoVariation, match="do not vary"):
        paired(base + 0.2, base)


# --- small samples


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("values", [[-0.3, 0.2, 0.9, 2.5], [-0.25, -0.25, -0.25, 1.0], [0.25, 0.25, 0.25, -1.0]])
def test_the_studentised_bootstrap_is_the_enumeration_of_resamples(alternative: str, values: list[float]) -> None:
    d = np.array(values)
    every = d[np.array(list(itertools.product(range(4), repeat=4)))]
    error = every.std(axis=1, ddof=1) / 2
    moved = every.mean(axis=1) - d.mean()
    t = moved / np.maximum(error, 1e-300)  # without variation: as far as can be on its side
    own = d.mean() / (d.std(ddof=1) / 2)
    above, below = (t >= own - 1e-12).mean(), (t <= own + 1e-12).mean()
    expected = {"greater": above, "less": below, "two-sided": min(1, 2 * min(above, below))}[alternative]
    assert studentised_p(d, alternative=alternative) == pytest.approx(expected, abs=0.03)
    assert studentised_p(1e6 * d, alternative=alternative) == studentised_p(d, alternative=alternative)


def test_the_studentised_bootstrap_never_says_that_p_is_0() -> None:
    far = np.linspace(100.0, 101.0, 12)  # no resample's t comes near its t of a thousand
    found = {kind: studentised_p(far, alternative=kind) for kind in ("greater", "less", "two-sided")}
    assert found == {"greater": 1 / 2000, "less": 1.0, "two-sided": 1 / 1000}


def test_few_differences_carry_another_p() -> None:
    values = np.random.default_rng(1).exponential(size=20)
    for test, n in ((paired(values[:19], np.zeros(19)), 19), (one_sample(values[:5], alternative="less"), 5)):
        beside = format_p(studentised_p(values[:n], alternative=test.alternative))
        assert test.warning == f"fewer than 20: if they are skewed, {beside} by studentised bootstrap"
        assert str(test).endswith(f"; {test.warning})")
        assert test.to_dict()["warning"] == test.warning
    assert paired(values, np.zeros(20)).warning == one_sample(values).warning == ""


def test_few_shares_have_narrow_intervals() -> None:
    warning = "fewer than 20, the interval is too narrow"
    values = np.arange(20.0)
    counts = np.stack([values % 2, np.ones(20)], axis=1)
    assert ratio_bootstrap(counts[:19], counts, n_resamples=99).warning == warning
    assert ratio_bootstrap(counts, counts[::-1], n_resamples=99).warning == ""


# --- the result


EXAMPLE = Test("Welch", 0.29, 0.22, 0.36, 0.95, 8.1, (300, 300), 2e-14)


@pytest.mark.parametrize(
    ("test", "sentence"),
    [
        (EXAMPLE, "+0.29 [0.22, 0.36], p = 2e-14 (Welch, n = 300 + 300)"),
        (replace(EXAMPLE, p=1e-20, alternative="greater"), "p < 1e-16 (Welch, one-sided, n = 300 + 300)"),
        (replace(EXAMPLE, level=0.9), "+0.29 90% [0.22, 0.36]"),
        (replace(EXAMPLE, estimate=-0.001, low=-0.5, high=0.498), "0.00 [-0.50, 0.50]"),
        (replace(EXAMPLE, low=-0.001, high=0.5), "+0.29 [0.00, 0.50]"),
        (replace(EXAMPLE, estimate=1234.5, low=1000.2, high=1500.3), "+1234 [1000, 1500]"),
        (replace(EXAMPLE, estimate=2e-7, low=1e-7, high=3e-7), "+2.00e-07 [1.00e-07, 3.00e-07]"),
        (replace(EXAMPLE, estimate=0.0, low=0.0, high=0.0, p=1.0), "0 [0, 0], p = 1 ("),
        (replace(EXAMPLE, low=None, high=None, note="exact"), "+0.29, p = 2e-14 (Welch, n = 300 + 300; exact)"),
        (replace(EXAMPLE, p=None, n=(20,)), "+0.29 [0.22, 0.36] (Welch, n = 20)"),
        (
            replace(EXAMPLE, p_adjusted=0.04, family="heads", adjustment="Benjamini-Hochberg over 30"),
            "p = 2e-14, adjusted p = 0.04 (Welch, n = 300 + 300; Benjamini-Hochberg over 30 in heads)",
        ),
    ],
)
def test_a_result_is_a_sentence(test: Test, sentence: str) -> None:
    assert sentence in str(test)


@pytest.mark.parametrize(
    ("p", "text"),
    [(1.0, "p = 1"), (0.0321, "p = 0.032"), (0.001, "p = 0.001"), (2.3e-4, "p = 2e-04"), (0.0, "p < 1e-16")],
)
def test_p_in_words(p: float, text: str) -> None:
    assert format_p(p) == text


def test_a_result_survives_json() -> None:
    for test in adjust([welch(TUNED, BASE), permutation(TUNED, BASE, n_resamples=99)], family="example"):
        values = json.loads(json.dumps(test.to_dict(), allow_nan=False))
        assert values == test.to_dict()
        assert TypeAdapter(Test).validate_python(values) == test


# --- adjust


def test_adjust_by_hand() -> None:
    tests = [replace(EXAMPLE, p=p) for p in (0.04, 0.01, 0.02, 0.9)]
    adjusted = adjust(tests, family="heads")
    # p * 4 / rank, made monotone: .01 * 4 = .04, .02 * 4 / 2 = .04, .04 * 4 / 3 = .0533, .9
    assert [t.p_adjusted for t in adjusted] == pytest.approx([0.16 / 3, 0.04, 0.04, 0.9])
    assert [t.p for t in adjusted] == [0.04, 0.01, 0.02, 0.9]
    assert {(t.family, t.adjustment) for t in adjusted} == {("heads", "Benjamini-Hochberg over 4")}
    assert tests[0].p_adjusted is None
    factor = 1 + 1 / 2 + 1 / 3 + 1 / 4
    yekutieli = adjust(tests, family="heads", method="by")
    assert yekutieli[1].p_adjusted == pytest.approx(0.04 * factor)
    assert yekutieli[1].adjustment == "Benjamini-Yekutieli over 4"
    assert adjust([], family="heads") == []


def test_holm_by_hand() -> None:
    tests = [Test("paired t", 0.5, 0.1, 0.9, 0.95, 2.0, (9,), p) for p in (0.04, 0.01, 0.02, 0.9)]
    adjusted = adjust(tests, family="claims", method="holm")
    # 4 x 0.01; 3 x 0.02; 2 x 0.04; 1 x 0.9
    assert [t.p_adjusted for t in adjusted] == pytest.approx([0.08, 0.04, 0.06, 0.9])
    assert {(t.family, t.adjustment) for t in adjusted} == {("claims", "Holm over 4")}
    assert "Holm over 4 in claims" in str(adjusted[0])


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_holm_is_the_closed_test_of_bonferroni(n: int) -> None:
    # a hypothesis is rejected where Bonferroni rejects every intersection that it is in
    rng = np.random.default_rng(n)
    for p in (rng.random(n), 0.2 * rng.random(n), np.full(n, 0.3), np.r_[np.zeros(n // 2), np.ones(n - n // 2)]):
        subsets = [list(s) for k in range(1, n + 1) for s in itertools.combinations(range(n), k)]
        closed = [max(min(1.0, len(s) * p[s].min()) for s in subsets if i in s) for i in range(n)]
        np.testing.assert_allclose(holm(p), closed, rtol=1e-12)


# --- what can be expected, and what is a mistake

ROWS = ([0.0, 1.0] * 3, [5.0, 7.0, 6.0, 9.0, 8.0, 4.0])  # group and covariate of six observations


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: welch([1.0], TUNED), TooFew),
        (lambda: paired([1.0], [2.0]), TooFew),
        (lambda: paired([], []), TooFew),
        (lambda: one_sample([1.0]), TooFew),
        (lambda: sign_flip([1.0]), TooFew),
        (lambda: permutation(TUNED, [1.0]), TooFew),
        (lambda: equivalence(TUNED[:11], BASE, 1.0), TooFew),
        (lambda: paired_interval([[1.0]], [[2.0]]), TooFew),
        (lambda: control_rank(1.0, CONTROLS[:18]), TooFew),
        (lambda: rank_band(CONTROLS[:18]), TooFew),
        (lambda: covariate([1.0, 2.0], [0, 1], [3.0, 4.0]), TooFew),
        (lambda: covariate([1.0, 2.0], [0, 1], [3.0, 4.0], pairs="aa"), TooFew),
        (lambda: welch([1.0] * 3, [2.0] * 3), NoVariation),
        (lambda: paired([1.0] * 3, [2.0] * 3), NoVariation),
        (lambda: one_sample([1.0] * 3), NoVariation),
        (lambda: equivalence(TUNED, np.ones(12), 1.0), NoVariation),
        (lambda: covariate(TUNED[:6], ROWS[0], np.ones(6)), NoVariation),
        (lambda: covariate(TUNED[:6], ROWS[0], ROWS[0]), NoVariation),
        (lambda: covariate(ROWS[0], *ROWS), NoVariation),
    ],
)
def test_what_cannot_be_tested_says_so_by_its_class(call: Callable[[], object], kind: type[NotTestable]) -> None:
    with pytest.raises(kind):
        call()
    assert issubclass(kind, NotTestable)
    assert issubclass(NotTestable, InputError)


@pytest.mark.parametrize("n", [0, 1, 5])
@pytest.mark.parametrize(
    "call",
    [
        lambda bad, n: welch(np.ones(n), bad),
        lambda bad, n: welch(bad, np.ones(n)),
        lambda bad, n: paired(bad, np.ones(len(bad))),
        lambda bad, n: paired(np.ones(n + 1), np.ones(n)),
        lambda bad, n: paired_difference(bad, np.ones(len(bad))),
        lambda bad, n: paired_difference(np.ones(len(bad)), bad),
        lambda bad, n: paired_difference(np.ones(n + 1), np.ones(n)),
        lambda bad, n: mean_difference(bad),
        lambda bad, n: one_sample(bad),
        lambda bad, n: sign_flip(bad),
        lambda bad, n: permutation(np.ones(n), bad),
        lambda bad, n: equivalence(np.ones(n), bad, 1.0),
        lambda bad, n: equivalence(bad, np.ones(len(bad)), 1.0, paired=True),
        lambda bad, n: paired_interval(bad, np.ones(len(bad))),
        lambda bad, n: covariate(np.ones(n), np.arange(n) % 2, bad),
        lambda bad, n: covariate(np.arange(n + 2.0), np.arange(n + 2) % 2, np.ones(n)),
    ],
)
def test_few_or_equal_data_hide_no_mistake(call: Callable[[list[float], int], object], n: int) -> None:
    """A value that is not finite, or unequal lengths, is refused as a mistake, not as data that allow no test."""
    with pytest.raises(InputError) as found:
        call([*[1.0] * n, np.nan], n)
    assert not isinstance(found.value, NotTestable)


# --- the one test of a mean difference


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_a_mean_difference_is_tested_by_t(alternative: str) -> None:
    expected: Any = scipy_stats.ttest_rel(TUNED, BASE, alternative=alternative)
    low, high = scipy_stats.ttest_rel(TUNED, BASE).confidence_interval(0.8)
    both = paired_difference(TUNED, BASE, alternative=alternative, level=0.8)
    single = mean_difference(TUNED - BASE, alternative=alternative, level=0.8)
    assert both is not None
    assert single is not None
    for test in (both, single):
        assert (test.p, test.low, test.high) == pytest.approx((expected.pvalue, low, high))
    assert (both.name, single.name) == ("paired t", "one-sample t")


@pytest.mark.parametrize(("alternative", "p"), [("two-sided", 2 / 2**6), ("greater", 1 / 2**6), ("less", 1.0)])
def test_equal_differences_are_tested_by_flipped_signs(alternative: str, p: float) -> None:
    base = np.array([0.1, 0.7, 12.3, 5.0, -3.0, 0.0])
    for test in (
        paired_difference(base + 0.25, base, alternative=alternative),
        paired_difference((base + 0.25).tolist(), base.tolist(), alternative=alternative),
        mean_difference(np.full(6, 0.25), alternative=alternative),
    ):
        assert test is not None
        assert (test.name, test.p, test.note) == ("sign flip", pytest.approx(p), "exact")
        assert test.estimate == pytest.approx(0.25)
        assert (test.low, test.high) == (None, None)
    many = [paired_difference(np.full(20, 0.5), np.zeros(20), seed=seed) for seed in (0, 1)]
    assert [test and test.note for test in many] == ["9999 resamples, seed 0", "9999 resamples, seed 1"]
    others = [mean_difference(np.full(20, 0.5), seed=seed) for seed in (0, 1)]
    assert [test and test.note for test in others] == ["9999 resamples, seed 0", "9999 resamples, seed 1"]


def test_no_difference_at_all_is_no_change_and_two_values_are_needed() -> None:
    for test in (paired_difference([0.3] * 2, [0.3] * 2), mean_difference([0.0] * 2)):
        assert test is not None
        assert (test.estimate, test.p) == (0.0, 1.0)
    assert paired_difference([1.0], [2.0]) is paired_difference([], []) is None
    assert mean_difference([1.0]) is mean_difference([]) is None


# --- errors

X5 = np.arange(5.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: welch([1.0], X5), "tuned has 1 observation(s), expected at least 2"),
        (lambda: welch(X5, []), "base has 0 observation(s), expected at least 2"),
        (lambda: welch([1.0, np.nan, np.inf], X5), "tuned[1] is nan, expected finite values (2 of 3 are not)"),
        (lambda: paired(X5, [0.0, 1.0, 2.0, -np.inf, 3.0]), "base[3] is -inf, expected finite values (1 of 5 are not)"),
        (lambda: welch(["a", "b"], X5), "tuned must be an array of numbers (could not convert string"),
        (lambda: welch(np.ones((2, 3)), X5), "tuned has shape (2, 3), expected one axis"),
        (lambda: paired(X5, X5[:4]), "paired data need equal lengths, given 5 tuned and 4 base observations"),
        (lambda: equivalence(X5, X5[:4], 1.0, paired=True), "given 5 tuned and 4 base observations"),
        (lambda: one_sample(np.ones(3)), "one-sample t: the data do not vary and differ by 1"),
        (lambda: one_sample([1.0]), "values has 1 observation(s)"),
        (lambda: sign_flip([1.0]), "differences has 1 observation(s)"),
        (lambda: permutation(X5, [1.0]), "base has 1 observation(s)"),
        (lambda: paired_interval(X5, X5[:4]), "paired data need equal shapes, given (5,) tuned and (4,) base"),
        (
            lambda: paired_interval(X5[:1], X5[:1]),
            "an interval needs at least 2 observations on axis 0, given shape (1,)",
        ),
        (lambda: paired_interval(np.array(1.0), np.array(2.0)), "given shape ()"),
        (lambda: paired_interval([[1.0, 2.0], [3.0, np.nan]], np.ones((2, 2))), "tuned[1, 1] is nan"),
        (
            lambda: rank_band(np.arange(18.0)),
            "a rank band needs at least 19 controls on axis 0 of control_effects, given",
        ),
        (lambda: rank_band(np.arange(20.0), level=0.99), "level 0.99 needs at least 99 controls, given 20"),
        (lambda: rank_band(np.array(1.0)), "given shape ()"),
        (lambda: equivalence(X5, X5, 0.0), "bound is 0.0, expected the largest difference that counts as no change"),
        (lambda: equivalence(X5, X5, np.inf), "bound is inf"),
        (lambda: control_rank(1.0, np.arange(18.0)), "a rank needs at least 19 controls, given 18"),
        (lambda: control_rank(1.0, np.arange(20.0), level=0.99), "level 0.99 needs at least 99 controls, given 20"),
        (lambda: control_rank(np.nan, np.arange(20.0)), "effect is nan, expected finite values"),
        (lambda: control_rank(np.ones(2), np.arange(20.0)), "effect has shape (2,), expected one number"),
        (lambda: covariate(X5, [0, 1, 0, 1], X5), "lengths differ: 5 outcomes, 4 group labels and 5 covariate values"),
        (lambda: covariate(X5, [0, 1, 2, 1, 0], X5), "group holds [0.0, 1.0, 2.0], expected both 0 and 1"),
        (lambda: covariate(X5, np.ones(5), X5), "group holds [1.0], expected both 0 and 1 and nothing else"),
        (lambda: covariate(X5, [0, 1, 0, 1, 0], np.ones(5)), "covariate 0 does not vary"),
        (lambda: covariate(X5, [0, 1, 0, 1, 0], np.ones((5, 1, 1))), "covariate has shape (5, 1, 1), expected [n] or"),
        (lambda: covariate(X5[:3], [0, 1, 0], X5[:3]), "3 observations, expected at least 4 for 1 covariate(s)"),
        (lambda: covariate(X5, [0, 1, 0, 1, 0], np.c_[X5, 2 * X5]), "the 2 covariates are collinear"),
        (lambda: covariate(X5, [0, 1, 0, 1, 0], [3.0, 4, 3, 4, 3]), "group and covariate are collinear: the covariate"),
        (
            lambda: covariate(X5 + np.array([0, 2, 0, 2, 0]), [0, 1, 0, 1, 0], X5),
            "no residual and the groups differ by 2,",
        ),
        (
            lambda: covariate(X5, [0, 1, 0, 1, 0], X5, errors="HC1"),
            "unknown errors 'HC1', expected one of classical, HC3",
        ),
        (lambda: covariate(X5, [0, 1, 0, 1, 0], X5, pairs="aabb"), "5 outcomes and 4 names of pairs"),
        (
            lambda: covariate(X5, [0, 1, 0, 1, 0], X5**2, pairs="aabbb"),
            "pair 'b' has rows of group 0, 1, 0, expected one of 0 and one of 1",
        ),
        (lambda: covariate(X5[:4], [0, 1, 1, 1], X5[:4], pairs="aabb"), "pair 'b' has rows of group 1, 1, expected"),
        (lambda: covariate(X5[:4], [0, 1, 0, 1], X5[:4] ** 2, pairs="aabb"), "2 pairs, expected at least 3 for 1 cov"),
        (lambda: covariate(np.arange(6.0) ** 2, [0, 1] * 3, np.arange(6.0), pairs="aabbcc"), "are collinear"),
        (
            lambda: covariate([1.0, 5, 2, 7, 3, 1], [0, 0, 0, 0, 1, 0], [1.0, 2, 3, 4, 5, 7], errors="HC3"),
            "HC3: observation 4 determines its own fit, use errors='classical'",
        ),
        (
            lambda: adjust([EXAMPLE], family="x", method="sidak"),
            "unknown adjustment 'sidak', expected one of bh, by, h",
        ),
        (lambda: adjust([EXAMPLE], family=" "), "a family of tests needs a name"),
        (
            lambda: adjust([EXAMPLE, replace(EXAMPLE, p=None)], family="x"),
            "test 1 of family 'x' (Welch) has no p-value",
        ),
        (lambda: adjust([replace(EXAMPLE, p=np.nan)], family="x"), "p of 'Welch' is nan, expected a number between 0"),
        (lambda: replace(EXAMPLE, p=1.5), "p of 'Welch' is 1.5"),
        (lambda: replace(EXAMPLE, p_adjusted=-0.1), "p_adjusted of 'Welch' is -0.1"),
    ],
)
def test_errors_name_what_was_given(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        call()


WITH_ALTERNATIVE: list[Callable[..., Test]] = [
    lambda **options: welch(X5, X5, **options),
    lambda **options: paired(X5, X5, **options),
    lambda **options: one_sample(X5, **options),
    lambda **options: permutation(X5, X5, **options),
    lambda **options: sign_flip(X5, **options),
    lambda **options: control_rank(1.0, np.arange(20.0), **options),
    lambda **options: covariate(X5, [0, 1, 0, 1, 0], X5, **options),
]


@pytest.mark.parametrize("call", WITH_ALTERNATIVE)
def test_unknown_alternative(call: Callable[..., Test]) -> None:
    with pytest.raises(InputError, match="unknown alternative 'larger', expected one of two-sided, greater, less"):
        call(alternative="larger")


WITH_LEVEL: list[Callable[..., object]] = [
    *(call for i, call in enumerate(WITH_ALTERNATIVE) if i not in (3, 4)),
    lambda **options: paired_interval(X5, X5, **options),
    lambda **options: equivalence(X5, X5, 1.0, **options),
    lambda **options: rank_band(np.arange(20.0), **options),
]


@pytest.mark.parametrize("call", WITH_LEVEL)
@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, np.nan])
def test_impossible_level(call: Callable[..., object], level: float) -> None:
    with pytest.raises(InputError, match=f"level is {level}, expected a number between 0 and 1"):
        call(level=level)


@pytest.mark.parametrize(
    "call",
    [
        lambda n: permutation(X5, X5, n_resamples=n),
        lambda n: sign_flip(X5, n_resamples=n),
        lambda n: ratio_bootstrap(np.ones((2, 2)), np.ones((2, 2)), n_resamples=n),
    ],
)
def test_too_few_resamples(call: Callable[[int], Test]) -> None:
    with pytest.raises(InputError, match="n_resamples=98 given, expected at least 99"):
        call(98)
