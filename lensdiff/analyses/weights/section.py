"""The section of the report, and what the command prints."""

import math
from typing import Any

import pandas as pd

from lensdiff.analyses.weights.weight_shift import WeightShift
from lensdiff.steps.found import Found
from lensdiff.steps.headline import MOST, Headline
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.show import show
from lensdiff.views.widget import Widget

TOP_ROWS = 12
CAPTION = (
    "A row per weight, bias and gain, and per head where it has heads (key-value heads for W_K and W_V): "
    "relative_norm is the change's norm over the base's, effective_rank counts the change's directions, top_share is "
    "the energy of its largest ones; folded_ is the same with the norm's gain multiplied in."
)


def weights_section(found: Found) -> list[Widget | Table | str]:
    """Return the map and the table of a results directory."""
    moved = found.maybe("weights", WeightShift)
    return [*([] if moved is None else [show(moved)]), *tables(found, {"weights": CAPTION})]


def summary(found: Found) -> pd.DataFrame:
    """Return the weights that moved most."""
    columns = ["layer", "matrix", "head_index", "relative_norm", "cosine", "effective_rank", "folded_relative_norm"]
    return found.one("weights", WeightShift).ranked(TOP_ROWS).filter(items=columns)


def headlines(found: Found) -> list[Headline]:
    """Return the weights and heads that moved most; no control moves them otherwise: it has the real change's size."""
    moved = found.maybe("weights", WeightShift)
    return [] if moved is None else [_moved(row) for row in moved.top(MOST).itertuples(index=False) if row[3]]


def _moved(row: Any) -> Headline:
    head = "" if pd.isna(row.head_index) else f", head {row.head_index}"
    where = "" if pd.isna(row.layer) else f" of layer {row.layer}{head}"
    share = row.relative_norm
    how = "was zero and is not any more" if math.isinf(share) else f"moved by {share:.3g} of its norm"
    return Headline("matrices", f"{row.matrix}{where} {how}", float(share))


SUMMARIES = {"Weights that moved most": summary}


SECTION = Section(
    "How far the weights moved",
    "Each cell is one weight matrix of one layer, or one head of it; a stronger colour means that tuning "
    "moved it more, relative to its size. A change can be large without doing much, and the other way round: "
    "what it does is asked of responses, attention and words.",
    60,
    weights_section,
)
