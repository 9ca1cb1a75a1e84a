"""The pages that explain the analyses: one each, all of one shape, each with its picture."""

import re
from pathlib import Path

import pytest

import lensdiff
from lensdiff.analyses import ANALYSES

PAGES = Path(__file__).parents[2] / "docs" / "understand"
HEADINGS = (
    "The question",
    "In code",
    "The formula",
    "Sign and units",
    "What it says, and what it does not",
    "Its control",
    "What it costs",
    "A picture",
    "Sources",
)
NO_RUN = ("published",)  # analyses that no pair is run through
OTHERS = ("statistics-and-controls", "series")  # series has a function and a command, and no section of a report
MOST_BYTES = 60_000
LINES = range(40, 116)

NAMES = [*(analysis.name for analysis in ANALYSES), *NO_RUN]


def headings(text: str) -> list[str]:
    """The headings of the second level, in order; what stands in a block of code is none."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^## (.+)$", prose, re.MULTILINE)


def pictures(text: str) -> list[str]:
    """The files that a page shows; each says in words what is seen."""
    shown = re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", text)
    assert all(len(words.split()) > 4 for words, _ in shown)
    return [path for _, path in shown]


@pytest.mark.parametrize("name", NAMES)
def test_an_analysis_has_its_page_in_the_one_shape(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert re.match(r"# \S", text)
    assert headings(text) == list(HEADINGS)
    assert pictures(text) == [f"pictures/{name}.png"]
    code = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert code
    assert "from lensdiff" in code[0]
    assert len(text.splitlines()) in LINES


def test_no_page_is_without_an_analysis() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == {*NAMES, *OTHERS}


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_a_page_shows_a_picture_that_is_there_and_small(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert pictures(text)
    for picture in pictures(text):
        data = (PAGES / picture).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) < MOST_BYTES


def test_every_picture_is_shown() -> None:
    shown = {name for path in PAGES.glob("*.md") for name in pictures(path.read_text(encoding="utf-8"))}
    assert shown == {f"pictures/{path.name}" for path in (PAGES / "pictures").iterdir()}


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_links_lead_to_pages_that_are_there(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert link.startswith("https://") or (PAGES / link).is_file(), link


def test_every_function_is_named_on_some_page() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES.glob("*.md"))
    functions = {name for name in lensdiff.__all__ if name in OF_ANALYSES and name.islower()}
    assert functions
    assert {name for name in functions if not re.search(rf"\b{name}\b", text)} == set()


OF_ANALYSES = {
    line.split(" as ")[1]
    for line in (Path(lensdiff.__file__).parent / "__init__.pyi").read_text(encoding="utf-8").splitlines()
    if line.startswith("from .analyses.")
}


def test_to_cite_is_the_version_of_the_citation_file() -> None:
    root = PAGES.parents[1]
    version = re.search(r"^version: (\S+)$", (root / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert version
    assert f"version = {{{version[1]}}}" in (root / "docs" / "cite.md").read_text(encoding="utf-8")
