"""The section of the report, and what the command prints."""

import pandas as pd

from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.attribute.curves import DeletionCurve
from lensdiff.analyses.attribute.view import scores_widget
from lensdiff.analyses.attribute.view_curves import show_curves
from lensdiff.results import Diff
from lensdiff.results.diff import SIDES
from lensdiff.results.numbers import n_of
from lensdiff.steps.found import Found
from lensdiff.steps.headline import MOST, Headline
from lensdiff.steps.unit import Unit
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.show import show
from lensdiff.views.widget import Widget
from lensdiff.views.words import visible

TOP = 5  # words shown in a line
CAPTIONS = {
    "instruction_scores": "A row per model and prompt; n_in and n_out count the prompt's and the response's tokens.",
    "deletion_areas": "A row per order, model and way: the area under the curve as tokens are removed or put in, most "
    "important first, beside random orders.",
    "deletion_curves": "A row per prompt, order, model, way and point of the curve.",
    "attribution": "A row per prompt token and response token; score is gradient x input, level its share in tenths.",
}


def attribution_section(found: Found) -> list[Widget | Table | str]:
    """Return the explorer of all prompts that both models have, the scores, and the tables."""
    results = {side: list(found.each("attribution", Attribution, side)) for side in SIDES}
    parts: list[Widget | Table | str] = []
    if all(results.values()):
        parts.append(show(Diff(results["base"], results["tuned"])))
    if (scores := found.table("instruction_scores")) is not None:
        parts.append(scores_widget(scores))
    if (curves := found.maybe("deletion_curves", DeletionCurve)) is not None:
        parts.append(show_curves(curves))
    return [*parts, *tables(found, CAPTIONS)]


def summary(found: Found) -> pd.DataFrame:
    """Return one row per prompt and model: the instruction's score and the words of highest density; and the controls'.

    The controls of a prompt share a row: the mean of their scores, and their range in place of words.
    """
    rows, scores = [], found.table("instruction_scores")
    for prompt in dict.fromkeys(unit.prompt for unit in found.units("attribution")):
        for side in SIDES:
            result = found.maybe("attribution", Attribution, Unit(side, prompt))
            if result is not None:
                rows.append({"prompt": prompt, "model": side} | _facts(result))
        if scores is not None:
            rows += _controls_row(str(prompt), scores)
    return pd.DataFrame(rows)


def _facts(result: Attribution) -> dict[str, object]:
    top = result.words().top(TOP)
    words = ", ".join(top.in_token[top.density > 0]) or "(none)"
    return {
        "instruction score": result.instruction_score() if bool(result.instruction.any()) else None,
        "response tokens": len(result.out_tokens),
        "words that drive it": words if len(result.out_tokens) else "(empty response)",
    }


def _controls_row(prompt: str, scores: pd.DataFrame) -> list[dict[str, object]]:
    found = scores[(scores.prompt_id == prompt) & (scores.model == "control")]
    if found.empty:
        return []
    low, mean, high = (getattr(found.instruction_score, name)() for name in ("min", "mean", "max"))
    return [
        {
            "prompt": prompt,
            "model": f"{n_of(len(found), 'control')}, mean",
            "instruction score": mean,
            "response tokens": round(found.n_out.mean()),
            "words that drive it": f"(score from {low:.3f} to {high:.3f})",
        }
    ]


def areas(found: Found) -> pd.DataFrame:
    """Return the areas under the curves of removed tokens, beside random orders."""
    frame = found.table("deletion_areas")
    return pd.DataFrame() if frame is None else frame


def headlines(found: Found) -> list[Headline]:
    """Return the prompt words whose share of the importance for the whole response changed most."""
    rows = []
    for prompt in found.prompts("attribution", *SIDES):
        base, tuned = (found.one("attribution", Attribution, Unit(side, prompt)).words() for side in SIDES)
        if base.in_tokens != tuned.in_tokens:
            continue
        before, after = (_parts_of(side) for side in (base, tuned))
        rows += [(prompt, *row) for row in zip(base.in_tokens, before, after, strict=True)]
    rows.sort(key=lambda row: -abs(row[3] - row[2]))
    return [
        Headline(
            "words",
            f"In {prompt} “{visible(word.strip())}” has {after:.0%} of the importance for the response; in "
            f"the base {before:.0%}",
            after - before,
        )
        for prompt, word, before, after in rows[:MOST]
        if after != before
    ]


def _parts_of(result: Attribution) -> list[float]:
    """Return each word's share of the density, 0 where there is none."""
    density = result.density()
    total = float(density.sum())
    return (density / total).tolist() if total else [0.0] * len(density)


SUMMARIES = {
    "Attribution": summary,
    "Tokens removed, most important first: area of the curve, nats per token": areas,
}


SECTION = Section(
    "Which prompt words drive the response",
    "Choose a token of a response: the prompt's words take its colours, strongest where the word supported the "
    "token most; “whole response” shows how densely each word matters over all of them. The instruction score sums "
    "that over the instruction's words, so it is higher where the response follows from the instruction.",
    10,
    attribution_section,
)
