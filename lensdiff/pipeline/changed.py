"""What changed: the lines of all analyses put together, for the page's first section, the terminal and Python alike.

Each analysis gives its own lines, in its own order (see `lensdiff.steps.headline`); of every kind the first five are
kept: those beyond every kind of control before the others, and among them the first of each analysis before the
second of any, so that no measure, whose unit is not another one's, is ranked against another.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import get_args

from lensdiff.analyses import ANALYSES
from lensdiff.results import ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.headline import MOST, Headline, Kind
from lensdiff.steps.said import Answers, said_headlines

KINDS: tuple[Kind, ...] = get_args(Kind)
SECTION = "changed"  # id of the page's first section, where the responses stand
MARKS = {True: "●", False: "○", None: "–"}
MEANING = (
    "● beyond every kind of control, ○ no more than controls, – no control that tells. Of many heads or layers one in "
    "twenty lies beyond its controls' 95 % band by chance."
)


def headlines(store: ResultStore, answers: list[Answers]) -> tuple[Headline, ...]:
    """Return the lines of a results directory, kind by kind, at most five of each; `answers` are its responses."""
    found = Found(store)
    order = sorted(ANALYSES, key=lambda analysis: analysis.section.order)
    own = [[replace(line, link=analysis.name) for line in analysis.headlines(found)] for analysis in order]
    said = [replace(line, link=SECTION) for line in said_headlines(found, answers)]
    return composed([said, *own])


def composed(own: Iterable[Iterable[Headline]]) -> tuple[Headline, ...]:
    """Return the first lines of every kind, from those of each source in its own order; see the module."""
    sources = [list(lines) for lines in own]
    chosen: list[Headline] = []
    for kind in KINDS:
        placed = [
            (line.beyond is not True and kind != "responses", place, source, line)
            for source, lines in enumerate(sources)
            for place, line in enumerate(line for line in lines if line.kind == kind)
        ]
        if kind == "responses":  # what they are like, then what they depend on
            placed.sort(key=lambda row: (row[2], row[1]))
        else:
            placed.sort(key=lambda row: row[:3])
        chosen += [line for *_, line in placed[: most_of(kind)]]
    return tuple(chosen)


def most_of(kind: Kind) -> int:
    """Return how many lines of a kind are kept: of responses all, they are few."""
    return 2 * MOST if kind == "responses" else MOST


def as_text(lines: Iterable[Headline]) -> str:
    """Return lines as the terminal shows them; empty where there are none."""
    lines = list(lines)
    if not lines:
        return ""
    text = ["What changed"]
    for kind in KINDS:
        some = [line for line in lines if line.kind == kind]
        text += [kind.capitalize(), *(f"  {MARKS[line.beyond]} {line}" for line in some)] if some else []
    return "\n".join([*text, MEANING])
