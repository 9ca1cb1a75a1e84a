"""The section of the report, and what the command prints."""

from typing import Any

import pandas as pd

from lensdiff.analyses.dose.result import GAIN, HEADLINE, WHOLE, Dose
from lensdiff.steps.found import Found
from lensdiff.steps.headline import MOST, Headline, band_of, beside_envelope, is_beyond
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

NOT, UNIT = "not ", " nats per token"
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


def headlines(found: Found) -> list[Headline]:
    """Return the groups of weights whose change does most alone; controls were made of one of them."""
    result, frame = found.maybe("dose", Dose), found.table("dose_effects")
    if result is None or frame is None:
        return []
    rows: Any = frame[frame.measure == GAIN].set_index("group").effect
    if WHOLE not in rows:
        return []
    beside = result.beside()
    alone = [name for name in rows.index if name != WHOLE and not str(name).startswith(NOT)]
    told = []
    for name in rows[alone].abs().nlargest(MOST, keep="first").index:
        text = (
            f"The change of {name} alone makes the tuned model's response likelier by {rows[name]:+.3g}{UNIT}, all of "
            f"the change by {rows[WHOLE]:+.3g}"
        )
        own = beside if name == HEADLINE else None
        beyond = is_beyond(rows[name], *band_of(own))
        told.append(Headline("matrices", text, float(rows[name]), UNIT, beside_envelope(own, UNIT), beyond))
    return told


SUMMARIES = {"Doses: gain of the tuned model's response, nats per token, at amount 1 of one group alone": summary}


SECTION = Section(
    "What parts of the change do alone",
    "A copy of the base is given a part of the change: nothing at 0, all of it at 1. The nearer a group's curve comes "
    "to that of all weights, the more its change does alone; what groups do does not add up.",
    8,
    dose_section,
)
