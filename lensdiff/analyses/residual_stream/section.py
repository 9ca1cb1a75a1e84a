"""The section of the report, and what the command prints."""

from typing import Any

import pandas as pd

from lensdiff.analyses.residual_stream.lens import LogitLens
from lensdiff.analyses.residual_stream.lens_shift import LensShift
from lensdiff.analyses.residual_stream.parts_shift import PartsShift
from lensdiff.results import Diff
from lensdiff.steps.found import Found
from lensdiff.steps.headline import Headline, beside_band, most_shifted
from lensdiff.steps.unit import SIDES, Unit
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

TOP_ROWS = 12
PROMPTS = 8  # whose layers a report draws
TABLES = {
    "logit_lens_shift": "A row per measure and layer: base and tuned, means over prompts, their difference with its "
    "interval over prompts, and the band in which one more control's difference lies.",
    "direct_logit_attribution": "A row per part: what it adds to a response token's logit less that of another token, "
    "in base and tuned, the difference with its interval over prompts and the controls' band; p_adjusted is over this "
    "table, and moved says that both agree.",
    "logit_lens": "A row per model, response token and layer; the last layer is the model's own output.",
}


def residual_stream_section(found: Found) -> list[Widget | Table | str]:
    """Return the curves, the lens of a few prompts, the map of parts, and the tables of a results directory."""
    shown: list[Widget | Table | str] = []
    if lens := found.maybe("logit_lens_shift", LensShift):
        shown.append(show(lens))
    prompts = found.prompts("logit_lens", *SIDES)[:PROMPTS]
    if prompts:
        sides = [list(found.some("logit_lens", LogitLens, [Unit(side, p) for p in prompts])) for side in SIDES]
        shown.append(show(Diff(*sides)))
    if parts := found.maybe("direct_logit_attribution", PartsShift):
        shown.append(show(parts))
    return [*shown, *tables(found, TABLES)]


def lens_summary(found: Found) -> pd.DataFrame:
    """Return by layer the KL to the output and the token's probability, of both models beside controls."""
    frame = found.table("logit_lens_shift")
    return pd.DataFrame() if frame is None else frame


def parts_summary(found: Found) -> pd.DataFrame:
    """Return the parts that moved most."""
    shift = found.maybe("direct_logit_attribution", PartsShift)
    columns = ["part", "layer", "head_index", "base", "tuned", "difference", "low", "high", "control_low"]
    columns += ["control_high", "p_adjusted", "moved"]
    return pd.DataFrame() if shift is None else shift.ranked(TOP_ROWS).filter(items=columns)


def controls_beside(found: Found) -> dict[str, list[str]]:
    """Return the kinds of the controls that stand beside the layers and the parts."""
    known = {"logit lens": found.maybe("logit_lens_shift", LensShift)}
    known |= {"parts of logits": found.maybe("direct_logit_attribution", PartsShift)}
    return {name: list(one.provenance.control_kinds) for name, one in known.items() if one is not None}


def headlines(found: Found) -> list[Headline]:
    """Return the heads and MLPs that speak for the response's tokens otherwise, and the layers that say them."""
    told: list[Headline] = []
    if (parts := found.maybe("direct_logit_attribution", PartsShift)) is not None:
        frame: Any = parts.top(len(parts.parts))
        for kind, part in (("heads", "head"), ("layers", "mlp")):
            told += [
                _part(row, beyond, kind, parts) for row, beyond in most_shifted(frame[frame.part == part], "difference")
            ]
    if (lens := found.maybe("logit_lens_shift", LensShift)) is not None:
        rows: Any = lens.top(len(lens.layers))
        some = most_shifted(rows[rows.layer != lens.layers[-1]], "difference", k=1)
        told += [_layer(row, beyond, lens) for row, beyond in some]
    return told


def _part(row: Any, beyond: bool | None, kind: Any, shift: PartsShift) -> Headline:
    what = f"Layer {row.layer}, head {row.head_index}" if row.part == "head" else f"The MLP of layer {row.layer}"
    more = "more for" if row.difference > 0 else "less for"
    text = f"{what} speaks {more} the response's tokens: {row.difference:+.3g} logits against other tokens"
    control = beside_band(row.control_low, row.control_high, shift.provenance.control_counts)
    return Headline(kind, text, row.difference, " logits", control, beyond)


def _layer(row: Any, beyond: bool | None, lens: LensShift) -> Headline:
    text = f"What enters layer {row.layer} says the response's token with another probability: {row.difference:+.3g}"
    control = beside_band(row.control_low, row.control_high, lens.provenance.control_counts)
    return Headline("layers", text, row.difference, control=control, beyond=beyond)


SUMMARIES = {"Logit lens by layer": lens_summary, "Parts whose contribution moved most": parts_summary}


SECTION = Section(
    "Where in the layers a response is made",
    "The lens lets each layer's stream speak as if it were the last: where the orange line leaves the blue one and the "
    "grey band, tuning moved where the response is decided. The map shows the heads and MLPs that speak for the "
    "response's tokens more (orange) or less (blue) than in the base; a filled corner means beyond the controls.",
    20,
    residual_stream_section,
)
