"""The section of the report, and what the command prints."""

import pandas as pd

from embedding_norms.measure import NormShift
from lensdiff.steps.found import Found
from lensdiff.steps.headline import Headline
from lensdiff.views.section import Section, Table, tables
from lensdiff.views.show import show
from lensdiff.views.widget import Widget


def build(found: Found) -> list[Widget | Table | str]:
    """Return the lines and the table."""
    shift = found.maybe("embedding_norms", NormShift)
    return [*([] if shift is None else [show(shift)]), *tables(found, {"embedding_norms": "A row per model."})]


def summary(found: Found) -> pd.DataFrame:
    """Return all norms."""
    return found.one("embedding_norms", NormShift).to_df()


def headlines(found: Found) -> list[Headline]:
    """Return the first part's norms."""
    shift = found.maybe("embedding_norms", NormShift)
    if shift is None:
        return []
    base, tuned = shift.norms[:2, 0].tolist()
    return [Headline("matrices", f"The norm of {shift.parts[0]} went from {base:.3g} to {tuned:.3g}", tuned - base)]


def controls_beside(found: Found) -> dict[str, list[str]]:
    """Return the kinds of the controls that stand beside the norms."""
    shift = found.maybe("embedding_norms", NormShift)
    return {} if shift is None else {"norms": [kind for kind in shift.kinds if kind]}


SUMMARIES = {"Norms of embeddings": summary}
SECTION = Section("How long the embeddings are", "A line is a model.", 70, build)
