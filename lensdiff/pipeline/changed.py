"""What changed: the lines of all analyses put together, for the page's first section, the terminal and Python alike.

Each analysis gives its own lines, in its own order (see `lensdiff.steps.headline`); of every kind the first five are
kept: those beyond every kind of control before the others, and among them the first of each analysis before the
second of any, so that no measure, whose unit is not another one's, is ranked against another.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, get_args

from lensdiff.analyses import ANALYSES
from lensdiff.models.said import Said
from lensdiff.results import ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.headline import MOST, Headline, Kind
from lensdiff.steps.said import Answers, answers, said_headlines
from lensdiff.views.prompts import prompt_label
from lensdiff.views.responses import PromptResponses, ResponseData, responses_widget
from lensdiff.views.widget import Role

KINDS: tuple[Kind, ...] = get_args(Kind)
MOST_RESPONSES = 200  # prompts whose responses the first section can show
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


def first_section(store: ResultStore, names: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what the first section shows: the lines by kind, and the responses; None where there is nothing."""
    said = answers(Found(store))
    lines = headlines(store, said)
    if not said and not lines:
        return None
    by_kind = [(kind, [(MARKS[line.beyond], line) for line in lines if line.kind == kind]) for kind in KINDS]
    widget = _responses(said, names) if said else ""
    return {"lines": [group for group in by_kind if group[1]], "meaning": MEANING, "responses": widget}


def _responses(said: list[Answers], names: Mapping[str, str]) -> str:
    """Return the responses side by side, first those of a prompt to which both models say something, and part."""
    prompts = []
    for answer in said[:MOST_RESPONSES]:
        both: tuple[tuple[Role, Said], ...] = (("base", answer.base), ("tuned", answer.tuned))
        sides = [
            ResponseData(side, names[side], own.pieces[: len(own.pieces) - bool(own.end)], own.end)
            for side, own in both
        ]
        parting = answer.parting
        label = prompt_label(answer.prompt_id, answer.prompt)
        prompts.append(PromptResponses(label, answer.prompt, None if parting is None else parting.place, sides))
    spoken = [i for i, one in enumerate(said[:MOST_RESPONSES]) if not (one.base.is_empty or one.tuned.is_empty)]
    parted = [i for i, one in enumerate(said[:MOST_RESPONSES]) if one.parting is not None]
    first = [*(i for i in spoken if i in parted), *parted, 0]
    return responses_widget(prompts, first[0]).fragment()
