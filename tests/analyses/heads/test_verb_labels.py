"""Labels of verbs permuted in strata: by hand, planted gains, and every way a verb may move without its label."""

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from lensdiff import stats
from lensdiff.analyses.heads.verb_groups import GroupShift
from lensdiff.analyses.heads.verb_labels import (
    UNKNOWN,
    Labels,
    frequency_quarters,
    label_effects,
    labels_of,
    movement,
    verb_strata,
    with_label_tests,
)
from lensdiff.inputs.vocabulary import Vocabulary
from lensdiff.results import InputError
from tests.analyses.heads.results import CONTROLS, VERBS, drawn, run, with_counts

# --- the kernels


def test_movement_by_hand() -> None:
    base, tuned = np.array([[0, 2, 1], [0, 0, 3]]), np.array([[1, 2, 0], [3, 0, 0]])
    moved = movement(base, tuned)
    assert moved.sign.tolist() == [1.0, 0.0, -1.0]
    np.testing.assert_allclose(moved.log, [(np.log(2) + np.log(4)) / 2, 0.0, -(np.log(2) + np.log(4)) / 2])


def test_strata_are_count_by_quartile() -> None:
    counts = np.array([0, 1, 2, 3, 5, 6, 10, 11, 20, 21, 50, 51, 999])
    zero = np.zeros(len(counts), dtype=int)
    assert (verb_strata(counts, zero) // 5).tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert verb_strata(np.array([0, 0, 4]), np.array([3, UNKNOWN, 1])).tolist() == [3, 4, 11]


def test_quartiles_are_of_countable_verbs_and_no_frequency_is_a_part_of_its_own() -> None:
    frequency = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, np.nan, 1e9])
    countable = np.array([True] * 9 + [False])
    assert frequency_quarters(frequency, countable).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, UNKNOWN, 3]
    assert len(set(frequency_quarters(np.ones(4), np.ones(4, bool)).tolist())) == 1  # unknown to all: no quartiles
    assert frequency_quarters(np.full(2, np.nan), np.ones(2, bool)).tolist() == [UNKNOWN] * 2


def test_labels_compare_in_lower_case() -> None:
    frequencies = Vocabulary(("Write", "tell", "WRITE", "go", "see"), np.array([3.0, 2.0, 2.0, 1.0, 0.5]))
    labels = labels_of(("write", "tell", "go", "run"), 2, ("WRITE", "go", "run"), frequencies)
    assert labels.instruction.tolist() == [True, True, False, False]
    assert labels.countable.tolist() == [True, False, True, True]
    assert labels.quarter.tolist() == [3, 0, 0, UNKNOWN]  # 5, 2 and 1 among the quartiles of 5 and 1: 2, 3, 4


# --- the permutation


def enumerated(x: np.ndarray, group: np.ndarray, strata: np.ndarray) -> tuple[float, np.ndarray]:
    """T of the data, and of every assignment of labels within strata."""
    means = {s: x[strata == s].mean() for s in np.unique(strata)}
    centred = x - np.array([means[s] for s in strata])
    both = [s for s in np.unique(strata) if 0 < group[strata == s].sum() < (strata == s).sum()]
    n = sum(group[strata == s].sum() for s in both)
    picks = [
        [centred[list(c)].sum() for c in itertools.combinations(np.flatnonzero(strata == s), group[strata == s].sum())]
        for s in both
    ]
    observed = sum(centred[(strata == s) & (group == 1)].sum() for s in both) / n
    return observed, np.array([sum(c) / n for c in itertools.product(*picks)])


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_the_permutation_is_the_enumeration(alternative: str) -> None:
    rng = np.random.default_rng(0)
    strata = np.array([0] * 6 + [1] * 5 + [2] * 3 + [3] * 2)
    group = np.array([1, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1])  # more than half of stratum 1 are of the group
    x = rng.integers(0, 4, 16).astype(float) + 0.1
    observed, every = enumerated(x, group, strata)
    above, below = (every >= observed - 1e-9).mean(), (every <= observed + 1e-9).mean()
    expected = {"greater": above, "less": below, "two-sided": min(1, 2 * min(above, below))}[alternative]
    test = stats.stratified_permutations(x[None], group, strata, n_resamples=20000, alternative=alternative)[0]
    assert test.estimate == pytest.approx(observed)
    assert test.p == pytest.approx(expected, abs=0.015)
    assert test.n == (5, 6)
    assert test.note.endswith("in 2 strata, seed 0; 2 strata without both labels left out, with 2 of the group")
    assert stats.stratified_effects(x[None], group, strata) == pytest.approx([observed])


def test_the_data_count_as_one_permutation_and_statistics_share_them() -> None:
    x = np.arange(40.0)
    group = x >= 20
    tests = stats.stratified_permutations(np.stack([x, x, -x]), group, np.zeros(40), n_resamples=199)
    assert [test.p for test in tests] == [2 / 200] * 3
    rng = np.random.default_rng(1)
    noise = rng.normal(size=40)
    same = [stats.stratified_permutations(noise[None], group, np.zeros(40), n_resamples=199, seed=3)[0] for _ in "ab"]
    assert same[0] == same[1]
    seeds = range(5)
    assert (
        len({stats.stratified_permutations(noise[None], group, x * 0, n_resamples=199, seed=s)[0].p for s in seeds}) > 1
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f(np.ones((1, 3)), [0, 1], [0, 0, 0]), r"values of shape \(3,\), group of \(2,\) and strata of"),
        (lambda f: f(np.ones(3), [0, 1, 0], [0, 0, 0]), "expected one of each per observation"),
        (lambda f: f(np.ones((1, 3)), [0, 1, 2], [0, 0, 0]), r"group holds \[0.0, 1.0, 2.0\], expected 0 and 1"),
        (lambda f: f(np.full((1, 3), np.nan), [0, 1, 1], [0, 0, 0]), r"values\[0, 0\] is nan"),
        (lambda f: f(np.ones((1, 3)), [0, 1, 1], [0, 1, 2]), "none of 3 strata holds both labels"),
        (
            lambda f: f(np.ones((1, 3)), [0, 1, 1], [0, 0, 0], n_resamples=98),
            "n_resamples=98 given, expected at least 99",
        ),
        (lambda f: f(np.ones((1, 3)), [0, 1, 1], [0, 0, 0], alternative="up"), "unknown alternative 'up'"),
    ],
)
def test_unusable_data_are_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(stats.stratified_permutations)


# --- planted pairs


def test_gains_in_all_heads_are_found() -> None:
    base = drawn(0)
    tuned = base.copy()
    tuned[..., : len(VERBS)] += 1
    found = run(base, tuned, layers_per_group=2)
    for group in (*found.groups, found.whole):
        for test in (group.label_test, group.log_label_test):
            assert test is not None
            assert test.p is not None
            assert test.estimate > 0
            assert test.p < 0.01
    assert found.sign_mean[-1, : len(VERBS)].tolist() == [1.0] * len(VERBS)
    fell = run(tuned, base).whole.label_test
    assert fell is not None
    assert fell.p is not None
    assert fell.estimate < 0
    assert fell.p < 0.01


def test_sixty_heads_of_sixty_are_more_than_six() -> None:
    """Verbs that no head of the base knows: each share is 1, so the matched difference cannot tell the two apart."""
    n_verbs = len(VERBS) + len(CONTROLS)
    base, tuned = (np.zeros((6, 10, n_verbs), dtype=int) for _ in range(2))
    tuned[..., : len(VERBS)] = 1
    tuned[0, :6, len(VERBS) :] = 1
    found = run(base, tuned, layers_per_group=6).whole
    assert found.difference == 0.0
    assert found.label_test is not None
    assert found.label_test.p is not None
    assert found.label_test.estimate == pytest.approx(0.75 * 0.9)  # 1 against .1; the strata's means hold both labels
    assert found.label_test.p < 0.001


def test_control_models_have_the_same_statistic() -> None:
    base, tuned = drawn(0), drawn(1)
    found = run(base, tuned, controls=[with_counts(drawn(1)), *(with_counts(drawn(s)) for s in (2, 3))])
    assert found.whole.label_test is not None
    assert found.whole.log_label_test is not None
    assert found.control_sign[0, -1] == pytest.approx(found.whole.label_test.estimate)
    assert found.control_log[0, -1] == pytest.approx(found.whole.log_label_test.estimate)
    assert found.control_sign.shape == found.control_log.shape == (3, 2)
    assert found.control_sign[0, -1] != found.control_sign[1, -1]


def test_frequencies_are_an_option_and_form_the_strata() -> None:
    base, tuned = drawn(0), drawn(1)
    verbs = (*VERBS, *CONTROLS)
    rare = Vocabulary(verbs, np.array([1.0] * len(VERBS) + [9.0] * len(CONTROLS)))
    alike = Vocabulary.of(verbs)
    assert run(base, tuned, frequencies=alike).whole.label_test == run(base, tuned).whole.label_test  # none is known
    found = run(base, tuned, frequencies=rare).whole
    assert (found.label_test, found.log_label_test) == (None, None)
    assert found.label_note == "not testable: no instruction verb has a control verb in its stratum"
    assert run(base, tuned, frequencies=rare).provenance.options["frequencies"] == "given words"
    assert run(base, tuned).provenance.options["frequencies"] == Vocabulary.default().source


def test_verbs_outside_the_word_list_take_no_part() -> None:
    labels = Labels(np.array([True, True, False, False]), np.array([True, False, True, False]), np.zeros(4, dtype=int))
    base, tuned = np.ones((5, 4), dtype=int), np.ones((5, 4), dtype=int)
    tuned[:, 0] = 2
    assert label_effects(base, tuned, labels)[0] == 0.5
    assert np.isnan(label_effects(base[:, :2], tuned[:, :2], Labels(*(x[:2] for x in labels)))[0])


def test_the_p_values_of_a_group_are_one_family() -> None:
    found = run(drawn(0), drawn(1)).whole
    tests = [found.paper_test, found.test, found.head_test, found.label_test, found.log_label_test]
    p = np.array([test.p for test in tests if test is not None], dtype=float)
    assert len(p) == 5
    adjusted = [test.p_adjusted for test in tests if test is not None]
    np.testing.assert_allclose(np.array(adjusted, float), scipy_stats.false_discovery_control(p))
    assert {test.family for test in tests if test is not None} == {"layers all"}
    row = run(drawn(0), drawn(1)).summary().iloc[-1]
    assert (row.label_test_p, row.label_test_p_adjusted) == (p[3], adjusted[3])


# --- pairs in which labels mean nothing

N_VERBS, N_INSTRUCTION, N_HEADS = 80, 16, 12
NULLS = 200
EMPTY = GroupShift("all", 0, None, None, 0, None, None, None, 0.0, 0)


def quick_p(
    base: np.ndarray, tuned: np.ndarray, instruction: np.ndarray, quarter: np.ndarray, seed: int
) -> list[float]:
    """p of both statistics, with few permutations."""
    sign, log = stats.stratified_permutations(
        np.stack(movement(base, tuned)),
        instruction,
        verb_strata(base.sum(axis=0), quarter),
        n_resamples=99,
        seed=seed,
    )
    return [float(test.p or 0) for test in (sign, log)]


def chance(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rates = rng.exponential(size=N_VERBS)
    base, tuned = rng.poisson(rates, (2, N_HEADS, N_VERBS))
    return base, tuned, rng.permutation(N_VERBS) < N_INSTRUCTION


def one_row_changed(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One verb's embedding changed: it gains in every head at once, and no other moves."""
    base, _, instruction = chance(rng)
    tuned = base.copy()
    tuned[:, rng.integers(N_VERBS)] += 1
    return base, tuned, instruction


def drift_by_count(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Verbs with high counts lose and those without gain; instruction verbs have low counts; labels add nothing."""
    rates = rng.choice([0.0, 0.1, 0.3, 0.7, 1.3, 3.0, 6.0], N_VERBS)
    base = rng.poisson(rates, (N_HEADS, N_VERBS))
    step = np.searchsorted([1, 3, 6, 11, 21, 51], base.sum(axis=0), side="right")
    tuned = np.maximum(base + (rng.random(base.shape) < 0.6 - 0.1 * step) - (rng.random(base.shape) < 0.1 * step), 0)
    chosen = np.argsort(step + rng.normal(0, 2, N_VERBS))[:N_INSTRUCTION]
    return base, tuned, np.isin(np.arange(N_VERBS), chosen)


@pytest.mark.parametrize("draw", [chance, one_row_changed, drift_by_count])
def test_what_is_not_the_labels_doing_is_not_called_so(draw: Any) -> None:
    rng, found = np.random.default_rng(7), []
    for seed in range(NULLS):
        base, tuned, instruction = draw(rng)
        found.append(quick_p(base, tuned, instruction, rng.integers(0, 2, N_VERBS), seed))
    _, most = scipy_stats.binom.interval(0.999, NULLS, 0.05)
    for p in np.array(found).T:
        assert (p <= 0.05).sum() <= most
        if draw is chance:  # uniform, but for the few values that 99 permutations can take
            assert scipy_stats.kstest(p, "uniform").pvalue > 0.001


def test_without_strata_the_drift_would_be_called_the_labels_doing() -> None:
    rng, found = np.random.default_rng(7), []
    for seed in range(50):
        base, tuned, instruction = drift_by_count(rng)
        tests = stats.stratified_permutations(
            np.stack(movement(base, tuned)), instruction, np.zeros(N_VERBS), n_resamples=99, seed=seed
        )
        found.append(float(tests[0].p or 0) <= 0.05)
    assert np.mean(found) > 0.3


def test_a_group_without_verbs_to_compare_says_so() -> None:
    labels = Labels(np.array([True, False]), np.array([True, True]), np.array([0, 3]))
    group = with_label_tests(EMPTY, np.ones((3, 2), dtype=int), np.ones((3, 2), dtype=int), labels, seed=0)
    assert (group.label_test, group.label_note != "") == (None, True)
