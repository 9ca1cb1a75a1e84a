"""The section of the report, and what the command prints."""

from typing import Any

import pandas as pd

from lensdiff.analyses.layer_similarity.passes import ALL
from lensdiff.analyses.layer_similarity.result import LayerSimilarity
from lensdiff.steps.found import Found
from lensdiff.steps.headline import MOST, Headline, beside_band, most_shifted
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

TABLES = {
    "layer_similarity": "A row per group of positions and layer (the number of layers: what leaves the last one): how "
    "alike the streams of base and tuned model are, the interval over prompts where there is one, and the band in "
    "which one more control lies.",
}


def layer_similarity_section(found: Found) -> list[Widget | Table | str]:
    """Return the curves and the table of a results directory."""
    similarity = found.maybe("layer_similarity", LayerSimilarity)
    return [*([] if similarity is None else [show(similarity)]), *tables(found, TABLES)]


def similarity_summary(found: Found) -> pd.DataFrame:
    """Return by layer how alike the streams are over all positions, beside controls."""
    similarity = found.maybe("layer_similarity", LayerSimilarity)
    if similarity is None:
        return pd.DataFrame()
    frame = similarity.to_df()
    columns = ["layer", "cka", "cka_control_low", "cka_control_high", "relative_change", "relative_change_low"]
    columns += ["relative_change_high", "relative_change_control_low", "relative_change_control_high", "cosine"]
    return frame.loc[frame["group"] == ALL, [*columns, "mean_shift_share"]]


def controls_beside(found: Found) -> dict[str, list[str]]:
    """Return the kinds of the controls that stand beside the layers."""
    similarity = found.maybe("layer_similarity", LayerSimilarity)
    return {} if similarity is None else {"layer similarity": list(similarity.provenance.control_kinds)}


def headlines(found: Found) -> list[Headline]:
    """Return the layers whose streams moved most on the same text."""
    similarity = found.maybe("layer_similarity", LayerSimilarity)
    if similarity is None:
        return []
    limits = ("relative_change_control_low", "relative_change_control_high")
    rows = most_shifted(similarity.top(len(similarity.layers)), "relative_change", limits=limits, side="above", k=MOST)
    return [_moved(row, beyond, similarity) for row, beyond in rows]


def _moved(row: Any, beyond: bool | None, found: LayerSimilarity) -> Headline:
    what = f"What enters layer {row.layer}" if row.layer < found.n_layers else "What leaves the last layer"
    limits = row.relative_change_control_low, row.relative_change_control_high
    control = beside_band(*limits, found.provenance.control_counts)
    text = f"{what} moved by {row.relative_change:.3g} of its length on the same text"
    return Headline("layers", text, row.relative_change, control=control, beyond=beyond)


SUMMARIES = {"Layer similarity, all positions": similarity_summary}


SECTION = Section(
    "In which layers the streams part",
    "Both models read the same text; each point says how alike their residual streams are where they enter a layer. "
    "Where the orange line leaves the grey band, tuning moved the stream as no meaningless change of its size does.",
    19,
    layer_similarity_section,
)
