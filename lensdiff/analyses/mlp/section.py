"""The section of the report, and what the command prints."""

from typing import Any

import numpy as np
import pandas as pd

from lensdiff.analyses.mlp.coherence import Coherence
from lensdiff.analyses.mlp.concepts import MLPConcepts
from lensdiff.analyses.mlp.rotation import Rotation
from lensdiff.results import Diff
from lensdiff.steps.found import Found
from lensdiff.steps.headline import MOST, Headline, beside_band, is_beyond
from lensdiff.steps.unit import SIDES, Unit
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

WORDS = 3  # of a concept, in a headline
CAPTIONS = {
    "rotation": "A row per layer, side and rank: mean and largest principal angle in radians, with the bands of the "
    "controls for the mean.",
    "matched_components": "A row per component of the base: the tuned component it is matched with, the angle in "
    "radians with its bands, shares of the variance, words lost and gained.",
}


def concepts_section(found: Found) -> list[Widget | Table | str]:
    """Return rotation, concepts, coherence and tables of a results directory."""
    parts: list[Widget | Table | str] = []
    if turned := found.maybe("rotation", Rotation):
        parts += [show(turned), *tables(found, CAPTIONS)]
    if set(SIDES) <= set(found.models("concepts")):
        parts.append(show(Diff(*(found.of_model("concepts", MLPConcepts, side) for side in SIDES))))
    if all(found.has("coherence", Unit(side)) for side in SIDES):
        parts.append(show(Diff(*(found.one("coherence", Coherence, Unit(side)) for side in SIDES))))
    if parts and found.table("concepts") is not None:
        parts.append("The words of every component are in tables/concepts.parquet of the results directory.")
    return parts


def summary(found: Found) -> pd.DataFrame:
    """Return how far the concepts turned, by layer, side and rank, with the controls' band."""
    return found.one("rotation", Rotation).to_df()


def headlines(found: Found) -> list[Headline]:
    """Return the concepts that turned furthest beyond the controls, with the words that they lost and gained."""
    turned = found.maybe("rotation", Rotation)
    if turned is None:
        return []
    top = turned.top(MOST)
    limits = [name for name in top.columns if name.endswith("_high")]
    rows = zip(top.itertuples(index=False), top[limits].max(axis=1).tolist(), strict=True)
    return [_turned(row, limit, turned) for row, limit in rows]


def _turned(row: Any, limit: float, turned: Rotation) -> Headline:
    lost, gained = (", ".join(text.split(", ")[:WORDS]) for text in (row.lost, row.gained))
    angle = np.degrees(row.angle)
    text = f"Layer {row.layer}, concept {row.component} of the {row.side}s turned by {angle:.3g}°"
    text += f", lost {lost} and gained {gained}" if lost or gained else " and kept its words"
    high = np.degrees(limit)
    control = beside_band(0.0, high, turned.provenance.control_counts, "°")
    return Headline("words", text, angle, "°", control.replace("0 to", "up to"), is_beyond(angle, 0.0, high, "above"))


SUMMARIES = {"Rotation of concepts, angles in radians": summary}
SECTION = Section(
    "Which concepts the feed-forward layers hold",
    "The curve says how far the leading components of each layer turned, before the grey bands of meaningless "
    "changes of the same size; whether the layers rotated is what value rotation asks. Below, choose a layer and "
    "a component to read its words in the base and in the tuned model.",
    30,
    concepts_section,
)
