"""What the attribution explorer is given, and what stands beside a map."""

import base64
from dataclasses import replace

import pytest
import torch

from lensdiff.analyses.attribute.deletion import DeletionCheck
from lensdiff.analyses.attribute.view import facts
from lensdiff.results import Diff
from lensdiff.views.prompts import LABEL_LENGTH
from tests.analyses.attribute.results import PROMPT, RESPONSE, attribution
from tests.views.pages import given


def unpacked(side):
    raw = torch.frombuffer(bytearray(base64.b64decode(side["scores"])), dtype=torch.int8)
    return raw.reshape(len(side["in_tokens"]), len(side["out_tokens"])) / 127 * torch.tensor(side["tops"])


def test_the_widget_has_the_scores_the_tokens_and_the_parts():
    result = attribution()
    (prompt,) = given(result.show())["prompts"]
    (side,) = prompt["sides"]
    assert (side["role"], side["name"]) == ("model", "tiny")
    assert (tuple(side["in_tokens"]), tuple(side["out_tokens"])) == (PROMPT, RESPONSE)
    assert side["parts"] == ["instruction"] * 3 + ["", "", "context"]
    torch.testing.assert_close(
        unpacked(side), result.scores, atol=float(result.scores.abs().max()) / 254 * 1.01, rtol=0
    )
    assert side["density"] == pytest.approx(result.density().tolist(), rel=1e-3)
    assert side["probabilities"] == [0.5] * 3


def test_a_token_of_both_parts_counts_as_instruction():
    (side,) = given(attribution(instruction=6, context=6).show())["prompts"][0]["sides"]
    assert set(side["parts"]) == {"instruction"}


@pytest.mark.parametrize("scores", [torch.zeros(6, 3), torch.full((6, 3), 1e-44)])
def test_scores_of_zero_and_near_it_are_drawn(scores):
    (side,) = given(attribution(scores=scores).show())["prompts"][0]["sides"]
    assert torch.isfinite(unpacked(side)).all()


def test_an_empty_response_has_no_scores():
    (side,) = given(attribution(response=()).show())["prompts"][0]["sides"]
    assert (side["scores"], side["tops"], side["out_tokens"]) == ("", [], [])


def test_a_pair_shows_base_then_tuned_of_the_prompts_both_have():
    base = [attribution(prompt_id=name, model="A") for name in ("p1", "p2", "p3")]
    tuned = [attribution(prompt_id=name, model="B") for name in ("p3", "p1")]
    data = given(Diff(base, tuned).show())["prompts"]
    assert [prompt["label"].split(":")[0] for prompt in data] == ["p1", "p3"]
    assert [(s["role"], s["name"]) for s in data[0]["sides"]] == [("base", "base: A"), ("tuned", "tuned: B")]
    assert len(given(Diff(base[0], tuned[1]).show())["prompts"]) == 1


def test_prompts_without_a_name_are_matched_by_number():
    results = [attribution(prompt_id="") for _ in range(2)]
    assert [p["label"] for p in given(Diff(results, results).show())["prompts"]] == ["Write a poem about the sea"] * 2


def test_a_long_prompt_has_a_short_label():
    (prompt,) = given(attribution(("word\n",) * 50).show())["prompts"]
    assert len(prompt["label"]) == LABEL_LENGTH
    assert prompt["label"].startswith("p1: word word")
    assert prompt["label"].endswith("…")


def test_facts_say_what_a_map_is_worth():
    result = attribution()
    check = DeletionCheck(2, 0.125, (0.0, 0.1, 0.2, 0.125))
    line = facts(replace(result, deletion=check, merged=True, response_kind="generated"))
    assert f"instruction score {result.instruction_score():.3f} over 3 tokens" in line
    assert "deleting the 2 highest-scored tokens lowers the mean target by 0.125" in line
    assert "62% of 4 random deletions" in line  # two below, and half of one that is equal
    assert "merged" in line
    assert "as generated" in line


def test_facts_name_a_target_that_is_not_the_default():
    result = attribution(instruction=0)
    other = replace(result, provenance=replace(result.provenance, options={"target": "contrast(' yes', ' no')"}))
    assert facts(other).startswith("target contrast(' yes', ' no'); response given")


def test_facts_leave_out_what_is_not_known():
    line = facts(attribution(instruction=0))
    assert line == "response given as text; raw prompt, no chat template"


def test_a_deletion_that_raises_the_target_is_not_said_to_lower_it():
    line = facts(replace(attribution(), deletion=DeletionCheck(3, -0.02, (0.1, 0.2))))
    assert "raises the mean target by 0.02" in line
    assert "more than 0% of 2 random deletions" not in line
