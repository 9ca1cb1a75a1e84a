"""A small table within a view, drawn by the page's script (`LensDiff.table`) under a caption."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

Cell = str | int | float | None  # what is None is shown as a dash


@dataclass(frozen=True)
class SmallTable:
    """A table that a script draws.

    Attributes:
        caption: what a row is.
        columns: names.
        rows: a cell for each column; the script shortens numbers.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @classmethod
    def of(cls, frame: pd.DataFrame, caption: str) -> "SmallTable":
        """Return a frame as such a table, None where a cell is missing."""
        return cls(caption, [str(name) for name in frame.columns], cells(frame))


def cells(frame: pd.DataFrame) -> list[list[Any]]:
    """Return a frame's rows, None where a cell is missing."""
    known = frame.astype(object).where(frame.notna(), None)
    return [[_cell(value) for value in row] for row in known.itertuples(index=False)]


def _cell(value: Any) -> Any:
    """Return a value that JSON can hold: what is no number, text or nothing, as text."""
    return value if value is None or isinstance(value, bool | int | str) or _is_finite(value) else str(value)


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)
