"""CONTRIBUTING says how many cases this room has."""

import re
from pathlib import Path

import pytest

from tests.bad_inputs.refusals import is_sentence

ROOM = Path(__file__).parent
CONTRIBUTING = ROOM.parents[1] / "CONTRIBUTING.md"
FEWEST = 250


@pytest.mark.parametrize(
    "raw", ["KeyError 'x'", "it failed: TypeError", "an InputError", "ValueError: x", "<a 0x7f00ff00>"]
)
def test_what_nobody_worded_is_no_sentence(raw):
    with pytest.raises(AssertionError):
        is_sentence(raw)
    is_sentence("an error of reading: 'x' is not known, expected a, b")


def test_contributing_says_how_many_cases_there_are(request: pytest.FixtureRequest):
    option, arguments = request.config.option, request.config.args
    cases = [item for item in request.session.items if item.path.parent == ROOM and item.path != Path(__file__)]
    every = {path for path in ROOM.glob("test_*.py") if path != Path(__file__)}
    if option.keyword or option.markexpr or any("::" in a for a in arguments) or {item.path for item in cases} != every:
        pytest.skip("a part of the cases was collected")
    said = re.search(r"`tests/bad_inputs`: (\d+) cases", CONTRIBUTING.read_text(encoding="utf-8"))
    assert said is not None
    assert len(cases) == int(said[1]) >= FEWEST
