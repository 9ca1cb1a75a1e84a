"""Directions by layer: cosine and held-out AUROC before the controls' bands, and effects before random vectors."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lensdiff import stats
from lensdiff.analyses.directions.result import Directions
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import rounded_all
from lensdiff.views.prompts import how_rendered
from lensdiff.views.show import register_view
from lensdiff.views.small_table import SmallTable
from lensdiff.views.widget import Role, Widget

SHARED = "cosine of both directions"
CURVES = {  # by its label: unit, how to read it, and the lines with their roles and names
    SHARED: ("cosine", "1: tuning left the direction as it was.", [("tuned", "tuned against base", "cosine")]),
    "told apart by its own": (
        "AUROC",
        "How well each model's direction tells held-out prompts apart in that model; 1/2: not.",
        [("base", "base", "auroc_base"), ("tuned", "tuned", "auroc_tuned")],
    ),
    "told apart by the other's": (
        "AUROC",
        "How well each model's direction tells held-out prompts apart in the other model: a shared one does as well.",
        [("base", "base's in tuned", "auroc_base_in_tuned"), ("tuned", "tuned's in base", "auroc_tuned_in_base")],
    ),
}
BAND_OF = {SHARED: "cosine", "told apart by its own": "auroc_tuned", "told apart by the other's": "auroc_base_in_tuned"}


@dataclass(frozen=True)
class DirectionLine:
    """A line of a picture: its colour, its name, and its values by layer."""

    role: Role
    name: str
    values: list[float]


@dataclass(frozen=True)
class DirectionBand:
    """A band by layer and what it is of; `dotted`: of permuted labels."""

    name: str
    low: list[float]
    high: list[float]
    dotted: bool


@dataclass(frozen=True)
class DirectionPicture:
    """One picture, which is chosen by its label."""

    label: str
    unit: str
    how: str
    lines: list[DirectionLine]
    bands: list[DirectionBand]
    controls: list[list[float]]


@dataclass(frozen=True)
class DirectionsData:
    """What the script of the view is given.

    Attributes:
        layers: their labels.
        n_controls: how many stand beside.
        pictures: one of which is chosen.
        table: of the effects; None where none was measured.
        facts: paragraphs above.
    """

    layers: list[str]
    n_controls: int
    pictures: list[DirectionPicture]
    table: SmallTable | None
    facts: list[str]


@register_view
def show_directions(result: Directions) -> Widget:
    """Return the curves and the effects of a pair."""
    n = result.cosine.shape[1]
    data = DirectionsData(
        layers=[*map(str, range(n - 1)), "out"],
        n_controls=len(result.provenance.controls),
        pictures=[_picture(result, label) for label in CURVES],
        table=_table(result),
        facts=_facts(result),
    )
    fallback = table_html(result.to_df(), "Directions") + table_html(result.effects(), "Effects, nats per token")
    return Widget("directions", data, f"Directions: {result.provenance.model}", height=760, fallback=fallback)


def _picture(result: Directions, label: str) -> DirectionPicture:
    unit, how, lines = CURVES[label]
    frame: Any = result.to_df()
    n, name, bands = len(result.provenance.controls), BAND_OF[label], []
    band, controls = result.band(name), getattr(result, name)[1:].numpy()
    known = not np.isnan(band.low).any()
    if known:
        which = {"auroc_tuned": ", in itself", "auroc_base_in_tuned": ", by the base's"}.get(name, "")
        title = f"where one more control would lie{which} ({n} controls)"
        bands.append(DirectionBand(title, rounded_all(band.low), rounded_all(band.high), False))
    if unit == "AUROC":
        limits = [rounded_all(frame[f"permuted_{limit}"]) for limit in ("low", "high")]
        bands.append(DirectionBand("labels permuted", *limits, dotted=True))
    dots = [] if known or not len(controls) else [rounded_all(layer) for layer in controls.T]
    drawn = [DirectionLine(role, said, rounded_all(frame[column])) for role, said, column in lines]  # type: ignore[arg-type]
    return DirectionPicture(label, unit, how, drawn, bands, dots)


def _table(result: Directions) -> SmallTable | None:
    frame = result.effects()
    if frame.empty:
        return None
    shown = frame.drop(columns=["layer", "n"]).rename(columns=lambda name: str(name).replace("_", " "))
    n = len(result.prompt_id)
    caption = f"Effects at layer {result.layer} on {n} responses, nats per token"
    return SmallTable.of(shown, caption)


def _facts(result: Directions) -> list[str]:
    what = "prompts with and without their instruction" if result.paired else "two sets of prompts"
    facts = [
        f"{result.n_a} texts against {result.n_b}, {what}, at the last prompt token; {result.n_folds} parts, each held "
        f"out once; {how_rendered(result.provenance)}.",
        f"Pitfalls: the number of tokens alone tells them apart with an AUROC of {result.length_auroc:.2g}; "
        f"{result.same_last:.0%} of the first end in a token in which one of the others ends, too.",
    ]
    envelope = result.beside()
    if envelope is not None:
        facts.append(f"Cosine of both directions, mean over layers: {envelope}.")
    else:
        n = stats.FEWEST_FOR_RANK
        facts.append(f"Without controls nothing says what a meaningless change would do; a band takes {n} of a kind.")
    facts.append("An AUROC says that a direction can be read, not that the model uses it: that takes the effects.")
    if result.prompt_id:
        facts.append(
            "Effects: log-probability of the response with the change − without. A direction is added where the "
            "instruction is missing and projected out where it is there, from the last prompt token on; low and high "
            "over prompts; random: where one more random vector of that length lies."
        )
    return facts
