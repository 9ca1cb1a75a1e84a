"""The section of the report, and what the command prints."""

from typing import Any

import pandas as pd

from lensdiff import stats
from lensdiff.analyses.instruction_use.result import InstructionUse
from lensdiff.steps.found import Found
from lensdiff.steps.headline import Headline, band_of, beside_envelope, is_beyond
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

UNIT = " nats per token"
TABLES = {
    "instruction_use": "A row per prompt, text and model: use is log_prob - log_prob_without, nats per token.",
    "instruction_use_differences": "A row per text and model: the mean use less the base's, over prompts. p is of the "
    "prompts alone, and no verdict.",
}


def instruction_use_section(found: Found) -> list[Widget | Table | str]:
    """Return the dots by either means, and the tables of a results directory."""
    names = ("instruction_use", "instruction_use_deletion")
    shown = [show(found.one(name, InstructionUse)) for name in names if found.has(name)]
    return [*shown, *tables(found, TABLES)]


def summary(found: Found) -> pd.DataFrame:
    """Return how far responses depend on their instruction, nats per token, by each means and on each text."""
    frame: Any = found.table("instruction_use_differences")
    if frame is None:
        return pd.DataFrame()
    columns = ["by", "text", "n", "base", "tuned", "difference", "low", "high", "controls"]
    rows = []
    for by, text in frame[["by", "text"]].drop_duplicates().itertuples(index=False):
        some: Any = frame[(frame.by == by) & (frame.text == text)]
        pair, controls = some[some.model == "tuned"].iloc[0], some[some.kind != ""].difference
        beside = "none" if controls.empty else f"{controls.min():.3g} to {controls.max():.3g} ({len(controls)})"
        numbers = [pair[name] for name in ("n", "base", "use", "difference", "low", "high")]
        rows.append((by, text, *numbers, beside))
    return pd.DataFrame(rows, columns=columns)


def controls_beside(found: Found) -> dict[str, list[str]]:
    """Return the kinds of the controls that stand beside the pair's use."""
    use = found.maybe("instruction_use", InstructionUse)
    return {} if use is None else {"instruction use": list(use.provenance.control_kinds)}


def headlines(found: Found) -> list[Headline]:
    """Return how much more responses depend on their instruction."""
    use = found.maybe("instruction_use", InstructionUse)
    if use is None or len(use.prompts()) < stats.FEWEST_PAIRS:
        return []
    (effect, _), beside = use.effects(), use.beside()
    base, tuned = use.means()
    text = (
        f"Responses depend {'more' if effect > 0 else 'less'} on their instruction ({effect:+.3g}): with another "
        f"they lose {tuned:.3g}{UNIT} in the tuned model, {base:.3g} in the base"
    )
    beyond = is_beyond(effect, *band_of(beside))
    return [Headline("responses", text, effect, UNIT, beside_envelope(beside, UNIT), beyond)]


SUMMARIES = {"Instruction use, nats per token": summary}


SECTION = Section(
    "How much a response needs its instruction",
    "A dot is a model on one prompt: the further right, the less likely the response becomes with another "
    "instruction. The tuned model's dot lies right of the base's where it depends on the instruction more; grey is "
    "what meaningless changes of the same size do, also those that ruin a model and that a claim leaves out.",
    5,
    instruction_use_section,
)
