"""The section of the report, and what the command prints."""

import pandas as pd

from lensdiff.analyses.activation_difference.result import ActivationDifference
from lensdiff.steps.found import Found
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

TOP_ROWS = 12
TABLES = {
    "activation_difference": "A row per layer and position: the share of the difference that is the same in every "
    "text, the band in which one more control lies, and the difference's mean length.",
    "activation_difference_words": "A row per reading, sign, layer, position and rank: a word, and its logit.",
    "activation_difference_controls": "A row per control, layer and position: its share.",
}


def activation_difference_section(found: Found) -> list[Widget | Table | str]:
    """Return the curves with the words, and the tables, of a results directory."""
    result = found.maybe("activation_difference", ActivationDifference)
    return [*([] if result is None else [show(result)]), *tables(found, TABLES)]


def summary(found: Found) -> pd.DataFrame:
    """Return the places of the largest constant share, with the words that the difference speaks for."""
    result = found.maybe("activation_difference", ActivationDifference)
    return pd.DataFrame() if result is None else result.top(TOP_ROWS)


def controls_beside(found: Found) -> dict[str, list[str]]:
    """Return the kinds of the controls that stand beside the shares."""
    result = found.maybe("activation_difference", ActivationDifference)
    return {} if result is None else {"activation difference": list(result.provenance.control_kinds)}


SUMMARIES = {"What every text's stream gained, where most of it is constant": summary}


SECTION = Section(
    "What tuning adds to the stream whatever the text",
    "Where the orange line lies above the grey band, tuning moved the stream in one direction in texts that have "
    "nothing to do with it, more than meaningless changes of the same size do. The words below are what that direction "
    "speaks for; beside them are the words of the tuned model's own mean and of controls: what noise reads like.",
    20,
    activation_difference_section,
)
