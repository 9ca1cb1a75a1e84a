"""The section of the report, and what the command prints."""

import pandas as pd

from lensdiff.analyses.value_rotation.measure import ValueRotation
from lensdiff.steps.found import Found
from lensdiff.steps.headline import Headline, band_of, beside_envelope, is_beyond
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

TABLES = {
    "value_rotation": "A row per layer and kind of control: the share of the values' change that one orthogonal map "
    "explains, limits within which one more control lies, neurons that were matched with others, the change's size.",
    "value_rotation_controls": "A row per control and layer: its share.",
}


def value_rotation_section(found: Found) -> list[Widget | Table | str]:
    """Return the curve and the tables of a results directory."""
    share = found.maybe("value_rotation", ValueRotation)
    return [*([] if share is None else [show(share)]), *tables(found, TABLES)]


def summary(found: Found) -> pd.DataFrame:
    """Return the share of each layer's change of the values that is a rotation, with each kind's band; or nothing."""
    frame = found.table("value_rotation")
    return pd.DataFrame() if frame is None else frame


def controls_beside(found: Found) -> dict[str, list[str]]:
    """Return the kinds of the controls that stand beside the share."""
    share = found.maybe("value_rotation", ValueRotation)
    return {} if share is None else {"rotation": list(share.provenance.control_kinds)}


def headlines(found: Found) -> list[Headline]:
    """Return how much of the change of the layers' values is a rotation."""
    share = found.maybe("value_rotation", ValueRotation)
    if share is None or not bool((share.change > 0).any()):
        return []
    beside = share.beside()
    text = f"Of the change of the feed-forward layers' values {share.share:.3g} is a rotation, mean over layers"
    beyond = is_beyond(share.share, *band_of(beside), side="above")
    return [Headline("layers", text, share.share, control=beside_envelope(beside), beyond=beyond)]


SUMMARIES = {"Share of the values' change that is a rotation": summary}


SECTION = Section(
    "How much of the values' change is a rotation",
    "The curve is the share of each layer's change that one rotation of the stream explains. Above every grey band "
    "tuning turned the values more than meaningless changes of the same size do; grey are also those that ruin a "
    "model and that a claim leaves out.",
    45,
    value_rotation_section,
)
