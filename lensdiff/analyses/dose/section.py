"""The section of the report, and what the command prints."""

from typing import Any

import pandas as pd

from lensdiff.analyses.dose.result import GAIN, HEADLINE, Dose
from lensdiff.steps.found import Found
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

TABLES = {
    "dose": "A row per group of weights, amount and prompt: log-probabilities of both responses and the "
    "Kullback-Leibler divergences to both models, nats per token; instruction use with the instruction deleted.",
    "dose_effects": "A row per group and measure: what the group's change does alone at amount 1, less the base, over "
    "prompts; its share of the tuned model's own effect; the amount that does half of it.",
    "dose_controls": "A row per control: how much likelier the tuned model's response becomes with its W_out.",
}


def dose_section(found: Found) -> list[Widget | Table | str]:
    """Return the curves and the tables of a results directory."""
    result = found.maybe("dose", Dose)
    return [*([] if result is None else [show(result)]), *tables(found, TABLES)]


def summary(found: Found) -> pd.DataFrame:
    """Return what each group alone does to the tuned model's response, nats per token, beside controls' W_out."""
    frame: Any = found.table("dose_effects")
    if frame is None:
        return pd.DataFrame()
    rows = frame[frame.measure == GAIN].drop(columns=["measure", "p"]).reset_index(drop=True)
    controls: Any = found.table("dose_controls")
    gains = pd.Series(dtype=float) if controls is None else controls["gain"].dropna()
    beside = f"{gains.min():.3g} to {gains.max():.3g} ({len(gains)})" if len(gains) else "none"
    return rows.assign(controls=[beside if group == HEADLINE else "none" for group in rows["group"]])


def controls_beside(found: Found) -> dict[str, list[str]]:
    """Return the kinds of the controls that stand beside W_out."""
    result = found.maybe("dose", Dose)
    return {} if result is None else {"dose": list(result.provenance.control_kinds)}


SUMMARIES = {"Doses: gain of the tuned model's response, nats per token, at amount 1 of one group alone": summary}


SECTION = Section(
    "What parts of the change do alone",
    "A copy of the base is given a part of the change: nothing at 0, all of it at 1. The nearer a group's curve comes "
    "to that of all weights, the more its change does alone; what groups do does not add up.",
    8,
    dose_section,
)
