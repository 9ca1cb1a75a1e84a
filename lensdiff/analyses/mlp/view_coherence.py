"""How coherent the components' words are, layer by layer, beside random directions: base and tuned model."""

from typing import Any

import pandas as pd

from lensdiff.analyses.mlp.coherence import SIGNIFICANT, Coherence, adjusted_together
from lensdiff.results import Diff
from lensdiff.views.fallback import table_html
from lensdiff.views.show import register_diff, register_view
from lensdiff.views.widget import Widget

TOP = 8
NULLS = ("expected without meaning", "random directions")


@register_view
def show_coherence(result: Coherence) -> Widget:
    """Return the curve of one model."""
    return _widget([("tuned", result.provenance.model, result)])


@register_diff(Coherence)
def show_coherence_of_both(result: Diff) -> Widget:
    """Return the curves of both models, whose components are one family of tests."""
    base, tuned = adjusted_together(result.base, result.tuned)
    return _widget([("base", "base", base), ("tuned", "tuned", tuned)])


def _widget(runs: list[tuple[str, str, Coherence]]) -> Widget:
    first = runs[0][2]
    data = {
        "layers": list(first.layers),
        "sides": list(first.sides),
        "measures": [
            {"name": "share above random", "unit": "components above random, %"},
            {"name": "mean coherence", "unit": "mean cosine of two top words"},
        ],
        "facts": _facts(runs),
        "expected": NULLS[0],
        "models": [_model(role, name, result, several=len(runs) > 1) for role, name, result in runs],
    }
    frames = [result.by_layer().assign(model=name) for _, name, result in runs]
    title = f"Coherence of concepts: {' and '.join(run.provenance.model for *_, run in runs)}"
    return Widget("coherence", data, title, height=760, fallback=table_html(pd.concat(frames), "By layer"))


def _facts(runs: list[tuple[str, str, Coherence]]) -> list[str]:
    options = runs[0][2].provenance.options
    shares = ", ".join(f"{name} {_share(result):.1%}" for _, name, result in runs)
    return [
        f"More coherent than 95 % of random directions: {shares} of all components; without any meaning it would be "
        f"{SIGNIFICANT:.0%}.",
        f"Coherence is the mean cosine between the word vectors of a component's first {options['top_words']} words "
        f"({options['reading']} score). Word vectors: {options['vectors']}. "
        f"Null: {options['n_directions']} random directions, named by the same words.",
    ]


def _share(result: Coherence) -> float:
    known = result.p[~result.p.isnan()]
    return float((known <= SIGNIFICANT).double().mean())


def _model(role: str, name: str, result: Coherence, *, several: bool) -> dict[str, Any]:
    frame = result.by_layer().set_index(["layer", "side"])
    percent = 100 * frame.share_above
    of_null = f"{NULLS[1]} of {name}" if several else NULLS[1]
    top = result.top(TOP)[["layer", "side", "component", "coherence", "p", "p_adjusted"]]
    return {
        "role": role,
        "name": name,
        "null_name": of_null,
        "values": [_by_side(result, values) for values in (percent, frame.mean_coherence)],
        "nulls": [
            [100 * SIGNIFICANT] * len(result.sides),
            [float(f"{value:.4g}") for value in result.null.nanmean(dim=1).tolist()],
        ],
        "top": {
            "caption": f"The most coherent components: {name}",
            "columns": list(top.columns),
            "rows": [list(row) for row in top.astype(object).itertuples(index=False)],
        },
    }


def _by_side(result: Coherence, values: pd.Series) -> list[list[float | None]]:
    """Return [side][layer], None where no component of a layer has enough words."""
    known = values.to_dict()
    return [
        [float(f"{known[layer, side]:.4g}") if (layer, side) in known else None for layer in result.layers]
        for side in result.sides
    ]
