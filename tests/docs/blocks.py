"""The code blocks of the pages: where each is, what it says, and why it is not run where a mark says so."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^(?P<indent> *)```(?P<head>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```[ ]*$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- not run: (?P<reason>[^>]+?) -->\s*\Z")
TITLE = re.compile(r'title="([^"]+)"')
COMMANDS = re.compile(r"^(lensdiff|pip|python|make|git) ", re.MULTILINE)
RUN = ("python", "sh", "toml", "jsonl")
SHOWN = ("text", "bibtex", "latex", "css")  # what is printed, or for another program


@dataclass(frozen=True)
class Block:
    """A block of a page, in a language that is run.

    Attributes:
        page: from the root; line: of its first line, from 1.
        title: the file that it stands for; empty for none.
        reason: why it is not run; empty where it is.
    """

    page: str
    line: int
    language: str
    title: str
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str, source: str) -> list[Block]:
    """Return the blocks of a page that are to be run or marked, in their order.

    A block of no language is one of the shell where a line begins with a command.

    Raises:
        AssertionError: a block is of an unknown language, or a mark stands before what is never run.
    """
    found = []
    for match in FENCE.finditer(source):
        language, _, more = match["head"].strip().partition(" ")
        text = textwrap.dedent(match["text"])
        if not language:
            language = "sh" if COMMANDS.search(text) else "text"
        line = source.count("\n", 0, match.start("text")) + 1
        assert language in (*RUN, *SHOWN), f"{page}:{line}: a block of {language}, expected one of {RUN + SHOWN}"
        mark = MARK.search(source[: match.start()])
        assert mark is None or language in RUN, f"{page}:{line}: a mark before what nobody runs"
        if language in RUN:
            title = TITLE.search(more)
            reason = mark["reason"] if mark else ""
            found.append(Block(page, line, language, title[1] if title else "", text, reason))
    return found


def pages() -> list[Path]:
    """Return the README and every page of the site that is written by hand."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def every_block() -> list[Block]:
    """Return every block of every page."""
    return [b for path in pages() for b in blocks_of(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))]
