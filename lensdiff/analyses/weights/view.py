"""How far every weight moved: a map of layer and matrix, or of layer and head of one matrix."""

import math
from typing import Any

import pandas as pd

from lensdiff.analyses.weights.weight_shift import HEADED, MEASURES, NONE, WeightShift
from lensdiff.models.inside.parts import MATRICES
from lensdiff.views.fallback import table_html
from lensdiff.views.show import register_view
from lensdiff.views.widget import Widget

TOP = 12
LABELS = {
    "relative_norm": ("relative change", "size of the change over that of the base's weight (Frobenius norms)"),
    "cosine": ("cosine", "of the base's and the tuned weight as vectors; coloured by its distance from 1"),
    "effective_rank": ("effective rank", "of the change: how many directions it takes, weighted by their size"),
    "top_share": ("share of the top", "largest directions in the change's energy"),
}


@register_view
def show_weight_shift(result: WeightShift) -> Widget:
    """Return the map of one pair."""
    top = result.top(TOP)
    return Widget(
        "weights",
        _data(result, top),
        f"Weights: {result.provenance.model}",
        height=760,
        fallback=table_html(top, "The weights and heads that moved most"),
    )


def _data(result: WeightShift, top: pd.DataFrame) -> dict[str, Any]:
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
    heads = dict.fromkeys(HEADED, 0)
    for matrix, head in zip(result.matrix, result.head_index.tolist(), strict=True):
        if matrix in heads:
            heads[matrix] = max(heads[matrix], head + 1)
    share = f"{LABELS['top_share'][0]} {result.directions}"
    labels = {name: (share if name == "top_share" else label, how) for name, (label, how) in LABELS.items()}
    return {
        "facts": _facts(result),
        "layers": layers,
        "groups": [{"name": name, "matrices": names} for name, names in groups.items() if names],
        "headed": [name for name in HEADED if heads[name]],
        "heads": heads,
        "measures": [{"name": name, "label": labels[name][0], "how": labels[name][1]} for name in MEASURES],
        "rows": [(layer, matrix, head, _short(raw), _short(folded)) for layer, matrix, head, raw, folded in rows],
        "top": [
            [
                None if pd.isna(x) else int(x) if name in ("layer", "head_index") else _value(x)
                for name, x in row.items()
            ]
            for row in pd.DataFrame(top, columns=["layer", "matrix", "head_index", *MEASURES]).to_dict("records")
        ],
    }


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


def _short(values: list[float]) -> list[float | None]:
    # what was zero and no longer is has an infinite relative norm, which JSON does not know
    return [float(f"{v:.4g}") if math.isfinite(v) else None for v in values]


def _value(value: Any) -> Any:
    return "∞" if value == math.inf else float(value) if isinstance(value, float) else value
