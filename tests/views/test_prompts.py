"""What views of prompts share: labels, prompts that both models have, and how a response was read."""

from dataclasses import dataclass

import pytest

from lensdiff.results import Diff, Provenance
from lensdiff.views.prompts import LABEL_LENGTH, how_read, how_rendered, prompt_label, shared_prompts


@dataclass(frozen=True)
class Result:
    """A result about one prompt."""

    prompt_id: str
    model: str = ""


def results(model, *names):
    return [Result(name, model) for name in names]


@pytest.mark.parametrize(
    ("prompt_id", "prompt", "expected"),
    [("p1", "Write\n a  poem\t", "p1: Write a poem"), ("", " Write ", "Write"), ("p1", "", "p1: ")],
)
def test_a_label_is_the_id_and_the_text_in_one_line(prompt_id, prompt, expected):
    assert prompt_label(prompt_id, prompt) == expected


def test_a_long_label_is_cut():
    found = prompt_label("p1", "word\n" * 50)
    assert len(found) == LABEL_LENGTH
    assert found == ("p1: " + "word " * 50)[: LABEL_LENGTH - 1] + "…"


def test_prompts_of_both_sides_are_paired_by_id_in_the_order_of_the_base():
    found = shared_prompts(Diff(results("a", "p1", "p2", "p3"), results("b", "p3", "p1", "p4")))
    assert [(base.prompt_id, base.model, tuned.prompt_id, tuned.model) for base, tuned in found] == [
        ("p1", "a", "p1", "b"),
        ("p3", "a", "p3", "b"),
    ]


def test_prompts_without_an_id_are_paired_by_number():
    base = [Result("", "first"), Result("x", "second"), Result("", "third")]
    found = shared_prompts(Diff(base, results("b", "", "x")))
    assert [(base.model, tuned.prompt_id) for base, tuned in found] == [("first", ""), ("second", "x")]


def test_a_side_may_be_one_result():
    one, other = Result("p1", "a"), Result("p1", "b")
    assert shared_prompts(Diff(one, other)) == [(one, other)]
    assert shared_prompts(Diff(one, Result("p2"))) == shared_prompts(Diff([], [])) == []


def test_how_a_response_was_read():
    raw = Provenance("attribute", "a")
    assert how_read("text", merged=False, of=raw) == ["response given as text", "raw prompt, no chat template"]
    assert how_read("generated", merged=True, of=raw) == [
        "the tokenizer merged prompt and response at their boundary",
        "response as generated",
        "raw prompt, no chat template",
    ]
    chat = Provenance("attribute", "a", options={"template": "chat"})
    assert how_read("text", merged=False, of=chat)[-1] == "prompt in the chat template"
    assert "partly raw" in how_rendered(Provenance("attribute", "a", options={"template": "chat and raw"}))
