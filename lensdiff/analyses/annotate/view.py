"""Annotations of components: what was said of each, and how shares of tasks and levels differ between the models."""

import math
from typing import Any

import pandas as pd
from torch import Tensor

from lensdiff.analyses.annotate.annotations import Annotations
from lensdiff.analyses.annotate.shift import GROUP_STATISTICS, AnnotationShift
from lensdiff.views.fallback import table_html
from lensdiff.views.show import register_view
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


@register_view
def show_annotation_shift(result: AnnotationShift) -> Widget:
    """Return the table of all labels, and a curve over groups of layers for the chosen one."""
    frame = _table(result)
    levels = [i for i, kind in enumerate(result.kinds) if kind == "level"]
    data = {
        "sides": list(result.sides),
        "labels": list(result.labels),
        "first": levels[-1] if levels else 0,
        "groups": list(result.groups),
        "group_statistics": list(GROUP_STATISTICS),
        "by_group": _numbers(result.by_group),
        "facts": _facts(result),
        "caption": CAPTION,
        "columns": [name for name in frame.columns if name != "side"],
        "rows": [
            [list(row) for row in frame[frame.side == side].drop(columns="side").itertuples(index=False)]
            for side in result.sides
        ],
    }
    title = f"Annotations: {result.provenance.options['base']} to {result.provenance.model}"
    return Widget("annotation_shift", data, title, height=900, fallback=table_html(frame, CAPTION))


def _facts(result: AnnotationShift) -> list[str]:
    annotator = result.provenance.options["annotator"]
    base, tuned = result.left_out
    return [
        f"Annotated by {annotator['annotator']} from {annotator['top_words']} words of each component. Without an "
        f"answer: {base:.1%} of the base's annotations, {tuned:.1%} of the tuned model's.",
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


def _numbers(values: Tensor) -> Any:
    if values.ndim:
        return [_numbers(part) for part in values]
    return None if math.isnan(float(values)) else float(f"{float(values):.4g}")


@register_view
def show_annotations(result: Annotations) -> Widget:
    """Return what the first seed says of each component, layer by layer."""
    frame = result.to_df()
    frame = frame.loc[(frame.seed == result.seeds[0]) & (frame.component < SHOWN)]
    columns = ["side", "component", "status", "tasks", "level", "description", "reason"]
    counts = ", ".join(f"{n:,} {name}" for name, n in result.counts().items() if n)
    options = result.provenance.options
    said = f"What {options['annotator']} says of the first {SHOWN} components of each layer (seed {result.seeds[0]})"
    data = {
        "facts": [f"{result.provenance.model}: {counts} annotations over {len(result.seeds)} seeds."],
        "caption": said,
        "columns": columns,
        "layers": [
            {"name": f"layer {layer}", "rows": frame.loc[frame.layer == layer, columns].to_numpy(dtype=object).tolist()}
            for layer in result.layers
        ],
    }
    title = f"Annotations: {result.provenance.model}"
    return Widget("annotations", data, title, height=760, fallback=table_html(result.top(20), said))
