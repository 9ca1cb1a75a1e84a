"""From a row of another analysis' table to what is patched: which head or MLP it calls changed.

layer, head_index              that head (`attention_shift`, `pair_overlap`, `verb_shift(...).heads()`, ...)
layer, matrix, head_index      of W_Q and W_O that head; of W_K and W_V all query heads of the key-value head
layer, matrix                  of attention the whole attention output, of an MLP that MLP (`weight_shift`)
layer, side                    that MLP (`rotation`, `mlp_concepts`)
layer, component, head_index   what `patch_sweep` patched
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lensdiff.analyses.patch.sites import COMPONENTS, NO_HEAD, At, Site, one_site
from lensdiff.inputs.spans import shorten
from lensdiff.models.inside.parts import Sizes
from lensdiff.results import InputError

ATTENTION = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O", "attn_gain")
OF_KEYS = ("W_K", "W_V", "b_K", "b_V")
MLP = ("W_in", "W_gate", "W_out", "b_in", "b_gate", "b_out", "mlp_gain")
SIDES = ("value", "key", "gate")


def sites_of_rows(sizes: Sizes, rows: object, ats: Sequence[At]) -> tuple[Site, ...]:
    """Return the sites that rows of a table name, each once, in their order.

    Args:
        rows: a row (a Series or a mapping), or a table of them.

    Raises:
        InputError: there is no row, one names neither head nor MLP, or a layer or a head that is not there.
    """
    found: dict[Site, None] = {}
    for row in _listed(rows):
        for component, layer, head in _named(sizes, row):
            for at in ats:
                found[one_site(sizes, component, layer, head, at)] = None
    return tuple(found)


def _listed(rows: object) -> list[Mapping[Any, Any]]:
    if isinstance(rows, pd.DataFrame):
        listed: list[Mapping[Any, Any]] = rows.to_dict("records")  # pyright: ignore[reportAssignmentType]
    elif isinstance(rows, pd.Series):
        listed = [rows.to_dict()]
    elif isinstance(rows, Mapping):
        listed = [rows]
    else:
        raise InputError(f"rows={shorten(rows)} given, expected a row or rows of a table")
    if not listed:
        raise InputError("rows has no row, expected at least one that names a head or an MLP")
    return listed


def _named(sizes: Sizes, row: Mapping[Any, Any]) -> list[tuple[str, int, int | None]]:
    """Return component, layer and head of what a row names."""
    layer, head, matrix = _whole(row.get("layer")), _whole(row.get("head_index")), row.get("matrix")
    component = row.get("component")
    if layer is None:
        raise _neither(row)
    if component in COMPONENTS and isinstance(component, str):
        return [(component, layer, head)]
    if matrix is None:
        if head is not None:
            return [("head", layer, head)]
        if row.get("side") in SIDES:
            return [("mlp", layer, None)]
        raise _neither(row)
    if matrix in MLP:
        return [("mlp", layer, None)]
    if matrix not in ATTENTION:
        raise _neither(row)
    if head is None:
        return [("attention", layer, None)]
    if matrix not in OF_KEYS:
        return [("head", layer, head)]
    if not 0 <= head < sizes.n_key_value_heads:
        raise InputError(f"row {_told(row)} names a key-value head, expected 0 to {sizes.n_key_value_heads - 1}")
    group = sizes.n_heads // sizes.n_key_value_heads
    return [("head", layer, one) for one in range(head * group, (head + 1) * group)]


def _whole(value: Any) -> int | None:
    """Return a number of a table, None where it is missing or none."""
    if value is None or pd.isna(value) or value == NO_HEAD:
        return None
    return int(value)


def _neither(row: Mapping[Any, Any]) -> InputError:
    return InputError(
        f"row {_told(row)} names neither a head nor an MLP, expected a layer with a head_index, with a matrix of "
        "attention or MLP, or with a side of the MLP"
    )


def _told(row: Mapping[Any, Any]) -> str:
    return shorten({key: value for key, value in row.items() if isinstance(value, str | int) or not pd.isna(value)})
