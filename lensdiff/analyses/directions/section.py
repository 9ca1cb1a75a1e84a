"""The section of the report, and what the command prints."""

import pandas as pd

from lensdiff.analyses.directions.result import Directions
from lensdiff.steps.found import Found
from lensdiff.steps.headline import MOST, Headline, beside_band, most_shifted
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

TABLES = {
    "directions": "A row per layer (the last: what leaves the last layer): the cosine of both models' directions, how "
    "well each tells held-out prompts apart, and the bands of permuted labels and of control models.",
    "direction_effects": "A row per changed model, direction and change: how far the response's log-probability moves, "
    "nats per token, with its interval over prompts and the band of random vectors of the same length.",
}


def directions_section(found: Found) -> list[Widget | Table | str]:
    """Return the curves, the effects and the tables of a results directory."""
    directions = found.maybe("directions", Directions)
    return [*([] if directions is None else [show(directions)]), *tables(found, TABLES)]


def directions_summary(found: Found) -> pd.DataFrame:
    """Return by layer the cosine beside controls, and the AUROC."""
    directions = found.maybe("directions", Directions)
    if directions is None:
        return pd.DataFrame()
    columns = ["layer", "cosine", "cosine_control_low", "cosine_control_high", "auroc_base", "auroc_tuned"]
    columns += ["auroc_base_in_tuned", "auroc_tuned_in_base", "permuted_low", "permuted_high"]
    return directions.to_df().filter(items=columns)


def effects_summary(found: Found) -> pd.DataFrame:
    """Return the effects of changed streams."""
    directions = found.maybe("directions", Directions)
    return pd.DataFrame() if directions is None else directions.effects()


def controls_beside(found: Found) -> dict[str, list[str]]:
    """Return the kinds of the controls that stand beside the directions."""
    directions = found.maybe("directions", Directions)
    return {} if directions is None else {"directions": list(directions.provenance.control_kinds)}


def headlines(found: Found) -> list[Headline]:
    """Return the layers in which the direction of an instruction turned most."""
    directions = found.maybe("directions", Directions)
    if directions is None:
        return []
    limits = ("cosine_control_low", "cosine_control_high")
    frame = directions.to_df().sort_values("cosine", kind="stable")
    counts = directions.provenance.control_counts
    return [
        Headline(
            "layers",
            f"At layer {row.layer} the direction of an instruction turned: cosine {row.cosine:.3g} of both models'",
            row.cosine,
            control=beside_band(getattr(row, limits[0]), getattr(row, limits[1]), counts),
            beyond=beyond,
        )
        for row, beyond in most_shifted(frame, "cosine", limits=limits, side="below", k=MOST)
    ]


SUMMARIES = {"Directions by layer": directions_summary, "Directions added and projected out": effects_summary}


SECTION = Section(
    "In which direction an instruction moves the stream",
    "At the last prompt token, the mean stream with the instruction less that without is a direction; a cosine below "
    "the grey band means that tuning turned it. Where a direction tells held-out prompts apart, it can be read there; "
    "whether the model uses it, the effects below say.",
    20,
    directions_section,
)
