"""The page of the tables: what a row is and what its columns mean, from every `TableDoc`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docs.making.markdown import cell, code, page, table
from lensdiff.analyses import ANALYSES
from lensdiff.pipeline.graph import tables_of
from lensdiff.results import ResultStore
from lensdiff.steps.columns import COLUMNS, SUFFIXES, meaning
from lensdiff.steps.pair import DIFFERENCES
from lensdiff.steps.tables import TableDoc

OF_EVERY_RUN = (DIFFERENCES,)  # of the pair itself, and of no analysis
INTRODUCTION = """\
Every analysis writes tidy tables, one observation a row: `DIR/tables/NAME.parquet` after a run, `DIR/NAME.parquet`
after a command of one analysis. `DIR/tables/README.md` describes the tables that are there.

Layers, heads, dimensions, components and positions count from 0, ranks from 1. Differences are tuned - base."""


def columns_of(run: Path) -> dict[str, list[str]]:
    """Return the columns of a run's tables; nothing where there is no run."""
    store = ResultStore(run)
    return {name: store.columns(name) for name in store.table_names()} if store.exists() else {}


def undescribed(made: Mapping[str, list[str]]) -> list[str]:
    """Return a sentence for each column of a run's tables that nobody describes."""
    docs = {doc.name: doc for doc in tables_of(ANALYSES)}
    return [
        f"the column {column} of the table {name} is not described"
        for name, columns in made.items()
        for column in columns
        if not meaning(docs[name], column)
    ]


def page_of_tables(made: Mapping[str, list[str]]) -> str:
    """Return the page; the columns are those of the tables of a run, and those that a table itself describes."""
    seen = {doc.name for doc in OF_EVERY_RUN}
    parts = [INTRODUCTION, _shared(), "## Of every run { #of-every-run }", *(_of(doc, made) for doc in OF_EVERY_RUN)]
    for analysis in ANALYSES:
        docs = [doc for doc in analysis.tables if doc.name not in seen]
        seen |= {doc.name for doc in docs}
        if docs:
            parts += [f"## {analysis.question} {{ #of-{analysis.name} }}", *(_of(doc, made) for doc in docs)]
    return page("Tables", *parts)


def _of(doc: TableDoc[Any], made: Mapping[str, list[str]]) -> str:
    columns = dict.fromkeys([*made.get(doc.name, ()), *doc.columns])
    rows = [(code(name), cell(meaning(doc, name))) for name in columns]
    return f"### {doc.name} {{ #{doc.name} }}\n\nA row is {cell(doc.row)}.\n\n{table(('column', 'what it is'), rows)}"


def _shared() -> str:
    rows = [(code(name), cell(text)) for name, text in COLUMNS.items()]
    ends = [(code(f"...{suffix}"), cell(text)) for suffix, text in SUFFIXES.items()]
    return f"## Columns that many tables have\n\n{table(('column', 'what it is'), [*rows, *ends])}"
