"""The section of the report, and what the command prints."""

import pandas as pd

from lensdiff.analyses.outputs.output_shift import OutputShift
from lensdiff.analyses.outputs.view import outputs_widget
from lensdiff.steps.found import Found
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.widget import Widget

TOP_ROWS = 12
COLUMNS = ["prompt_id", "out_pos", "token", "kl", "js", "base_rank", "tuned_rank"]
COLUMNS += ["base_choice", "tuned_choice", "kind"]
CAPTION = (
    "A row per response token: kl is KL(tuned || base) in nats, js the Jensen-Shannon distance (base 2); ranks and "
    "probabilities of the token itself; kind says whether the tuned model's choice is the base's (unshifted), its "
    "second or third (marginal) or beyond (shifted)."
)


def outputs_section(found: Found) -> list[Widget | Table | str]:
    """Return the coloured responses and the table of a results directory."""
    results = list(found.each("outputs", OutputShift))
    return [*([outputs_widget(results)] if results else []), *tables(found, {"outputs": CAPTION})]


def summary(found: Found) -> pd.DataFrame:
    """Return the response tokens at which the models differ most."""
    frame = found.table("outputs")
    return pd.DataFrame() if frame is None else frame.nlargest(TOP_ROWS, "kl").filter(items=COLUMNS)


SUMMARIES = {"Outputs: tokens at which the models differ most": summary}


SECTION = Section(
    "What the models would say next",
    "Both models read the same response; the stronger a token's colour, the further apart they are about what "
    "comes there. Choose one to see what each found likely; underlined tokens are those where the tuned model's "
    "own choice is not the base's.",
    15,
    outputs_section,
)
