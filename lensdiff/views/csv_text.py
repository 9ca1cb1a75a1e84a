"""Tables as CSV that a spreadsheet takes for data: no cell of text is a formula.

A text (a token, an id, an answer) that begins as a formula does gets an apostrophe in front, by which spreadsheets know
text; numbers are written as they are.
"""

import re
from typing import Any

import pandas as pd

# spreadsheets take a cell that begins so for a formula, wide letters too; white space is skipped on the way to one
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # fmt: skip
# what is not seen is skipped too: blanks, and marks of no width
HIDDEN = re.compile(r"[\s\u200b\u200e\u200f\u2060\ufeff]*")


def csv_text(frame: pd.DataFrame, *, float_format: str | None = "%.6g") -> str:
    """Return a table as CSV, with an apostrophe before each text that a spreadsheet would take for a formula.

    Args:
        frame: the table, whose index is left out.
        float_format: of numbers with a fraction; None for all of their digits.
    """
    # by place: two columns may have one name
    columns = [frame.iloc[:, i] for i in range(frame.shape[1])]
    safe = [column if pd.api.types.is_numeric_dtype(column) else column.map(plain) for column in columns]
    found = pd.concat(safe, axis=1) if safe else frame
    found.columns = [plain(name) for name in frame.columns]
    # of this line ending both characters are quoted within a cell: a lone one would begin a row, and a cell, of its own
    return found.to_csv(index=False, float_format=float_format, lineterminator="\r\n")


def plain(value: Any) -> Any:
    """Return a value as a spreadsheet may have it: a text that begins as a formula does begins with an apostrophe."""
    if not isinstance(value, str):
        return value
    seen = HIDDEN.sub("", value, count=1)
    return f"'{value}" if value.startswith(FORMULA) or seen.startswith(FORMULA) else value
