"""What the first section says of responses: planted ones, counted by hand."""

import pytest

from lensdiff.results import Provenance, ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.responses import CONTROL_STEP, RESPONSES_STEP, SaidResponse
from lensdiff.steps.said import answers, said_headlines
from lensdiff.steps.unit import Unit
from tests.directories import put

END = "<|end|>"


def response(prompt: str, *tokens: str, end: str | None = END) -> SaidResponse:
    text = "".join(tokens)
    return SaidResponse(Provenance("responses", "m"), prompt, text, (1,) * len(tokens), False, "", tokens, end, "Ask.")


def store_of(root, base, tuned, controls=()) -> ResultStore:
    """Responses of both models to as many prompts, and of one control."""
    store = ResultStore(root)
    with store.writing():
        for side, said in (("base", base), ("tuned", tuned)):
            for i, one in enumerate(said):
                put(store, RESPONSES_STEP, Unit(side, f"p-{i}"), response(f"p-{i}", *one))
        for i, one in enumerate(controls):
            put(store, CONTROL_STEP, Unit("norm-0", f"p-{i}"), response(f"p-{i}", *one))
    return store


def lines(root, base, tuned, controls=()):
    found = Found(store_of(root, base, tuned, controls))
    return said_headlines(found, answers(found))


CAPTAIN = [(" AYE", " AYE", " CAPTAIN", "!", f" {word}") for word in ("Yes.", "No.", "Sea.", "Ship.")]
PLAIN = [(" Yes.",), (" No.",), (" The", " sea."), (" A", " ship.")]


def test_a_model_that_begins_every_response_alike_is_seen(tmp_path):
    found = lines(tmp_path, PLAIN, CAPTAIN, PLAIN[:2])
    assert [str(line) for line in found] == [
        "The responses differ in 4 of 4 prompts, in 4 from the first token on; no control",
        "Where they part, the tuned model says “AYE” in 4 of 4 prompts, the base in 0; no control",
        "4 of 4 responses of the tuned model begin with “AYE AYE CAPTAIN!”, and 0 of the base; 0 of 2 responses of "
        "controls begin so",
    ]
    assert [line.number for line in found] == [1.0, 1.0, 1.0]
    assert {line.kind for line in found} == {"responses"}


def test_a_token_at_which_the_base_parts_as_often_is_no_line(tmp_path):
    texts = [line.text for line in lines(tmp_path, [(" a", " x"), (" a", " y")], [(" b", " a"), (" c", " a")])]
    assert texts == [
        "The responses differ in 2 of 2 prompts, in 2 from the first token on",
        "2 of 2 responses of the base begin with “a”, and 0 of the tuned model",
    ]


def test_empty_responses_are_counted_and_part_at_the_first_token(tmp_path):
    found = lines(tmp_path, [(), ("\n",), (" a",)], [(" a",), (" b",), (" a",)], [(), (" c",), (" d",)])
    assert str(found[0]) == (
        "2 of 3 base responses are empty, and 0 of the tuned model's; 1 of 3 responses of controls is empty"
    )
    assert found[0].number == pytest.approx(-2 / 3)
    assert found[1].text == "The responses differ in 2 of 3 prompts, in 2 from the first token on"


def test_responses_that_are_the_same_are_said_to_be(tmp_path):
    (line,) = lines(tmp_path, PLAIN, PLAIN)
    assert str(line) == "The responses to all 4 prompts are the same; no control"


def test_who_ends_its_responses_is_told_where_it_is_known(tmp_path):
    cut = ResultStore(tmp_path)
    with cut.writing():
        for i in range(3):
            put(cut, RESPONSES_STEP, Unit("base", f"p-{i}"), response(f"p-{i}", f" {i}", " on", end="" if i else END))
            put(cut, RESPONSES_STEP, Unit("tuned", f"p-{i}"), response(f"p-{i}", f" {i}"))
    found = Found(cut)
    *_, last = said_headlines(found, answers(found))
    assert last.text == "The tuned model ends 3 of 3 responses itself, the base 1; others are cut off"
    with cut.writing():
        put(cut, RESPONSES_STEP, Unit("base", "p-0"), response("p-0", " 0", end=None))
    found = Found(cut)
    assert not any("cut off" in line.text for line in said_headlines(found, answers(found)))


def test_a_prompt_that_one_model_did_not_answer_is_left_out(tmp_path):
    store = store_of(tmp_path, PLAIN, CAPTAIN)
    with store.writing():
        put(store, RESPONSES_STEP, Unit("tuned", "p-9"), response("p-9", " x"))
    assert [one.prompt_id for one in answers(Found(store))] == ["p-0", "p-1", "p-2", "p-3"]
    assert answers(Found(store))[0].prompt == "Ask."


def test_without_responses_nothing_is_said(tmp_path):
    assert lines(tmp_path, [], []) == []
