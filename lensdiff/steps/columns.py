"""What columns mean that many tables have, and the description of a directory's tables in words."""

from collections.abc import Iterable, Mapping
from typing import Any

from lensdiff.results import ResultStore
from lensdiff.steps.tables import TableDoc

COLUMNS = {
    "model": "base or tuned",
    "prompt_id": "the prompt's id",
    "layer": "the layer",
    "head_index": "the attention head; missing where a row is a whole weight",
    "in_pos": "position of the prompt's token, from the first one that is not special",
    "in_token": "the prompt's token",
    "out_pos": "position of the response's token",
    "out_token": "the response's token",
    "token": "the response's token",
    "kind": "of a control, empty for base and tuned",
    "seed": "of a control",
    "side": "value (rows of W_out), key or gate (columns of W_in, W_gate)",
    "component": "the component, by falling share of the variance",
    "explained_variance_ratio": "the component's share of its layer's variance",
    "rank": "place in its list",
    "word": "the word",
    "p": "of the row's test",
    "p_adjusted": "false-discovery adjusted over the table",
    **{
        f"{kind}_{limit}": f"{limit} limit of where one more {kind} control's angle lies; missing with fewer than 19"
        for kind in ("distilled", "shuffled", "gradient-noise", "spectrum", "norm", "given", "self")
        for limit in ("low", "high")
    },
}
SUFFIXES = {
    "_base": "in the base",
    "_tuned": "in the tuned model",
    "_difference": "tuned - base",
    "_control_low": "limits within which one more control of any kind lies; missing with fewer than 19 of a kind",
    "_control_high": "as _control_low",
    "_low": "limits of the difference over prompts",
    "_high": "as _low",
    "_p_adjusted": "false-discovery adjusted over the table",
    "_p": "of the difference over prompts",
}


def meaning(table: TableDoc[Any], column: str) -> str:
    """Return what a column of a table means; empty where that is not written down.

    What a table's own columns mean comes first, then what those of many tables do; and what a name means is what the
    same name with a suffix is about.
    """
    known = {**COLUMNS, **table.columns}
    if column in known:
        return known[column]
    for suffix, text in SUFFIXES.items():
        name = column.removesuffix(suffix)
        if name != column and name in known:
            return f"{name} {text}" if suffix in ("_base", "_tuned", "_difference") else f"{name}: {text}"
    return ""


def describe(tables: Iterable[TableDoc[Any]], columns: Mapping[str, list[str]]) -> str:
    """Return the description of tables, given with the columns that they have, as Markdown."""
    lines = ["# Tables", "", "Layers, heads, components and positions count from 0, ranks from 1.", ""]
    for table in sorted(tables, key=lambda table: table.name):
        if table.name in columns:
            lines += [f"## {table.name}.parquet", "", f"A row is {table.row}.", ""]
            lines += [f"- `{column}`: {meaning(table, column)}" for column in columns[table.name]]
            lines.append("")
    return "\n".join(lines)


def write_description(store: ResultStore, tables: Iterable[TableDoc[Any]]) -> None:
    """Write the description of a directory's tables beside them, as `tables/README.md`."""
    store.write_text("tables/README.md", describe(tables, {name: store.columns(name) for name in store.table_names()}))
