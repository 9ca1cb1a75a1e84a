"""The section of the report, and what the command prints."""

from typing import Any

import pandas as pd

from lensdiff.analyses.outputs.output_shift import OutputShift
from lensdiff.analyses.outputs.view import outputs_widget
from lensdiff.results.numbers import n_of
from lensdiff.steps.found import Found
from lensdiff.steps.headline import MOST, Headline
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.widget import Widget
from lensdiff.views.words import visible

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


def headlines(found: Found) -> list[Headline]:
    """Return the response tokens at which the models are furthest apart, all places of a token together."""
    frame: Any = found.table("outputs")
    if frame is None or not (whole := frame["kl"].sum()) > 0:
        return []
    some = frame.groupby("token", sort=False).agg(
        kl=("kl", "sum"), places=("kl", "size"), prompts=("prompt_id", "nunique"), base=("base_prob", "mean"),
        tuned=("tuned_prob", "mean"),
    ).nlargest(MOST, "kl")  # fmt: skip
    return [_at(row, row.kl / whole) for row in some.itertuples()]


def _at(row: Any, share: float) -> Headline:
    places = "once" if row.places == 1 else f"{row.places} times in {n_of(row.prompts, 'prompt')}"
    said = f"“{visible(row.Index)}”, said {places}, went from probability {row.base:.2g} to {row.tuned:.2g}"
    return Headline("tokens", f"{said}: {share:.0%} of all by which the next tokens differ (KL)", share)


SUMMARIES = {"Outputs: tokens at which the models differ most": summary}


SECTION = Section(
    "What the models would say next",
    "Both models read the same response; the stronger a token's colour, the further apart they are about what "
    "comes there. Choose one to see what each found likely; underlined tokens are those where the tuned model's "
    "own choice is not the base's.",
    15,
    outputs_section,
)
