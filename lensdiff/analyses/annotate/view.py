"""Annotations of components: what was said of each, and how shares of tasks and levels differ between the models."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from lensdiff.analyses.annotate.annotations import Annotations
from lensdiff.analyses.annotate.shift import GROUP_STATISTICS, AnnotationShift
from lensdiff.results.numbers import n_of
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import known_all
from lensdiff.views.show import register_view
from lensdiff.views.small_table import Cell, cells
from lensdiff.views.widget import Widget

SHOWN = 100  # components of a layer
CAPTION = (
    "Shares in %, mean ± standard deviation over the annotator's seeds; difference with its interval over components"
)
HOW = (
    "Seeds are readings of the same components, so the paper's test over seeds (last column) finds differences where "
    "only the annotator varies. The interval and p resample or compare components; p is adjusted over the labels. "
    "A verdict needs either a difference or an equivalence test, a large p alone says nothing."
)


@dataclass(frozen=True)
class AnnotationShiftData:
    """What the script of the shift is given.

    Attributes:
        sides: kinds of vectors, one of which is chosen.
        labels: tasks and levels, one of which is chosen.
        first: the number of the label that is chosen first.
        groups: of layers, as "0-3".
        group_statistics: names of the numbers in `by_group`.
        by_group: [side][group][label][statistic], shares from 0 to 1; None where nothing is known.
        facts: paragraphs above.
        caption: of the table of all labels.
        columns: of that table.
        rows: [side][label][column], as text: shares in %, p.
    """

    sides: Sequence[str]
    labels: Sequence[str]
    first: int
    groups: Sequence[str]
    group_statistics: Sequence[str]
    by_group: list[list[list[list[float | None]]]]
    facts: list[str]
    caption: str
    columns: list[str]
    rows: list[list[list[Cell]]]


@dataclass(frozen=True)
class LayerRows:
    """The components of one layer: its name, and a row of `AnnotationsData.columns` each."""

    name: str
    rows: list[list[Cell]]


@dataclass(frozen=True)
class AnnotationsData:
    """What the script of the annotations is given.

    Attributes:
        facts: paragraphs above.
        caption: of the table.
        columns: of the table.
        layers: the table's rows, one layer at a time.
    """

    facts: list[str]
    caption: str
    columns: list[str]
    layers: list[LayerRows]


@register_view
def show_annotation_shift(result: AnnotationShift) -> Widget:
    """Return the table of all labels, and a curve over groups of layers for the chosen one."""
    frame = _table(result)
    levels = [i for i, kind in enumerate(result.kinds) if kind == "level"]
    data = AnnotationShiftData(
        sides=result.sides,
        labels=result.labels,
        first=levels[-1] if levels else 0,
        groups=result.groups,
        group_statistics=GROUP_STATISTICS,
        by_group=[[[known_all(label) for label in group] for group in side] for side in result.by_group],
        facts=_facts(result),
        caption=CAPTION,
        columns=[name for name in frame.columns if name != "side"],
        rows=[cells(frame.loc[frame.side == side].drop(columns="side")) for side in result.sides],
    )
    title = f"Annotations: {result.provenance.options['base']} to {result.provenance.model}"
    return Widget("annotation_shift", data, title, height=900, fallback=table_html(frame, CAPTION))


def _facts(result: AnnotationShift) -> list[str]:
    annotator = result.provenance.options["annotator"]
    base, tuned = result.left_out
    return [
        f"Annotated by {annotator['annotator']} from {n_of(annotator['top_words'], 'word')} of each component. Without "
        f"an answer: {base:.1%} of the base's annotations, {tuned:.1%} of the tuned model's.",
        HOW,
    ]


def _table(result: AnnotationShift) -> pd.DataFrame:
    rows = []
    for row in result.to_df().to_dict("records"):
        rows.append(
            {
                "side": row["side"],
                "label": row["label"].replace("_", " "),
                "base": f"{_percent(row['base_mean'])} ± {_percent(row['base_std'])}",
                "tuned": f"{_percent(row['tuned_mean'])} ± {_percent(row['tuned_std'])}",
                "difference": f"{_percent(row['difference'], '+')} [{_percent(row['low'])}, {_percent(row['high'])}]",
                "p adjusted": _p(row["p_adjusted"]),
                "verdict": row["verdict"],
                "p over seeds": _p(row["paper_p"]),
            }
        )
    return pd.DataFrame(rows)


def _percent(value: float, sign: str = "") -> str:
    return "–" if math.isnan(value) else f"{100 * value:{sign}.2f}"


def _p(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2g}"


@register_view
def show_annotations(result: Annotations) -> Widget:
    """Return what the first seed says of each component, layer by layer."""
    frame = result.to_df()
    frame = frame.loc[(frame.seed == result.seeds[0]) & (frame.component < SHOWN)]
    columns = ["side", "component", "status", "tasks", "level", "description", "reason"]
    counts = ", ".join(f"{n:,} {name}" for name, n in result.counts().items() if n)
    options = result.provenance.options
    said = f"What {options['annotator']} says of the first {SHOWN} components of each layer (seed {result.seeds[0]})"
    data = AnnotationsData(
        facts=[f"{result.provenance.model}: {counts} annotations over {n_of(len(result.seeds), 'seed')}."],
        caption=said,
        columns=columns,
        layers=[
            LayerRows(f"layer {layer}", cells(frame.loc[frame.layer == layer, columns])) for layer in result.layers
        ],
    )
    title = f"Annotations: {result.provenance.model}"
    return Widget("annotations", data, title, height=760, fallback=table_html(result.top(20), said))
