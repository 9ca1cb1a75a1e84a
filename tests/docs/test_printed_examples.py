"""What README and Start show as printed is what is printed: line by line, its numbers near those of this machine."""

import re

import pytest

from lensdiff import instruction_use, load_pair, load_prompts
from lensdiff.inputs import toy_pair
from tests.conftest import ROOT

NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
EXAMPLES = {"README.md": 12, "docs/index.md": 6}  # prompts that the example is of
CLOSE = 0.02  # nats per token: sums of other processors, rounded to two digits


def shown(page: str) -> list[str]:
    """The lines of the block that begins as a result is printed."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.search(r"^```(?:text)?\n(InstructionUse of .*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found is not None, page
    return found[1].rstrip("\n").split("\n")


@pytest.mark.parametrize("page", EXAMPLES)
def test_an_example_is_what_is_printed(page: str) -> None:
    pair = load_pair(toy_pair.BASE, toy_pair.TUNED, device="cpu")
    printed = repr(instruction_use(pair, load_prompts(toy_pair.PROMPTS)[: EXAMPLES[page]])).split("\n")
    assert [NUMBER.sub("#", line) for line in shown(page)] == [NUMBER.sub("#", line) for line in printed]
    for told, own in zip(shown(page), printed, strict=True):
        numbers = [[float(number) for number in NUMBER.findall(line)] for line in (told, own)]
        assert numbers[0] == pytest.approx(numbers[1], abs=CLOSE)
