"""Importance over relative prompt position: a line for each model with its intervals."""

from dataclasses import dataclass

import pandas as pd

from lensdiff.analyses.position.measure import PositionProfile
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import rounded_all
from lensdiff.views.show import register_view
from lensdiff.views.widget import Widget

LIMITS = (
    "Normalised importance density: each prompt's most important token has 1. Bars are {level:.0%} intervals over "
    "prompts.",
    "A position is not its content: prompts that begin with their instruction have a high beginning for that reason.",
)


@dataclass(frozen=True)
class LineData:
    """One model's importance density in each part of the prompt, with its interval over prompts."""

    values: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class PositionData:
    """What the script of the profiles is given.

    Attributes:
        parts: of the prompt, as "0–25", in % of its length.
        differences: tuned - base in each part, as text.
        facts: what the profiles' shapes are.
        limits: what the view does not say.
        base: the base's line.
        tuned: the tuned model's line.
    """

    parts: list[str]
    differences: list[str]
    facts: list[str]
    limits: list[str]
    base: LineData
    tuned: LineData


@register_view
def show_position(result: PositionProfile) -> Widget:
    """Return the profiles of both models."""
    frame = result.to_df()
    data = PositionData(
        parts=[f"{100 * start:.0f}–{100 * end:.0f}" for start, end in zip(frame["start"], frame["end"], strict=True)],
        differences=[str(test) for test in result.parts],
        facts=[_fact(name, result) for name in result.shapes],
        limits=[text.format(level=result.parts[0].level) for text in LIMITS],
        base=_line(frame, "base"),
        tuned=_line(frame, "tuned"),
    )
    title = f"Importance over the prompt: {result.provenance.model}"
    return Widget("position", data, title, height=560, fallback=table_html(frame, "Importance by part of the prompt"))


def _line(frame: pd.DataFrame, side: str) -> LineData:
    return LineData(*(rounded_all(frame[name].tolist()) for name in (side, f"{side}_low", f"{side}_high")))


def _fact(name: str, result: PositionProfile) -> str:
    tests = result.shapes[name]
    return f"{name}: base {tests.base}; tuned {tests.tuned}; tuned - base {tests.difference}."
