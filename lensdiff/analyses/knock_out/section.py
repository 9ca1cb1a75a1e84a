"""The section of the report, and what the command prints."""

from typing import Any

import pandas as pd

from lensdiff.analyses.knock_out.shift import KnockOutShift
from lensdiff.analyses.knock_out.view import show_shift, token_widget
from lensdiff.steps.found import Found
from lensdiff.steps.headline import Headline, band_of, beside_envelope, is_beyond
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.widget import Widget

UNIT = " nats per token"
TABLES = {
    "knock_out_effects": "A row per text, cut, measure and model: drop is the mean loss in nats per token, slope its "
    "change over the response; limits are over prompts, and no verdict.",
    "knock_out_prompts": "A row per prompt, text, model and cut: log_prob with nothing cut, and what is lost.",
    "knock_out_windows": "A row per text, cut, window of layers and model, beside as many other prompt tokens cut.",
    "knock_out": "A row per response token, all layers cut: drop is what it loses, random_drop with other tokens cut.",
}


def knock_out_section(found: Found) -> list[Widget | Table | str]:
    """Return the curves, the responses token by token, and the tables of a results directory."""
    result = found.maybe("knock_out", KnockOutShift)
    shown = [] if result is None else [show_shift(result), token_widget(result)]
    return [*shown, *tables(found, TABLES)]


def summary(found: Found) -> pd.DataFrame:
    """Return what responses lose without their instruction, by text and cut: both models and their difference."""
    frame: Any = found.table("knock_out_effects")
    if frame is None:
        return pd.DataFrame()
    rows = []
    for (text, cut, measure), some in frame.groupby(["text", "cut", "measure"], sort=False):
        base, tuned, difference = (some[some["model"] == name].iloc[0] for name in ("base", "tuned", "tuned - base"))
        limits = [difference[name] for name in ("low", "high", "control_low", "control_high")]
        rows.append(
            (text, cut, measure, difference["n"], base["estimate"], tuned["estimate"], difference["estimate"], *limits)
        )
    columns = [
        "text",
        "cut",
        "measure",
        "n",
        "base",
        "tuned",
        "difference",
        "low",
        "high",
        "control_low",
        "control_high",
    ]
    return pd.DataFrame(rows, columns=columns)


def controls_beside(found: Found) -> dict[str, list[str]]:
    """Return the kinds of the controls that stand beside the pair's loss."""
    result = found.maybe("knock_out", KnockOutShift)
    return {} if result is None else {"instruction cut": list(result.provenance.control_kinds)}


def headlines(found: Found) -> list[Headline]:
    """Return how much more responses lose when their instruction is cut off."""
    result = found.maybe("knock_out", KnockOutShift)
    text = "" if result is None else result.shown[-1]
    if result is None or result.difference(text=text) is None:  # of too few prompts
        return []
    (effect, _), (base, tuned) = result.effects(text), result.means(text=text)
    beside = result.beside(text) if result.provenance.controls else None
    said = (
        f"Responses lose {'more' if effect > 0 else 'less'} when no attention reaches their instruction "
        f"({effect:+.3g}): {tuned:.3g}{UNIT} in the tuned model, {base:.3g} in the base"
    )
    beyond = is_beyond(effect, *band_of(beside))
    return [Headline("responses", said, effect, UNIT, beside_envelope(beside, UNIT), beyond)]


SUMMARIES = {"Instruction cut: loss in nats per token, and its slope over the response": summary}


SECTION = Section(
    "What a response loses when its instruction is cut off",
    "No attention reaches the instruction, and the response's tokens lose probability as far as they need it: the "
    "higher a line, the more. Where the tuned model's line stays high over the response, it goes on being conditioned "
    "on the instruction; grey is what meaningless changes of the same size do, or the loss with other words cut.",
    6,
    knock_out_section,
)
