"""A line per model."""

from dataclasses import dataclass

from embedding_norms.measure import NormShift
from lensdiff.views.fallback import table_html
from lensdiff.views.show import register_view
from lensdiff.views.widget import Widget


@dataclass(frozen=True)
class NormData:
    """What the script of the view is given: model, matrix and norm of each row."""

    rows: list[tuple[str, str, float]]


@register_view
def show_norms(result: NormShift) -> Widget:
    """Return the lines."""
    rows = [(row.model, row.part, row.norm) for row in result.to_df().itertuples()]
    return Widget("embedding_norms", NormData(rows), "Norms", fallback=table_html(result.to_df(), "Norms"))
