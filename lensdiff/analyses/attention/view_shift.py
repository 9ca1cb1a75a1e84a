"""The map of how far each head's attention moved, beside the controls' band."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from lensdiff.analyses.attention.distances import DISTANCES
from lensdiff.analyses.attention.patterns import MEASURES
from lensdiff.analyses.attention.shift import STATISTICS, AttentionShift
from lensdiff.analyses.attention.view_patterns import NAMES
from lensdiff.results.numbers import n_of
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import known, known_all
from lensdiff.views.show import register_view
from lensdiff.views.small_table import Cell
from lensdiff.views.widget import Widget

TOP = 10
DISTANCE_NAMES = {  # with how to read them
    "js_distance": (
        "JS distance",
        "Jensen-Shannon distance of base's and tuned's attention, mean over queries and prompts.",
    ),
    "js_distance_no_sink": (
        "JS distance without first key",
        "The same after the first key is dropped and the rest renormalised.",
    ),
}

ByHead = list[list[float | None]]  # [layer][head], None where nothing is known


@dataclass(frozen=True)
class MeasureData:
    """One measure of the map, in its own unit.

    Attributes:
        label: under which it is chosen.
        how: to read it.
        signed: whether it has a sign, and so two colours.
        values: of each head.
        low: of each head's band of controls.
        high: of each head's band of controls.
    """

    label: str
    how: str
    signed: bool
    values: ByHead
    low: ByHead
    high: ByHead


@dataclass(frozen=True)
class AttentionShiftData:
    """What the script of the map is given.

    Attributes:
        facts: the line above.
        claim: of the whole model; None without controls.
        layers: their numbers.
        heads: their numbers.
        measures: one of which is chosen.
        note: what differences are.
        columns_of_head: of the table of the chosen head.
        of_head: [layer][head], that table's rows: a measure's name and its statistics.
        caption: of the table of heads that moved most.
        columns: of that table.
        top: its rows.
    """

    facts: str
    claim: str | None
    layers: Sequence[int]
    heads: list[int]
    measures: list[MeasureData]
    note: str
    columns_of_head: list[str]
    of_head: list[list[list[list[Cell]]]]
    caption: str
    columns: list[str]
    top: list[list[Cell]]


@register_view
def show_attention_shift(result: AttentionShift) -> Widget:
    """Return the map of how far each head's attention moved, with the controls' band."""
    ends = ("", "_control_low", "_control_high")
    columns = ["layer", "head_index", *(f"{distance}{end}" for distance in DISTANCES for end in ends)]
    top = pd.DataFrame(result.ranked(TOP), columns=columns)
    heads = list(range(result.distances.shape[-1]))
    data = AttentionShiftData(
        facts=_facts(result),
        claim=None if result.whole is None else f"Mean JS distance of all heads: {result.whole}.",
        layers=result.layers,
        heads=heads,
        measures=_measures(result),
        note="tuned − base",
        columns_of_head=["", *(name.replace("_", " ") for name in STATISTICS)],
        of_head=[[_of_head(result, i, head) for head in heads] for i in range(len(result.layers))],
        caption="Heads by JS distance; the controls' band beside it",
        columns=[name.replace("_", " ") for name in columns],
        top=[[x if isinstance(x, int) else known(x) for x in row] for row in top.itertuples(index=False)],
    )
    title = f"Attention shift: {result.provenance.model}"
    return Widget("attention_shift", data, title, height=760, fallback=table_html(top, "Heads by JS distance"))


def _measures(result: AttentionShift) -> list[MeasureData]:
    distances = zip(DISTANCES, result.distances, result.distance_band, strict=True)
    found = [
        MeasureData(*DISTANCE_NAMES[name], False, *(_by_head(part) for part in (values, *band)))
        for name, values, band in distances
    ]
    difference, low, high = (STATISTICS.index(name) for name in ("difference", "control_low", "control_high"))
    how = "tuned − base, mean over prompts: blue where the base has more, orange where tuned."
    found += [
        MeasureData(f"{NAMES[name]}, difference", how, True, *(_by_head(values[i]) for i in (difference, low, high)))
        for name, values in zip(MEASURES, result.measures, strict=True)
        if not bool(values[difference].isnan().all())
    ]
    return found


def _by_head(values: Float[Tensor, "layer head_index"]) -> ByHead:
    return [known_all(layer) for layer in values]


def _of_head(result: AttentionShift, i: int, head: int) -> list[list[Cell]]:
    """Return the measures of a head of which anything is known."""
    found = (
        (NAMES[name], known_all(values[:, i, head])) for name, values in zip(MEASURES, result.measures, strict=True)
    )
    return [[name, *statistics] for name, statistics in found if any(x is not None for x in statistics)]


def _facts(result: AttentionShift) -> str:
    options = result.provenance.options
    controls = len(result.provenance.controls)
    beside = (
        n_of(controls, "control")
        if controls
        else "no controls: nothing says how far a meaningless change would move it"
    )
    return f"{result.provenance.model} against {options['base']}; {n_of(options['n_prompts'], 'prompt')}; {beside}"
