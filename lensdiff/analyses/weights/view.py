"""How far every weight moved: a map of layer and matrix, or of layer and head of one matrix."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from lensdiff.analyses.weights.weight_shift import HEADED, MEASURES, NONE, WeightShift
from lensdiff.models.inside.parts import MATRICES
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import known_all
from lensdiff.views.show import register_view
from lensdiff.views.small_table import Cell
from lensdiff.views.widget import Widget

TOP = 12
LABELS = {
    "relative_norm": ("relative change", "size of the change over that of the base's weight (Frobenius norms)"),
    "cosine": ("cosine", "of the base's and the tuned weight as vectors; coloured by its distance from 1"),
    "effective_rank": ("effective rank", "of the change: how many directions it takes, weighted by their size"),
    "top_share": ("share of the top", "largest directions in the change's energy"),
}


@dataclass(frozen=True)
class GroupData:
    """Matrices that one map shows."""

    name: str
    matrices: list[str]


@dataclass(frozen=True)
class MeasureData:
    """A measure of a change: its name, its label, and how to read it."""

    name: str
    label: str
    how: str


class WeightRow(NamedTuple):
    """One weight, or one head of it: measures of its change as it is, and with the norm's gain multiplied in.

    A head of -1 is the whole matrix. None is infinite: what was zero and no longer is has such a relative norm.
    """

    layer: int
    matrix: str
    head: int
    raw: list[float | None]
    folded: list[float | None]


@dataclass(frozen=True)
class WeightsData:
    """What the script of the map is given.

    Attributes:
        facts: the paragraph above.
        layers: their numbers.
        groups: of matrices, a map each.
        headed: matrices whose heads have a map of their own.
        heads: how many each of them has.
        measures: in the order of the rows' numbers.
        rows: every weight within layers, and those outside.
        top: layer, matrix, head and measures of what moved most.
    """

    facts: str
    layers: list[int]
    groups: list[GroupData]
    headed: list[str]
    heads: dict[str, int]
    measures: list[MeasureData]
    rows: list[WeightRow]
    top: list[list[Cell]]


@register_view
def show_weight_shift(result: WeightShift) -> Widget:
    """Return the map of one pair."""
    top = result.ranked(TOP)
    return Widget(
        "weights",
        _data(result, top),
        f"Weights: {result.provenance.model}",
        height=760,
        fallback=table_html(top, "The weights and heads that moved most"),
    )


def _data(result: WeightShift, top: pd.DataFrame) -> WeightsData:
    layers = sorted({layer for layer in result.layer.tolist() if layer != NONE})
    of_layers = dict.fromkeys(m for m, layer in zip(result.matrix, result.layer.tolist(), strict=True) if layer != NONE)
    groups = {
        "all matrices": [name for name in of_layers if name in MATRICES or name.endswith("_gain")],
        "biases and the rest": [name for name in of_layers if name not in MATRICES and not name.endswith("_gain")],
    }
    rows = zip(
        result.layer.tolist(),
        result.matrix,
        result.head_index.tolist(),
        result.raw.tolist(),
        result.folded.tolist(),
        strict=True,
    )
    heads: dict[str, int] = dict.fromkeys(HEADED, 0)
    for matrix, head in zip(result.matrix, result.head_index.tolist(), strict=True):
        if matrix in heads:
            heads[matrix] = max(heads[matrix], head + 1)
    share = f"{LABELS['top_share'][0]} {result.directions}"
    labels = {name: (share if name == "top_share" else label, how) for name, (label, how) in LABELS.items()}
    return WeightsData(
        facts=_facts(result),
        layers=layers,
        groups=[GroupData(name, names) for name, names in groups.items() if names],
        headed=[name for name in HEADED if heads[name]],
        heads=heads,
        measures=[MeasureData(name, *labels[name]) for name in MEASURES],
        rows=[
            WeightRow(layer, matrix, head, known_all(raw), known_all(folded))
            for layer, matrix, head, raw, folded in rows
        ],
        top=_top(top),
    )


def _facts(result: WeightShift) -> str:
    whole = [
        f"{matrix} {raw[0]:.3g}"
        for matrix, layer, raw in zip(result.matrix, result.layer.tolist(), result.raw.tolist(), strict=True)
        if layer == NONE
    ]
    return (
        f"{result.provenance.model}; relative change outside the layers: {', '.join(whole)}. "
        "Heads of W_K and W_V are key-value heads."
    )


def _top(top: pd.DataFrame) -> list[list[Cell]]:
    frame = pd.DataFrame(top, columns=["layer", "matrix", "head_index", *MEASURES])
    return [[_cell(str(name), x) for name, x in row.items()] for row in frame.to_dict("records")]


def _cell(name: str, value: Any) -> Cell:
    if pd.isna(value):
        return None
    return int(value) if name in ("layer", "head_index") else "∞" if value == math.inf else value
