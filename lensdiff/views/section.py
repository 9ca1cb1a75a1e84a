"""Sections of the report: every analysis has its own, and the page's frame knows none of them.

A section says how to read it in two sentences, and builds its content from what a run found: widgets, tables and
paragraphs. Nothing to show: no content, and the report says that the analysis was not run.
"""

import base64
import gzip
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lensdiff.views.csv_text import csv_text
from lensdiff.views.widget import Widget, templates
from lensdiff.views.words import clipped, visible

LARGEST_DOWNLOAD = 700_000  # characters of a compressed table within the page
ROWS = 30  # of a table that are written out
LONGEST_CELL = 200


@dataclass(frozen=True, eq=False)
class Table:
    """A table for download as CSV, its first rows folded below.

    Attributes:
        name: of the file, and of the table in the results directory.
        frame: all rows.
        caption: what a row is, and what the columns mean.
        rows: how many are written out, the first ones.
    """

    name: str
    frame: pd.DataFrame
    caption: str
    rows: int = ROWS

    def html(self) -> str:
        """Return the table and its download as escaped HTML."""
        text = compressed_csv(self.frame)
        shown = self.frame.head(self.rows)
        return templates.get_template("table.html.j2").render(
            name=self.name.replace("/", "-"),
            stored=self.name,
            caption=self.caption,
            csv=text if len(text) <= LARGEST_DOWNLOAD else None,
            n_rows=len(self.frame),
            columns=[(str(name), _is_number(shown, name)) for name in shown.columns],
            rows=[[cell(value) for value in row] for row in shown.itertuples(index=False)],
        )


@dataclass(frozen=True)
class Section:
    """One section of the report; its name and its place on the page are the analysis'.

    Attributes:
        title: its heading.
        how: two sentences: how to read it; empty where its content says so itself.
        order: sections come by rising order.
        build: its content, from what a run found; a text is a paragraph. Empty where there is nothing.
    """

    title: str
    how: str
    order: int
    build: Callable[[Any], list["Widget | Table | str"]]


def tables(found: Any, captions: Mapping[str, str]) -> list[Table]:
    """Return the tables of a run that are there, each with its caption."""
    frames = {name: found.table(name) for name in captions}
    return [Table(name, frame, captions[name]) for name, frame in frames.items() if frame is not None]


def compressed_csv(frame: pd.DataFrame) -> str:
    """Return a table as base64 of a gzipped CSV file, which the page's script unpacks."""
    return base64.b64encode(gzip.compress(csv_text(frame).encode("utf-8", "replace"), mtime=0)).decode("ascii")


def cell(value: Any) -> str:
    """Return a value as a table shows it: four digits, a dash for what is not there, line breaks visible."""
    if value is None or value is pd.NA or (isinstance(value, float | np.floating) and math.isnan(value)):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return clipped(visible(str(value)), LONGEST_CELL)


def _is_number(frame: pd.DataFrame, name: Any) -> bool:
    column = frame[name]
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
