"""The section of the report, and what the command prints."""

from typing import Any

import pandas as pd

from lensdiff.analyses.activation_difference.effects import DifferenceEffects
from lensdiff.analyses.activation_difference.result import ActivationDifference
from lensdiff.steps.found import Found
from lensdiff.steps.headline import Headline, beside_band, most_shifted
from lensdiff.steps.unit import WHOLE
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

TOP_ROWS = 12
EFFECTS = "activation_difference_effects"  # the step, and its first table
TABLES = {
    "activation_difference": "A row per layer and position: the share of the difference that is the same in every "
    "text, the band in which one more control lies, and the difference's mean length.",
    "activation_difference_words": "A row per reading, sign, layer, position and rank: a word, and its logit.",
    "activation_difference_controls": "A row per control, layer and position: its share.",
    EFFECTS: "A row per intervention at one place, changed model, scale and measure: of the difference, and where one "
    "more random vector, random difference and control lies.",
    "activation_difference_patchscope": "A row per direction, scale and word of the patchscope.",
    "activation_difference_steering": "A row per direction that is added to the base, and scale.",
    "activation_difference_causal": "A row per model and direction along which its component is the other model's.",
}


def activation_difference_section(found: Found) -> list[Widget | Table | str]:
    """Return the curves with the words, the interventions at one place, and the tables, of a results directory."""
    shown: list[Widget | Table | str] = []
    if result := found.maybe("activation_difference", ActivationDifference):
        shown.append(show(result))
        if effects := found.maybe(EFFECTS, DifferenceEffects):
            shown.append(show(effects))
        elif reason := found.reason(EFFECTS, WHOLE):
            shown.append(f"The difference was written nowhere: {reason}.")
    return [*shown, *tables(found, TABLES)]


def summary(found: Found) -> pd.DataFrame:
    """Return the places of the largest constant share, with the words that the difference speaks for."""
    result = found.maybe("activation_difference", ActivationDifference)
    return pd.DataFrame() if result is None else result.top(TOP_ROWS)


def controls_beside(found: Found) -> dict[str, list[str]]:
    """Return the kinds of the controls that stand beside the shares."""
    result = found.maybe("activation_difference", ActivationDifference)
    return {} if result is None else {"activation difference": list(result.provenance.control_kinds)}


def effects_summary(found: Found) -> pd.DataFrame:
    """Return steering and the replaced component, beside random vectors and controls."""
    effects = found.maybe(EFFECTS, DifferenceEffects)
    if effects is None:
        return pd.DataFrame()
    frame: Any = effects.to_df()
    some = frame[frame["measure"].isin(["kl_to_tuned", "change"])]
    return some.drop(columns=["intervention", "random_difference_low", "random_difference_high"])


def headlines(found: Found) -> list[Headline]:
    """Return the layers in which most of what the stream gained is the same in every text, with what that says."""
    result = found.maybe("activation_difference", ActivationDifference)
    if result is None:
        return []
    frame = result.top(result.size.numel()).dropna(subset=["constant_share"]).drop_duplicates("layer")
    counts = result.provenance.control_counts
    return [
        Headline(
            "layers",
            f"At layer {row.layer}, {row.constant_share:.0%} of what tuning adds at position {row.position} is the "
            f"same in every text; it speaks for {row.reads}",
            row.constant_share,
            control=beside_band(row.control_low, row.control_high, counts),
            beyond=beyond,
        )
        for row, beyond in most_shifted(frame, "constant_share", side="above")
    ]


SUMMARIES = {
    "What every text's stream gained, where most of it is constant": summary,
    "What that does: the base steered by it, and either model without its part of it": effects_summary,
}


SECTION = Section(
    "What tuning adds to the stream whatever the text",
    "Where the orange line lies above the grey band, tuning moved the stream in one direction in texts that have "
    "nothing to do with it, more than meaningless changes of the same size do. The words below are what that direction "
    "speaks for; beside them are the words of the tuned model's own mean and of controls: what noise reads like. "
    "Last stands what the difference of one place does, written and replaced, before other directions.",
    20,
    activation_difference_section,
)
