"""Similarity by layer: the tuned model before the controls' band, or their dots where they are few."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lensdiff import stats
from lensdiff.analyses.layer_similarity.passes import ALL
from lensdiff.analyses.layer_similarity.result import MEASURES, OVER_PROMPTS, LayerSimilarity
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import known_all, rounded_all
from lensdiff.views.prompts import how_rendered
from lensdiff.views.show import register_view
from lensdiff.views.widget import Widget

NAMES = {
    "cka": (
        "CKA",
        "CKA",
        "Linear CKA of the base's and the model's streams: 1 where one is the other turned, shifted or stretched as a "
        "whole; it counts large directions most.",
    ),
    "relative_change": ("relative change", "|d| / |base|", "Mean of |model − base| / |base|: 0 where nothing changed."),
    "cosine": ("cosine", "cosine", "Mean cosine of the two streams: 1 where no direction changed."),
    "mean_shift_share": (
        "share of one shift",
        "share",
        "|mean d| / mean |d|, d = model − base: 1 where every position is shifted by the same vector, near 0 where "
        "each moves its own way.",
    ),
}
BIASED = 0.1  # CKA that streams without anything in common have, from which on it is said
GROUPS = {ALL: "all positions", "prompt": "rest of the prompt"}


@dataclass(frozen=True)
class SimilarityCurve:
    """One measure of one group by layer.

    Attributes:
        values: of the tuned model; None where it is not defined.
        low, high: limits over prompts; empty where there are none.
        control_low, control_high: where one more control would lie; empty where there is no band.
        controls: [layer][control], their values where there is no band.
    """

    values: list[float | None]
    low: list[float | None]
    high: list[float | None]
    control_low: list[float | None]
    control_high: list[float | None]
    controls: list[list[float]]


@dataclass(frozen=True)
class SimilarityGroup:
    """A group of positions: its name, how many positions, and a curve per measure."""

    label: str
    n: int
    curves: list[SimilarityCurve]


@dataclass(frozen=True)
class LayerSimilarityData:
    """What the script of the curves is given.

    Attributes:
        layers: their labels.
        n_controls: how many stand beside.
        measures: label, unit and how to read each measure, one of which is chosen.
        ends_at_one: whether each is 1 where nothing changed.
        groups: one of which is chosen.
        facts: paragraphs above.
    """

    layers: Sequence[str]
    n_controls: int
    measures: list[tuple[str, str, str]]
    ends_at_one: list[bool]
    groups: list[SimilarityGroup]
    facts: list[str]


@register_view
def show_layer_similarity(result: LayerSimilarity) -> Widget:
    """Return the curves of a pair."""
    data = LayerSimilarityData(
        layers=["out" if layer == result.n_layers else str(layer) for layer in result.layers],
        n_controls=len(result.provenance.controls),
        measures=[NAMES[measure] for measure in MEASURES],
        ends_at_one=[measure in ("cka", "cosine") for measure in MEASURES],
        groups=[
            SimilarityGroup(
                GROUPS.get(group, group),
                int(result.positions[:, place].sum()),
                [_curve(result, measure, group) for measure in MEASURES],
            )
            for place, group in enumerate(result.groups)
        ],
        facts=_facts(result),
    )
    title = f"Layer similarity: {result.provenance.model}"
    return Widget("layer_similarity", data, title, height=600, fallback=table_html(result.to_df(), "Layer similarity"))


def _curve(result: LayerSimilarity, measure: str, group: str) -> SimilarityCurve:
    found = result.curve(measure, group)
    limits = {name: known_all(found[name].tolist()) for name in ("low", "high", "control_low", "control_high")}
    shown = {name: values if any(value is not None for value in values) else [] for name, values in limits.items()}
    controls = result.controls(measure, group)
    dots = [] if shown["control_low"] else [rounded_all(layer[~np.isnan(layer)]) for layer in controls.T]
    return SimilarityCurve(known_all(found["value"].tolist()), **shown, controls=dots if len(controls) else [])


def _facts(result: LayerSimilarity) -> list[str]:
    facts = [
        f"{len(result.prompt_id)} prompts, {int(result.positions[:, 0].sum())} positions of the tuned model's response "
        f"and its prompt, which both models read; {how_rendered(result.provenance)}.",
    ]
    if not result.provenance.options.get("first", False):
        facts[0] += " Position 0, where models park attention, is left out."
    envelope = result.beside()
    if envelope is not None:
        facts.append(f"Relative change, mean over layers, all positions: {envelope}.")
    else:
        n = stats.FEWEST_FOR_RANK
        facts.append(f"Without controls nothing says what a meaningless change would do; a band takes {n} of a kind.")
    facts += _few(result)
    facts += [_outside(result)] if not any(map(_unknown, _bands(result))) else []
    facts.append("A similarity says where the streams part, not what the difference does.")
    return facts


def bias(n: int, d_model: int) -> float:
    """Return the CKA of two streams that have nothing in common and vary alike in all directions, by positions.

    |X^T Y|^2 is about n d^2 there, and |X^T X| |Y^T Y| about n d (n + d): d / (n + d). Fewer directions give less.
    """
    return d_model / (n + d_model)


def _few(result: LayerSimilarity) -> list[str]:
    """Return what CKA shows by itself where positions are few; nothing where they are many in every group."""
    n = result.positions.sum(dim=0).tolist()
    high = {GROUPS.get(group, group): bias(own, result.d_model) for group, own in zip(result.groups, n, strict=True)}
    told = ", ".join(f"{value:.2f} ({group})" for group, value in high.items() if value > BIASED)
    if not told:
        return []
    return [
        f"CKA is biased upwards where positions are few beside the {result.d_model} dimensions of the stream: two "
        f"streams that have nothing in common can show up to {told}. The controls have the same bias."
    ]


def _bands(result: LayerSimilarity) -> list[dict[str, Any]]:
    return [result.curve(measure) for measure in (*OVER_PROMPTS, "cka")]


def _unknown(found: dict[str, Any]) -> bool:
    return bool(np.isnan([found[name] for name in ("value", "control_low", "control_high")]).any())


def _outside(result: LayerSimilarity) -> str:
    """Return in how many layers each measure lies outside the controls' band."""
    parts = []
    for measure, found in zip((*OVER_PROMPTS, "cka"), _bands(result), strict=True):
        value, low, high = (found[name] for name in ("value", "control_low", "control_high"))
        above, below = ((value >= high) & (value > low)).sum(), ((value <= low) & (value < high)).sum()
        parts.append(f"{NAMES[measure][0]} {above} above, {below} below")
    return f"Layers outside the controls' band, of {len(result.layers)}, all positions: {'; '.join(parts)}."
