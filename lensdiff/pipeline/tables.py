"""The tables of a run, made of its results: each anew where something that it is made of has changed."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from lensdiff.pipeline.graph import Graph
from lensdiff.pipeline.identity import code_identity, digest
from lensdiff.results import ResultStore
from lensdiff.results.manifest import TableState
from lensdiff.steps.found import Found
from lensdiff.steps.step import NotPossible
from lensdiff.steps.tables import TableDoc
from lensdiff.steps.unit import name_of


def clear_tables(store: ResultStore, tables: Iterable[TableDoc[Any]], graph: Graph) -> None:
    """Remove the tables that would be others now, so that none is seen that does not go with the results."""
    found, states = Found(store), {}
    for table in tables:
        state, is_built = store.manifest.tables.get(table.name), table.build is not None
        if is_built and state is not None and state.digest == _digest(store, found, table, graph):
            states[table.name] = state.model_copy(update={"wanted": True})
        elif state is None and f"tables/{table.name}" not in store.manifest.checksums:
            continue
        elif is_built or not any(store.step(step).wanted for step in table.of):
            store.remove_table(table.name)
    store.update(tables=states)


def write_tables(store: ResultStore, tables: Iterable[TableDoc[Any]], graph: Graph) -> None:
    """Write the tables that are not there as they should be, and remove those that there is nothing for any more."""
    found = Found(store)
    for table in tables:
        before = store.manifest.tables.get(table.name)
        if table.build is None or not (before or any(store.step(step).wanted for step in table.of)):
            continue
        known = _digest(store, found, table, graph)
        if before is None or before.digest != known or not (before.note or store.has_table(table.name)):
            _write(store, found, table, _options(table, graph), known)


def _options(table: TableDoc[Any], graph: Graph) -> Any:
    return graph.plan.options_of(table.options) if table.options else None


def _digest(store: ResultStore, found: Found, table: TableDoc[Any], graph: Graph) -> str:
    options = _options(table, graph)
    made_of = [
        [name_of(step, unit), store.step(step).units[unit.path].digest]
        for step in table.of
        for unit in found.units(step)
    ]
    return digest([code_identity(), [getattr(options, key) for key in table.keys], made_of])


def _write(store: ResultStore, found: Found, table: TableDoc[Any], options: Any, digest: str) -> None:
    """Write a table, or remember why there is none."""
    assert table.build is not None
    try:
        parts = _with_first(iter(table.build(found, options)))
    except NotPossible as error:
        store.remove_table(table.name, TableState(digest=digest, note=str(error)))
        return
    if parts is not None:
        store.save_table(table.name, parts, TableState(digest=digest))
    elif store.has_table(table.name) or table.name in store.manifest.tables:
        store.remove_table(table.name)


def _with_first(parts: Iterable[pd.DataFrame]) -> Iterable[pd.DataFrame] | None:
    """Return parts, or None where there is none."""
    iterator = iter(parts)
    for first in iterator:
        return _chained(first, iterator)
    return None


def _chained(first: pd.DataFrame, rest: Iterable[pd.DataFrame]) -> Iterable[pd.DataFrame]:
    yield first
    yield from rest
