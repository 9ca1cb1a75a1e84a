"""A number along a list of models: a line with intervals, beside the first model's number."""

from dataclasses import dataclass
from typing import Any

from lensdiff.analyses.series.result import Series
from lensdiff.results.numbers import n_of
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import known_all, rounded, rounded_all
from lensdiff.views.show import register_view
from lensdiff.views.small_table import SmallTable
from lensdiff.views.widget import Widget

LIMITS = "Bars are {level:.0%} intervals over prompts, which all steps share: neighbouring steps are not independent."
PAIR = "Each model is set against the first; at step 0 that is the first against itself."


@dataclass(frozen=True)
class SeriesData:
    """What the script is given.

    Attributes:
        facts: paragraphs above; limits: below.
        models: their names; measure, unit: of the numbers; line: what the line is of.
        values, low, high: of each model, the limits None where there are none; changes: from the first.
        floor: at which the axis begins, where nothing lies below.
        table: the numbers.
    """

    facts: list[str]
    models: list[str]
    measure: str
    unit: str
    line: str
    values: list[float]
    low: list[float | None]
    high: list[float | None]
    changes: list[float]
    floor: float
    table: SmallTable
    limits: list[str]


@register_view
def show_series(result: Series) -> Widget:
    """Return the line of a series."""
    frame: Any = result.to_df()
    values = frame["value"]
    over = (
        f" Mean over {n_of(len(result.prompt_id), 'prompt')}; {len(result.failures)} failed."
        if result.prompt_id
        else ""
    )
    equal = [result.models[step] for step, same in enumerate(result.equal) if same and step]
    facts = [
        f"{result.measure} along {n_of(len(result.models), 'model')}.{over}",
        *([PAIR] if result.of == "pair" else []),
    ]
    facts += [f"The weights are those of the first in: {', '.join(equal)}."] if equal else []
    low, high = float(values.min()), float(values.max())
    data = SeriesData(
        facts=facts,
        models=list(result.models),
        measure=result.measure,
        unit=result.unit or result.measure,
        line="each against the first" if result.of == "pair" else "each model",
        values=rounded_all(values),
        low=known_all(frame["low"]),
        high=known_all(frame["high"]),
        changes=rounded_all(values - values[0]),
        floor=0.0 if low <= high / 2 else rounded(low),  # what lies close together is not pressed flat
        table=SmallTable.of(frame, "A model"),
        limits=[LIMITS.format(level=result.level)] if result.prompt_id else [],
    )
    title = f"{result.measure} along {result.models[0]} to {result.models[-1]}"
    return Widget("series", data, title, height=520, fallback=table_html(frame, result.measure))
