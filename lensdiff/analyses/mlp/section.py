"""The section of the report, and what the command prints."""

import pandas as pd

from lensdiff.analyses.mlp.coherence import Coherence
from lensdiff.analyses.mlp.concepts import MLPConcepts
from lensdiff.analyses.mlp.rotation import Rotation
from lensdiff.results import Diff
from lensdiff.steps.found import Found
from lensdiff.steps.unit import SIDES, Unit
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

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


SUMMARIES = {"Rotation of concepts, angles in radians": summary}
SECTION = Section(
    "Which concepts the feed-forward layers hold",
    "The curve says how far the leading components of each layer turned, before the grey bands of meaningless "
    "changes of the same size; whether the layers rotated is what value rotation asks. Below, choose a layer and "
    "a component to read its words in the base and in the tuned model.",
    30,
    concepts_section,
)
