"""What every case of this room asserts: a typed error in one sentence that names what was given."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from lensdiff.results import InputError
from tests.cli.conftest import Ran

LONGEST = 1200  # characters; a list of what is available may be long
RAW = re.compile(
    r"Traceback|Error: |Error\(|\b(?:[A-Z][a-z]*)+Error\b|0x[0-9a-f]{6}"
)  # what only an error that nobody worded has


class Case(NamedTuple):
    """A bad input: its name, what makes it, and what the sentence has to say."""

    name: str
    make: Callable[..., Any]
    says: tuple[str, ...]

    def __repr__(self) -> str:
        return self.name


def case(name: str, make: Callable[..., Any], *says: str) -> Any:
    """A parameter of pytest with the case's name."""
    assert says, f"{name}: what has the sentence to name?"
    return pytest.param(Case(name, make, says), id=name)


def is_sentence(text: str, *says: str) -> None:
    """Assert that a message is one sentence with these words in it."""
    assert text.strip() == text
    assert 0 < len(text) <= LONGEST, len(text)
    assert "\n" not in text, text
    assert not RAW.search(text), text
    for word in says:
        assert word in text, f"{word!r} is not in {text!r}"


def assert_refuses(call: Callable[[], Any], *says: str) -> None:
    """Assert that a call raises an InputError in one sentence with these words in it."""
    with pytest.raises(InputError) as caught:
        call()
    is_sentence(str(caught.value), *says)


def assert_command_refuses(ran: Ran, *says: str) -> None:
    """Assert that a command ended with exit code 2, with one sentence and without a traceback."""
    assert ran.code == 2, ran
    assert "Traceback" not in ran.err
    *_, last = ran.err.strip().split("\n")
    if "Usage: lensdiff" in ran.err:  # an option's own type or range, told by typer, in a frame or not
        said = " ".join(ran.err.split())
        for word in says:
            assert word in said, said
        return
    assert last.startswith("lensdiff: "), ran.err
    is_sentence(last.removeprefix("lensdiff: "), *says)
