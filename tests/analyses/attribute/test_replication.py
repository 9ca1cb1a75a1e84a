"""The paper's score of planted attributions: who counts, at what length, and when the ways disagree."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.analyses.attribute.replication import (
    LOG,
    ONE_LENGTH,
    OWN,
    Replication,
    log_probability_scores,
    replication,
)
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import load_model
from lensdiff.results import InputError
from tests.analyses.attribute.results import attribution
from tests.checkpoints import hf_model, tokenizer_of

N, INSTRUCTION = 6, 3


def planted(name: str, columns: list[list[int]], *, text: str | None = None, **changes) -> Attribution:
    """A map in which every response token has its importance, all equal, in the given prompt tokens."""
    scores = torch.zeros(N, len(columns))
    for m, tokens in enumerate(columns):
        scores[tokens, m] = 0.1
    words = [f" t{m}" for m in range(len(columns))]
    found = attribution(response=words, scores=scores, instruction=INSTRUCTION, prompt_id=name)
    return replace(found, response="".join(words) if text is None else text, **changes)


def score(one: Attribution) -> float:
    """The formula by hand, in numpy."""
    s = one.scores.numpy()
    levels = np.ceil(10 * (np.maximum(s, 0) / (np.maximum(s, 0).max(axis=0) + 1e-7)))
    kept = np.where(levels > 7, levels, 0)
    density = kept.sum(axis=1) / ((kept**4).sum(axis=1) ** 0.25 + 1e-7)
    return float((density / (density.max() + 1e-7))[:INSTRUCTION].sum() / math.log2(2 + INSTRUCTION))


def varied(i: int, n_out: int, share: float) -> list[list[int]]:
    """n_out columns, of which a share rests on a token of the instruction; which ones depends on the prompt."""
    rng = np.random.default_rng(i)
    return [
        [int(rng.integers(INSTRUCTION)) if rng.random() < share else INSTRUCTION + int(rng.integers(3))]
        for _ in range(n_out)
    ]


def way(found: Replication, name: str):
    return next(one for one in found.ways if one.way == name)


def test_a_score_that_is_no_number_is_an_error(monkeypatch):
    maps = [[planted(f"p{i}", varied(i, 8, share)) for i in range(3)] for share in (0.2, 0.8)]
    for n in (1, 3):
        monkeypatch.setattr("lensdiff.analyses.attribute.replication._score", lambda *_, **__: math.nan)
        with pytest.raises(InputError, match=r"tuned\[0\] is nan, expected finite values"):
            replication(*(side[:n] for side in maps))


def test_half_of_the_responses_empty_is_the_number_of_the_others():
    base = [planted(f"p{i}", varied(i, 8, 0.3)) for i in range(12)]
    tuned = [planted(f"p{i}", varied(100 + i, 0 if i % 2 else 8, 0.7)) for i in range(12)]
    found = way(replication(base, tuned), OWN)
    pairs = np.array([[score(b), score(t)] for b, t in list(zip(base, tuned, strict=True))[::2]])
    assert (found.n, found.n_left_out, found.n_empty) == (6, 6, 6)
    assert (found.base, found.tuned) == pytest.approx(tuple(pairs.mean(axis=0)), rel=1e-6)
    expected = scipy_stats.ttest_rel(pairs[:, 1], pairs[:, 0])
    assert found.test is not None
    assert found.test.estimate == pytest.approx((pairs[:, 1] - pairs[:, 0]).mean(), abs=1e-6)
    assert found.test.p == pytest.approx(expected.pvalue, rel=1e-4)
    interval = expected.confidence_interval()
    assert (found.test.low, found.test.high) == pytest.approx((interval.low, interval.high), abs=1e-6)
    only = replication(base[::2], tuned[::2])
    assert way(only, OWN).test.estimate == found.test.estimate
    assert (way(only, OWN).n_left_out, way(only, OWN).n_empty) == (0, 0)


@pytest.mark.parametrize(("shortest", "n"), [(1, 0), (4, 0), (5, 4), (6, 4)])
def test_short_responses_of_either_model_are_left_out_and_counted(shortest, n):
    for swapped in (False, True):
        long = [planted(f"p{i}", varied(i, 9, 0.5)) for i in range(4)]
        short = [planted(f"p{i}", varied(9 + i, shortest, 0.5)) for i in range(4)]
        found = way(replication(*((short, long) if swapped else (long, short))), OWN)
        assert (found.n, found.n_left_out, found.n_empty) == (n, 4 - n, 0)
    lenient = replication(long, short, min_tokens=1)
    assert way(lenient, OWN).n == 4
    assert lenient.min_tokens == 1


def test_a_prompt_without_an_instruction_or_in_one_model_alone_is_no_observation():
    base = [planted(f"p{i}", varied(i, 8, 0.5)) for i in range(5)]
    tuned = [planted(f"p{i}", varied(9 + i, 8, 0.5)) for i in range(4)]
    base[0] = replace(base[0], instruction=torch.zeros(N, dtype=torch.bool))
    assert way(replication(base, tuned), OWN).n == 3


def test_one_length_cuts_the_longer_response():
    base = [planted(f"p{i}", varied(i, 5, 0.4)) for i in range(6)]
    tuned = [planted(f"p{i}", [*varied(50 + i, 5, 0.4), *[[0], [1], [2]] * 5]) for i in range(6)]
    cut = [planted(f"p{i}", varied(50 + i, 5, 0.4)) for i in range(6)]
    found = replication(base, tuned)
    assert way(found, ONE_LENGTH).tuned == pytest.approx(np.mean([score(one) for one in cut]), rel=1e-6)
    assert way(found, OWN).tuned == pytest.approx(np.mean([score(one) for one in tuned]), rel=1e-6)
    assert way(found, ONE_LENGTH).base == way(found, OWN).base


def test_a_difference_that_comes_with_the_length_is_said_to_depend_on_it():
    # the first five tokens of both models are alike; the tuned model goes on, about the instruction
    start = [varied(i, 5, 0.4) for i in range(16)]
    base = [planted(f"p{i}", one) for i, one in enumerate(start)]
    tuned = [planted(f"p{i}", [*one, *[[0], [1], [2]] * 6]) for i, one in enumerate(start)]
    found = replication(base, tuned)
    assert (way(found, OWN).answer, way(found, ONE_LENGTH).answer) == ("rose", "no change shown")
    assert found.depends_on_length
    assert str(found).endswith("The difference depends on the responses' length.")
    assert set(found.to_df()["depends_on_length"]) == {True}


def test_a_difference_of_equal_lengths_does_not_depend_on_them():
    for shares, answer in (((0.2, 0.9), "rose"), ((0.9, 0.2), "fell"), ((0.5, 0.5), "no change shown")):
        base, tuned = (
            [planted(f"p{i}", varied(i + 99 * k, 20, share)) for i in range(20)] for k, share in enumerate(shares)
        )
        found = replication(base, tuned, same_text={"the reference": (base, tuned)})
        assert {one.answer for one in found.ways} == {answer}
        assert not found.depends_on_length
        assert "depends" not in str(found)


def test_the_same_text_is_a_way_of_its_own():
    text = " the same"
    base = [planted(f"p{i}", varied(i, 10, 0.3), text=text) for i in range(14)]
    tuned = [planted(f"p{i}", varied(99 + i, 10, 0.9), text=text) for i in range(14)]
    own = [planted(f"p{i}", varied(i, 10, 0.3)) for i in range(14)]
    found = replication(own, own, same_text={"the reference": (base, tuned)})
    forced = way(found, "same text, the reference")
    pairs = np.array([[score(b), score(t)] for b, t in zip(base, tuned, strict=True)])
    assert (forced.base, forced.tuned) == pytest.approx(tuple(pairs.mean(axis=0)), rel=1e-6)
    assert (forced.answer, way(found, OWN).answer) == ("rose", "no change shown")
    assert found.depends_on_length
    with pytest.raises(InputError, match="same_text 'x': the models have different responses to prompt 'p0'"):
        replication(own, own, same_text={"x": (base, own)})


def test_log_probability_keeps_the_columns_that_vanish():
    # the second half of the response is so confident that e takes its columns
    columns = [[3]] * 5 + [[0]] * 5
    one = planted("p", columns)
    faint = one.scores * torch.tensor([1.0] * 5 + [1e-9] * 5)
    faint = replace(one, scores=faint, probabilities=torch.tensor([1.0] * 5 + [1e-9] * 5))
    pairs = [[replace(faint, prompt_id=f"p{i}") for i in range(3)] for _ in range(2)]
    found = replication(*pairs)
    assert way(found, OWN).base == 0
    assert (
        way(found, OWN + LOG).base == pytest.approx(score(one), rel=1e-5) == pytest.approx(1 / math.log2(5), rel=1e-5)
    )
    zero = log_probability_scores(torch.ones(2, 2), torch.tensor([0.0, 0.5]))
    assert zero.tolist() == [[0, 2], [0, 2]]


def test_the_log_probabilitys_scores_are_those_of_its_own_gradient():
    model = load_model(hf_model("llama", dtype=torch.float64), tokenizer=tokenizer_of(), dtype="float64", device="cpu")
    prompt, text = Prompt("Write a poem about the sea", instruction=["Write a poem"]), "Blue waves and more"
    plain, log = (
        attribute(model, prompt, text, target=target, deletion_draws=0) for target in ("probability", "log_probability")
    )
    found = log_probability_scores(plain.scores, plain.probabilities)
    torch.testing.assert_close(found, log.scores, rtol=1e-9, atol=1e-12)


def test_every_prompt_differing_alike_has_a_test():
    base = [planted(f"p{i}", [[3]] * 6) for i in range(8)]
    tuned = [planted(f"p{i}", [[0]] * 6) for i in range(8)]
    found = way(replication(base, tuned), OWN)
    assert found.test is not None
    assert found.test.name == "sign flip"
    assert found.answer == "rose"
    same = way(replication(base, base), OWN)
    assert (same.test.estimate, same.test.p, same.answer) == (0, 1, "no change shown")


def test_too_few_prompts_have_means_and_no_test():
    base, tuned = ([planted("p", varied(i, 8, 0.5))] for i in (0, 1))
    found = replication(base, tuned)
    assert way(found, OWN).test is None
    assert way(found, OWN).answer is None
    assert way(found, OWN).base == pytest.approx(score(base[0]), rel=1e-6)
    assert "1 prompt(s), too few to test" in str(found)
    assert not found.depends_on_length
    nothing = replication([], [])
    assert math.isnan(way(nothing, OWN).base)
    frame = nothing.to_df()
    assert list(frame["way"]) == [OWN, ONE_LENGTH, OWN + LOG, ONE_LENGTH + LOG]
    assert frame[["base", "low", "p", "answer"]].isna().all().all()


def test_level_reaches_interval_and_answer():
    base = [planted(f"p{i}", varied(i, 12, 0.45)) for i in range(20)]
    tuned = [planted(f"p{i}", varied(99 + i, 12, 0.6)) for i in range(20)]
    wide, narrow = (way(replication(base, tuned, level=level), OWN).test for level in (0.99, 0.5))
    assert wide.high - wide.low > narrow.high - narrow.low
    p = narrow.p
    assert 1e-6 < p < 0.5
    assert way(replication(base, tuned, level=1 - p / 2), OWN).answer == "no change shown"
    assert way(replication(base, tuned, level=1 - 2 * p), OWN).answer != "no change shown"


def test_unusable_attributions_are_refused():
    one = planted("p", varied(0, 8, 0.5))
    with pytest.raises(InputError, match="the id 'p' comes twice among the attributions"):
        replication([one, one], [one])
    with pytest.raises(InputError, match="min_tokens=0 given, expected at least 1"):
        replication([one], [one], min_tokens=0)
    other = replace(one, provenance=replace(one.provenance, options={"target": "logit"}))
    with pytest.raises(InputError, match="the attribution of 'p' has the target 'logit', expected 'probability'"):
        replication([one], [other])
