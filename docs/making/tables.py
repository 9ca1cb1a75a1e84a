"""The page of the tables: what a row is and what its columns mean, from every `TableDoc`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docs.making.markdown import cell, code, page, table
from lensdiff.analyses import ANALYSES
from lensdiff.results import ResultStore
from lensdiff.steps.columns import COLUMNS, SUFFIXES, meaning
from lensdiff.steps.tables import TableDoc

INTRODUCTION = """\
Every analysis writes tidy tables, one observation a row: `DIR/tables/NAME.parquet` after a run, `DIR/NAME.parquet`
after a command of one analysis. `DIR/tables/README.md` describes the tables that are there.

```python
import pandas as pd

print(pd.read_parquet("lensdiff-weights/weight_shift.parquet").head())
```

Layers, heads, dimensions, components and positions count from 0, ranks from 1. Differences are tuned - base."""


def page_of_tables(run: Path) -> str:
    """Return the page; the columns are those of the tables of a run, and those that a table itself describes."""
    store = ResultStore(run)
    made: dict[str, list[str]] = {}
    if store.exists():
        made = {name: store.columns(name) for name in store.table_names()}
    seen: set[str] = set()
    parts = [INTRODUCTION, _shared()]
    for analysis in ANALYSES:
        docs = [doc for doc in analysis.tables if doc.name not in seen]
        seen |= {doc.name for doc in docs}
        if docs:
            parts += [f"## {analysis.question} {{ #{analysis.name} }}", *(_of(doc, made) for doc in docs)]
    return page("Tables", *parts)


def _of(doc: TableDoc[Any], made: Mapping[str, list[str]]) -> str:
    columns = dict.fromkeys([*made.get(doc.name, ()), *doc.columns])
    rows = [(code(name), cell(meaning(doc, name))) for name in columns]
    return f"### {doc.name} {{ #{doc.name} }}\n\nA row is {cell(doc.row)}.\n\n{table(('column', 'what it is'), rows)}"


def _shared() -> str:
    rows = [(code(name), cell(text)) for name, text in COLUMNS.items()]
    ends = [(code(f"...{suffix}"), cell(text)) for suffix, text in SUFFIXES.items()]
    return f"## Columns that many tables have\n\n{table(('column', 'what it is'), [*rows, *ends])}"
