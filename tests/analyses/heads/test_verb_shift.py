"""The verbs' shift: counts and shares by hand, matching, planted shifts, control models centred on zero."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ttest_ind, ttest_rel

from lensdiff import stats
from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs, head_word_pairs
from lensdiff.analyses.heads.verb_counts import counts_of_heads, matched_controls, shares
from lensdiff.analyses.heads.verb_groups import (
    Options,
    _sign_flip,
    _welch,
    head_differences,
    matched_verbs,
    with_band,
)
from lensdiff.analyses.heads.verb_shift import VerbShift, verb_shift
from lensdiff.inputs.verbs import INSTRUCTION_VERBS, general_verbs
from lensdiff.inputs.vocabulary import Vocabulary
from lensdiff.models import load_pair
from lensdiff.results import Control, ControlModel, InputError
from tests.analyses.heads.head_models import Named, known_words, made, paired_vectors, planted, random_vectors, wrapped
from tests.analyses.heads.results import CONTROLS, VERBS, WORDS, drawn, run, with_counts
from tests.checkpoints import hf_model

COUNTED = ["group", "verb", "kind", "heads_up", "heads_down", "share", "base_count", "tuned_count"]
COLUMNS = [*COUNTED, "sign_mean", "log_mean"]


def controls_of(kind: str, n: int, *, first: int = 2, mean: float = 3.0) -> list[HeadWordPairs]:
    """Control models of one kind, drawn as the base is."""
    found = [with_counts(drawn(seed, mean=mean)) for seed in range(first, first + n)]
    return [
        replace(one, provenance=replace(one.provenance, model=f"{kind} {i}", control=Control(kind, i)))
        for i, one in enumerate(found)
    ]


# kernels


def test_counts_by_hand() -> None:
    words = ("Write", "write", "poem", "Poem", "tell", "story", "a=b")
    head: list[Named] = [
        [("Write", "poem"), ("poem", "write"), ("tell", "story"), ("a=b", "tell")],
        [("tell", "story"), ("tell", "poem"), ("Write", "write"), ("story", "poem")],
        [("write", "Write"), ("a=b", "tell"), ("story", "poem")],
    ]
    empty: list[Named] = [[], [], []]
    counts = counts_of_heads(made([[head, empty]], words), ("tell", "write", "go"))
    # kept: {poem, write} twice in one dimension, {story, tell}, {a=b, tell}, {write, write} (two occurrences)
    assert counts.tolist() == [[[2, 3, 0], [0, 0, 0]]]
    once = counts_of_heads(made([[head, empty]], words), ("tell", "write", "go"), min_seen=1)
    assert once.tolist() == [[[3, 3, 0], [0, 0, 0]]]
    assert counts_of_heads(made([[head, empty]], words), ("tell",), min_seen=3).sum() == 0


def test_counts_against_a_loop_on_a_model() -> None:
    words = Vocabulary.default().words[:120]
    result = head_word_pairs(wrapped(hf_model("llama")), words, random_vectors(list(words)), threshold_std=0.5)
    verbs = words[10:40]
    found = counts_of_heads(result, verbs)
    for layer in range(2):
        for head in range(4):
            frame = result.to_df(layers=[layer], heads=[head])
            pairs = Counter(tuple(sorted(p)) for p in zip(frame.key_word, frame.query_word, strict=True))
            seen = Counter(word for pair, n in pairs.items() if n >= 2 for word in pair)
            assert found[layer, head].tolist() == [seen[verb] for verb in verbs]
    assert found.sum() > 100


def test_a_verb_that_moved_nowhere_has_no_share() -> None:
    found = shares(np.array([3, 0, 0]), np.array([1, 0, 2]))
    np.testing.assert_array_equal(found, [0.75, np.nan, 0.0])


def test_matching_takes_near_counts_once_and_zero_with_zero_alone() -> None:
    found = matched_controls(np.array([0, 10, 11, 50]), np.array([1, 10, 12, 9, 20, 0, 49]), matches=2)
    # 50 has one neighbour; 10 and 11 share 10, 12 and 9 (a third of 11's, 9, is within the caliper); 1 is not near 0
    assert found[0] == [5]
    assert found[3] == [6]
    assert sorted(found[1] + found[2]) == [1, 2, 3]
    assert (found[1][0], found[2][0]) == (1, 2)
    assert matched_controls(np.array([], dtype=int), np.array([1]), matches=1) == []
    assert matched_controls(np.array([1]), np.array([], dtype=int), matches=1) == [[]]


def test_head_differences_by_hand() -> None:
    base = np.array([[1, 1, 1, 1], [2, 2, 2, 2]])
    tuned = np.array([[2, 0, 0, 1], [3, 3, 2, 1]])
    options = Options(n_instruction=2, min_heads=1, min_verbs=1, matches=1, seed=0)
    matched = matched_verbs(base, tuned, options)
    assert (matched.verbs, matched.covered) == ([0, 1], 2)
    # signs: head 0: + - | - 0; head 1: + + | 0 -; shares 1, 1/2 | 0, 0
    assert matched.shares.tolist() == [1.0, 0.5]
    assert matched.control_shares.tolist() == [0.0, 0.0]
    assert head_differences(base, tuned, matched).tolist() == [0.5, 1.5]


# the statistic


def test_the_papers_numbers_by_hand() -> None:
    base, tuned = drawn(0), drawn(1)
    found = run(base, tuned, layers_per_group=2)
    assert [group.group for group in found.groups] == ["0-1", "2-2"]
    for group, rows in zip((*found.groups, found.whole), ([0, 1], [2], [0, 1, 2]), strict=True):
        up, down = (tuned[rows] > base[rows]).sum((0, 1)), (tuned[rows] < base[rows]).sum((0, 1))
        differs = up + down > 0
        share = up / np.maximum(up + down, 1)
        instruction, control = share[:8][differs[:8]], share[8:][differs[8:]]
        assert (group.n, group.control_n) == (len(instruction), len(control))
        assert (group.mean, group.std) == pytest.approx((instruction.mean(), instruction.std()))
        assert (group.control_mean, group.control_std) == pytest.approx((control.mean(), control.std()))
        assert group.paper_test is not None
        expected: Any = ttest_ind(instruction, control, equal_var=False)
        assert group.paper_test.p == pytest.approx(expected.pvalue)
        assert group.coverage == pytest.approx((up + down >= 5)[:8].mean())
    frame = found.to_df()
    assert list(frame.columns) == COLUMNS
    assert len(frame) == 2 * 32
    row = frame[(frame.group == "0-1") & (frame.verb == "do3")].iloc[0]
    assert row.heads_up == (tuned[:2, :, 3] > base[:2, :, 3]).sum()
    assert row.base_count == base[:2, :, 3].sum()
    assert row.tuned_count == tuned[:2, :, 3].sum()
    assert (row.kind, frame.iloc[8].kind) == ("instruction", "control")


def test_the_matched_numbers() -> None:
    base, tuned = drawn(0), drawn(1)
    found = run(base, tuned).whole
    options = Options(8, 5, 5, 5, 0)
    flat = base.reshape(-1, 32), tuned.reshape(-1, 32)
    matched = matched_verbs(*flat, options)
    assert (found.n_matched, found.note) == (8, "")
    expected: Any = ttest_rel(matched.shares, matched.control_shares)
    assert found.test is not None
    assert found.test.p == pytest.approx(expected.pvalue)
    assert found.difference == pytest.approx((matched.shares - matched.control_shares).mean())
    assert found.head_test is not None
    assert found.head_test.n == (18,)
    assert found.head_test.estimate == pytest.approx(head_differences(*flat, matched).mean())


def test_base_against_base_is_no_shift() -> None:
    base = with_counts(drawn(0))
    found = verb_shift(base, base, verbs=VERBS, control_verbs=CONTROLS)
    assert not found.heads_up.any()
    assert not found.heads_down.any()
    assert found.to_df().share.isna().all()
    assert found.top().share.isna().all()
    assert not found.to_df()[["sign_mean", "log_mean"]].to_numpy().any()
    assert found.whole.label_test is not None
    assert (found.whole.label_test.estimate, found.whole.label_test.p) == (0.0, 1.0)
    assert found.whole.note.startswith("not testable: 0 of 8 verbs have 5 differing heads")
    assert (found.whole.mean, found.whole.paper_test, found.whole.test, found.beside()) == (None, None, None, None)
    assert found.effects() == found.effects("log") == (0.0, [])


def test_a_planted_shift_is_found_and_the_controls_are_centred() -> None:
    base = drawn(0)
    tuned = drawn(1)
    tuned[..., :8] += 2  # every instruction verb gains two pairs in every head
    near, far = controls_of("spectrum", 20), controls_of("norm", 19, first=30)
    found = run(base, tuned, controls=[*near, *far], layers_per_group=3)
    assert found.whole.difference is not None
    assert found.whole.difference > 0.2
    assert found.whole.paper_test is not None
    assert found.whole.head_test is not None
    assert found.whole.label_test is not None
    for test in (found.whole.paper_test, found.whole.test, found.whole.head_test, found.whole.label_test):
        assert test is not None
        assert test.p is not None
        assert test.p < 0.01
    assert found.whole.band_high is not None
    assert found.whole.band_low is not None
    assert found.whole.band_low < 0 < found.whole.band_high < found.whole.difference
    differences = found.control_differences[:, 0].numpy()
    bands = [stats.rank_band(differences[:20]), stats.rank_band(differences[20:])]
    limits = min(float(band.low) for band in bands), max(float(band.high) for band in bands)
    assert (found.groups[0].band_low, found.groups[0].band_high) == pytest.approx(limits)
    # one number for the whole model
    for statistic, test, name in (
        ("sign", found.whole.label_test, "sign_mean"),
        ("log", found.whole.log_label_test, "log_mean"),
    ):
        assert test is not None
        effect, others = found.effects(statistic)
        assert effect == test.estimate
        alone = [run(base, base, controls=[one]).effects(statistic)[1][0] for one in (near[3], far[0])]
        assert [others[3], others[20]] == alone
        again = verb_shift(with_counts(base), near[3], verbs=VERBS, control_verbs=CONTROLS)
        assert others[3] == pytest.approx(again.effects(statistic)[0]), "a control is read as a tuned model is"
        assert getattr(found, name)[-1, :8].mean() - getattr(found, name)[-1, 8:].mean() > 0.2
        beside = found.beside(statistic)
        assert beside is not None
        assert (beside.effect, beside.direction) == (effect, "above")
        assert [(kind.kind, kind.n) for kind in beside.kinds] == [("spectrum", 20), ("norm", 19)]
        p = [stats.control_rank(effect, some).p for some in (others[:20], others[20:])]
        assert [kind.p for kind in beside.kinds] == p
        assert beside.verdict() == "beyond all, too few"
    assert found.control_kinds == ("spectrum",) * 20 + ("norm",) * 19
    first, *_, last = found.provenance.controls
    assert first == ControlModel("spectrum 0", Control("spectrum", 0))
    assert last == ControlModel("norm 18", Control("norm", 18))
    with pytest.raises(InputError, match="statistic='mean' is none of sign, log"):
        found.beside("mean")


def test_with_fewer_than_19_of_a_kind_there_is_no_band() -> None:
    base, tuned = drawn(0), drawn(1)
    many = controls_of("spectrum", 19)
    for controls in (many[:1], many[:2], many[:18], [*many, *controls_of("norm", 1)]):
        found = run(base, tuned, controls=controls)
        assert found.whole.difference is not None
        assert (found.whole.band_low, found.whole.band_high) == (None, None)
        beside = found.beside()
        assert beside is not None
        assert (beside.p, beside.verdict()) == (None, "too few")
        assert sum(kind.n for kind in beside.kinds) == len(controls)
    assert run(base, tuned, controls=many).whole.band_low is not None


def test_a_band_leaves_out_the_controls_that_cannot_be_tested() -> None:
    base, tuned = drawn(0), drawn(1)
    still = with_counts(base)  # a control without a differing head has no difference
    found = run(base, tuned, controls=[*controls_of("spectrum", 19), *[still] * 19])
    differences = found.control_differences[:, -1].numpy()
    assert np.isnan(differences[19:]).all()
    band = stats.rank_band(differences[:19])
    assert (found.whole.band_low, found.whole.band_high) == (float(band.low), float(band.high))
    fewer = run(base, tuned, controls=[*controls_of("spectrum", 18), *[still] * 19])
    assert fewer.whole.band_low is None


def test_a_shift_planted_in_a_model_is_found() -> None:
    words = [word for word in known_words() if word.islower()][:28]
    vectors, rng = paired_vectors(words), np.random.default_rng(0)
    # word 2i is a verb, 2i + 1 what it goes with; a head knows a verb when two of its dimensions hold the pair
    places = [(layer, head) for layer in range(2) for head in range(4)]
    base_knows, tuned_knows = (rng.random((len(places), 14)) < 0.4 for _ in range(2))
    tuned_knows[:, :7] = True

    def pairs_with(knows: np.ndarray) -> HeadWordPairs:
        plants = [
            (*place, dim, 2 * verb, 2 * verb + 1, 1.0)
            for place, known in zip(places, knows, strict=True)
            for verb in np.flatnonzero(known).tolist()
            for dim in (0, 1)
        ]
        return head_word_pairs(wrapped(planted(plants, words)), words, vectors)

    lists: dict[str, Any] = {"verbs": words[:14:2], "control_verbs": words[14::2]}
    base, tuned = pairs_with(base_knows), pairs_with(tuned_knows)
    np.testing.assert_array_equal(counts_of_heads(base, tuple(words[::2])).reshape(8, 14), base_knows)
    found = verb_shift(base, tuned, min_heads=3, min_verbs=3, **lists)
    up = (tuned_knows & ~base_knows).sum(0)
    assert found.heads_up[0].tolist() == up.tolist()
    assert found.whole.mean == 1.0
    assert found.whole.control_mean is not None
    assert 0.2 < found.whole.control_mean < 0.8
    assert found.whole.difference is not None
    assert found.whole.difference > 0.2
    again = verb_shift(base, pairs_with(base_knows), min_heads=1, min_verbs=2, **lists)
    assert (int(again.heads_up.sum()), int(again.heads_down.sum())) == (0, 0)


def test_unmatched_base_counts_fool_the_paper_and_not_the_matched_difference() -> None:
    # no shift at all: both draws of one distribution; but instruction verbs are rare, so a zero can only rise
    rng, hits = np.random.default_rng(3), 0
    differences = []
    for _ in range(30):
        rates = np.concatenate([np.full(8, 0.15), np.linspace(0.15, 4.0, 24)])
        base, tuned = (rng.poisson(rates, (3, 12, 32)) for _ in range(2))
        chosen = base.sum((0, 1)) < 6  # a verb list chosen for being rare in the base regresses to the mean
        base, tuned = (np.concatenate([x[..., chosen], x[..., ~chosen]], axis=-1) for x in (base, tuned))
        n = int(chosen.sum())
        if n < 5:
            continue
        hits += 1
        verbs = tuple(WORDS[:32][:n]), tuple(WORDS[n:32])
        found = verb_shift(with_counts(base), with_counts(tuned), verbs=verbs[0], control_verbs=verbs[1]).whole
        assert found.mean is not None
        assert found.control_mean is not None
        differences.append(found.mean - found.control_mean)
        assert found.note.startswith("not testable")  # nothing of equal base count is left to hold them against
    assert hits > 10
    assert np.mean(differences) > 0.05


def test_a_rise_beyond_99_controls_has_their_smallest_p() -> None:
    base, tuned = drawn(0), drawn(1)
    tuned[..., :8] += 2
    controls = (with_counts(drawn(seed)) for seed in range(2, 101))
    found = run(base, tuned, controls=controls)
    for statistic in ("sign", "log"):
        beside = found.beside(statistic)
        assert beside is not None
        assert (beside.p, beside.verdict()) == (0.01, "beyond")
    assert found.control_differences.shape == (99, 2)
    assert found.control_kinds == ("given",) * 99


def test_control_models_are_centred_on_zero() -> None:
    words = Vocabulary.default().words[:160]
    vectors, options = random_vectors(list(words)), {"top_k": 40, "threshold_std": 0.5}
    hf = hf_model("llama", seed=1)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(
                0.1 * parameter.std() * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5))
            )
    pair = load_pair(wrapped(hf_model("llama", seed=1)), wrapped(hf))
    base = head_word_pairs(pair.base, words, vectors, **options)
    mixed = [words[i] for i in np.random.default_rng(0).permutation(len(words))]
    verbs, others = mixed[:30], mixed[30:]
    controls = (
        head_word_pairs(pair.control(kind, seed), words, vectors, **options)
        for kind in ("norm", "spectrum")
        for seed in range(8)
    )
    found = verb_shift(base, base, verbs=verbs, control_verbs=others, controls=controls, min_heads=4)
    effects = found.control_differences[:, -1].numpy()
    assert not np.isnan(effects).any()
    assert effects.std() > 0
    test = stats.one_sample(effects)
    assert test.p is not None
    assert test.p > 0.01
    assert abs(effects.mean()) < 0.05


# options and errors


def test_thresholds_of_coverage_are_options() -> None:
    base, tuned = drawn(0), drawn(1)
    assert run(base, tuned, min_heads=18).whole.note.startswith("not testable")
    assert run(base, tuned, min_verbs=9).whole.note.endswith("expected at least 9")
    assert run(base, tuned, matches=1).whole.matched_control_mean != run(base, tuned).whole.matched_control_mean
    assert run(base, tuned, min_seen=3).heads_up.sum() == 0  # every pair of these is seen exactly twice
    controls = controls_of("spectrum", 19)
    narrow, usual = (run(base, tuned, controls=controls, level=level) for level in (0.5, 0.95))
    assert narrow.whole.band_low is not None
    assert usual.whole.band_low is not None
    assert narrow.whole.band_low > usual.whole.band_low
    for found, level in ((narrow, 0.5), (usual, 0.95)):
        beside = found.beside()
        assert beside is not None
        assert beside.level == level
    assert run(base, tuned, seed=3).provenance.seed == 3


def test_verbs_default_to_the_shipped_lists() -> None:
    words = ("write", "WRITE", "see", "know")
    base = made([[[[("write", "see")], [("see", "WRITE")]]]], words)
    found = verb_shift(base, base)
    assert found.verbs[:38] == INSTRUCTION_VERBS
    assert found.verbs[38:] == general_verbs()
    assert found.base_count[0, found.verbs.index("write")] == 1
    options = found.provenance.options
    assert "write" not in options["verbs_not_in_word_list"]
    assert len(options["verbs_not_in_word_list"]) == 37
    assert options["control_verbs_not_in_word_list"] == 2998
    assert "see" not in verb_shift(base, base, verbs=["see"]).verbs[1:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"verbs": ()}, "0 verbs and 24 control verbs were given, expected some of both"),
        ({"control_verbs": ()}, "8 verbs and 0 control verbs were given"),
        ({"control_verbs": ("be1", "DO1")}, "the verb 'do1' is listed twice"),
        ({"layers_per_group": 0}, "layers_per_group=0 given, expected at least 1"),
        ({"min_seen": 0}, "min_seen=0 given, expected at least 1"),
        ({"min_heads": 0}, "min_heads=0 given, expected at least 1"),
        ({"min_verbs": 1}, "min_verbs=1 given, expected at least 2"),
        ({"matches": 0}, "matches=0 given, expected at least 1"),
        ({"level": 1.5}, "level is 1.5"),
    ],
)
def test_unusable_options_are_refused(options: dict[str, Any], message: str) -> None:
    base = with_counts(drawn(0))
    controls = [with_counts(drawn(s)) for s in range(1, 20)]
    with pytest.raises(InputError, match=message):
        verb_shift(base, base, **{"verbs": VERBS, "control_verbs": CONTROLS, "controls": controls} | options)


def test_results_that_cannot_be_compared_are_refused() -> None:
    base = with_counts(drawn(0))
    lists: dict[str, Any] = {"verbs": VERBS, "control_verbs": CONTROLS}
    with pytest.raises(InputError, match=r"tuned has layers \(0, 1\), base \(0, 1, 2\): expected word pairs made with"):
        verb_shift(base, with_counts(drawn(0, n_layers=2)), **lists)
    with pytest.raises(InputError, match=r"tuned has heads \(0, 1\)"):
        verb_shift(base, with_counts(drawn(0, n_heads=2)), **lists)
    with pytest.raises(InputError, match=r"control 0 has other words \(3 words, base 72\)"):
        verb_shift(base, base, controls=[made([[[[], []]] * 6] * 3, ("a", "b", "c"))], **lists)
    with pytest.raises(InputError, match="tuned has top_k 8, base 9"):
        verb_shift(base, made([[[[], []]] * 6] * 3, WORDS, top_k=8), **lists)


@pytest.mark.parametrize("few", [[0.5], [0.5, 0.5, 0.5]])
def test_a_share_that_is_no_number_is_an_error(few: list[float]) -> None:
    """Neither one verb alone nor equal shares, which have no test, hide it."""
    with pytest.raises(InputError, match=r"base\[0\] is nan, expected finite values"):
        _welch(np.array(few), np.array([np.nan]))
    with pytest.raises(InputError, match=r"differences\[0\] is inf, expected finite values"):
        _sign_flip(np.array([np.inf]), 0)
    group = run(drawn(0), drawn(1)).whole
    with pytest.raises(InputError, match=rf"controls 'norm'\[{len(few)}\] is inf, expected finite values"):
        with_band(group, np.array([*few, np.inf]), ["norm"] * (len(few) + 1), 0.95)


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    base, tuned = drawn(0), drawn(1)
    found = run(base, tuned, controls=controls_of("norm", 19), layers_per_group=2)
    loaded = VerbShift.load(found.save(tmp_path / "verbs.safetensors"))
    assert loaded.groups == found.groups
    assert (loaded.whole, loaded.beside(), loaded.verbs) == (found.whole, found.beside(), found.verbs)
    assert loaded.to_df().equals(found.to_df())
    assert loaded.provenance == found.provenance


def test_summary_and_top() -> None:
    base, tuned = drawn(0), drawn(1)
    tuned[..., 2] += 9
    found = run(base, tuned, layers_per_group=2)
    summary = found.summary()
    assert list(summary.group) == ["0-1", "2-2", "all"]
    assert summary.test_p.iloc[-1] == pytest.approx(found.whole.test.p if found.whole.test else None)
    assert "paired t" in summary.test.iloc[-1]
    assert "Welch" in summary.paper_test.iloc[0]
    top = found.top(3)
    assert list(top.columns) == ["verb", "heads_up", "heads_down", "share", "sign_mean", "log_mean"]
    assert (top.sign_mean[0], top.log_mean[0]) == (1.0, pytest.approx(found.log_mean[-1, 2]))
    assert (top.verb[0], top.heads_up[0], top.share[0]) == ("do2", 18, 1.0)
    assert len(found.top(99)) == 8
