"""Importance over relative prompt position: a line for each model with its intervals."""

from typing import Any

from lensdiff.analyses.position.measure import PositionProfile
from lensdiff.views.fallback import table_html
from lensdiff.views.show import register_view
from lensdiff.views.widget import Widget

LIMITS = (
    "Normalised importance density: each prompt's most important token has 1. Bars are {level:.0%} intervals over "
    "prompts.",
    "A position is not its content: prompts that begin with their instruction have a high beginning for that reason.",
)


@register_view
def show_position(result: PositionProfile) -> Widget:
    """Return the profiles of both models."""
    frame = result.to_df()
    data: dict[str, Any] = {
        "parts": [
            f"{100 * start:.0f}–{100 * end:.0f}" for start, end in zip(frame["start"], frame["end"], strict=True)
        ],
        "differences": [str(test) for test in result.parts],
        "facts": [_fact(name, result) for name in result.shapes],
        "limits": [text.format(level=result.parts[0].level) for text in LIMITS],
    }
    for side in ("base", "tuned"):
        columns = {"values": side, "low": f"{side}_low", "high": f"{side}_high"}
        data[side] = {key: [float(f"{v:.4g}") for v in frame[name]] for key, name in columns.items()}
    title = f"Importance over the prompt: {result.provenance.model}"
    return Widget("position", data, title, height=560, fallback=table_html(frame, "Importance by part of the prompt"))


def _fact(name: str, result: PositionProfile) -> str:
    tests = result.shapes[name]
    return f"{name}: base {tests.base}; tuned {tests.tuned}; tuned - base {tests.difference}."
