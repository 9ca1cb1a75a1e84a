"""How much of the change of the feed-forward values is a rotation: the share by layer, beside each kind of control."""

from typing import Any

import numpy as np
from jaxtyping import Float

from lensdiff.analyses.value_rotation.measure import ValueRotation
from lensdiff.results import ResultStore
from lensdiff.stats import FEWEST_FOR_RANK
from lensdiff.views.fallback import table_html
from lensdiff.views.section import Section, Table, register_section
from lensdiff.views.show import register_view, show
from lensdiff.views.widget import Widget

LIMITS = (
    "1: the values of a layer turned as one body. 0: they did not turn, or did not change. Some map always fits a "
    "little, so read the share beside the controls'.",
    "Bands of layers are no tests; the mean over layers is one.",
)
TABLES = {
    "value_rotation": "A row per layer and kind of control: the share of the values' change that one orthogonal map "
    "explains, limits within which one more control lies, neurons that were matched with others, the change's size.",
    "value_rotation_controls": "A row per control and layer: its share.",
}


@register_view
def show_value_rotation(result: ValueRotation) -> Widget:
    """Return the layer curve of one pair."""
    many = [kind for kind in result.kinds if len(result.of_kind(kind)) >= FEWEST_FOR_RANK]
    data = {
        "layers": list(result.layers),
        "shares": _short(result.shares.numpy()),
        "change": _short(result.change.numpy()),
        "moved": result.neurons_moved.tolist(),
        "bands": [_band(result, kind) for kind in many],
        "dots": [
            {
                "name": f"{kind} controls ({len(result.of_kind(kind))})",
                "values": [_short(column) for column in result.of_kind(kind).numpy().T],
            }
            for kind in result.kinds
            if kind not in many
        ],
        "facts": _facts(result),
        "limits": LIMITS,
    }
    title = f"Rotation of the feed-forward values: {result.provenance.model}"
    return Widget("value_rotation", data, title, height=560, fallback=table_html(result.to_df(), "Share by layer"))


def _band(result: ValueRotation, kind: str) -> dict[str, Any]:
    low, high = result.band(kind)
    return {"name": f"{kind} controls ({len(result.of_kind(kind))})", "low": _short(low), "high": _short(high)}


def _facts(result: ValueRotation) -> list[str]:
    facts = [f"Mean over {len(result.layers)} layers: share {result.share:.3g}."]
    beside = result.beside()
    if beside is None:
        facts.append("Without controls nothing says what share a meaningless change would have.")
    else:
        facts[0] = f"Mean share over {len(result.layers)} layers: {beside}."
    if unchanged := int((result.change == 0).sum()):
        facts.append(f"{unchanged} layers have no change.")
    if moved := int(result.neurons_moved.sum()):
        facts.append(f"{moved} neurons stand in another place, and were matched first.")
    if result.basis_changed:
        facts.append("The stream's basis was changed, which was taken away first.")
    return facts


def _short(values: Float[np.ndarray, " n"]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def value_rotation_section(store: ResultStore) -> list[Widget | Table | str]:
    """Return the curve and the tables of a results directory."""
    parts: list[Widget | Table | str] = []
    if store.has("value_rotation"):
        parts.append(show(store.load_result("value_rotation", ValueRotation)))
    return parts + [Table(name, store.load_table(name), text) for name, text in TABLES.items() if store.has_table(name)]


register_section(
    Section(
        "value_rotation",
        "How much of the values' change is a rotation",
        "The curve is the share of each layer's change that one rotation of the stream explains. Above every grey band "
        "tuning turned the values more than meaningless changes of the same size do; grey are also those that ruin a "
        "model and that a claim leaves out.",
        45,
        ("value_rotation",),
        value_rotation_section,
    )
)
