"""What a run asks for again and again is made once."""

from typing import Any

import pytest

from lensdiff.inputs.prompts import Prompt
from lensdiff.results import InputError
from lensdiff.steps.supplies import Supplies


class Counting:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def render(self, prompt: Prompt) -> Prompt:
        self.asked.append(prompt.id)
        if prompt.id == "bad":
            raise InputError("it cannot be rendered")
        return Prompt(f"[{prompt.text}]", id=prompt.id)


def nothing(*_: Any) -> Any:
    raise AssertionError("nobody asked for it")


def test_a_prompt_is_rendered_once_and_what_cannot_be_is_refused_each_time():
    supplies, counting = Supplies(*[nothing] * 6), Counting()
    vars(supplies)["template"] = counting
    sea, bad = Prompt("the sea", id="sea"), Prompt("the moon", id="bad")
    assert supplies.rendered(sea, "raw") is sea
    assert counting.asked == []
    for _ in range(2):
        assert supplies.rendered(sea, "chat").text == "[the sea]"
        with pytest.raises(InputError, match="it cannot be rendered"):
            supplies.rendered(bad, "chat")
    assert counting.asked == ["sea", "bad"]
