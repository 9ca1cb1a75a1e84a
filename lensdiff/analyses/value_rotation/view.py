"""How much of the change of the feed-forward values is a rotation: the share by layer, beside each kind of control."""

from typing import Any

import numpy as np
from jaxtyping import Float

from lensdiff.analyses.value_rotation.measure import ValueRotation
from lensdiff.stats import FEWEST_FOR_RANK
from lensdiff.views.fallback import table_html
from lensdiff.views.show import register_view
from lensdiff.views.widget import Widget

LIMITS = (
    "1: the values of a layer turned as one body. 0: they did not turn, or did not change. Some map always fits a "
    "little, so read the share beside the controls'.",
    "Bands of layers are no tests; the mean over layers is one.",
)


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
