"""Ratings by a chat model: what is asked, how answers are read, and that nothing is guessed or asked twice."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lensdiff.analyses.rate.measure import rate, read_rating
from lensdiff.inputs.chat import Answer, AnswerCache, Chat
from lensdiff.inputs.prompts import Prompt

PROMPTS = [Prompt("Say hello.", id="hello"), Prompt("Count to {3}.", id="count"), Prompt("Rhyme.", id="rhyme")]


class Rater:
    """A client that answers from a list of texts and remembers what it was asked."""

    def __init__(self, *texts: str):
        self.texts, self.asked = list(texts), []
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self.create))

    def create(self, **question: Any) -> Any:
        self.asked.append(question)
        message = SimpleNamespace(content=self.texts[len(self.asked) - 1], refusal=None)
        return SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason="stop")])


def chat_with(rater: Rater, folder: Path) -> Chat:
    return Chat(rater, "judge", AnswerCache(folder), {"max_tokens": 20})


def test_each_response_is_rated_once(tmp_path) -> None:
    rater = Rater('{"rating": 4}', '{"rating": 1}')
    responses = {"hello": " Hello!", "count": "one {two}"}
    found = rate(chat_with(rater, tmp_path), PROMPTS, responses)
    assert found["prompt_id"].tolist() == ["hello", "count"]  # no response to rhyme
    assert found["rating"].tolist() == [4, 1]
    text = rater.asked[1]["messages"][1]["content"]
    assert "Count to {3}." in text
    assert "one {two}" in text
    assert rater.asked[0]["response_format"]["json_schema"]["schema"]["required"] == ["rating"]
    again = rate(chat_with(Rater(), tmp_path), PROMPTS, responses)  # a rater that has nothing to say
    assert again.equals(found)


def test_an_empty_response_follows_nothing_and_is_not_asked_about(tmp_path) -> None:
    rater = Rater()
    found = rate(chat_with(rater, tmp_path), PROMPTS, {"rhyme": " \n"})
    assert found["rating"].tolist() == [1]
    assert rater.asked == []


def test_the_seed_is_asked_for(tmp_path) -> None:
    rater = Rater('{"rating": 2}')
    rate(chat_with(rater, tmp_path), PROMPTS, {"hello": "x"}, seed=3)
    assert rater.asked[0]["seed"] == 3


@pytest.mark.parametrize(
    "text",
    ["4", '{"rating": 5}', '{"rating": 0}', '{"rating": "4"}', '{"rating": true}', '{"rating": 2.5}', "good", "[]"],
)
def test_what_is_no_rating_is_not_guessed(text: str) -> None:
    rating, reason = read_rating(Answer("said", text))
    assert rating == 0
    assert text in reason


@pytest.mark.parametrize("text", ['<think>{"rating": 1}?</think>{"rating": 4}', 'It is:\n```json\n{"rating": 4}\n```'])
def test_a_rating_is_found_in_what_is_around_it(text: str) -> None:
    assert read_rating(Answer("said", text)) == (4, "")


def test_what_is_no_rating_is_asked_for_again(tmp_path) -> None:
    rater = Rater("[" * 100_000, '{"rating": 4}')
    first, second, third = (rate(chat_with(rater, tmp_path), PROMPTS, {"hello": "x"}) for _ in range(3))
    assert first["rating"].tolist() == [0]
    assert first["reason"].item().startswith("malformed: nested too deeply")
    assert second["rating"].tolist() == third["rating"].tolist() == [4]
    assert len(rater.asked) == 2


def test_a_refusal_is_no_rating() -> None:
    assert read_rating(Answer("refused", "no")) == (0, "refused: no")
