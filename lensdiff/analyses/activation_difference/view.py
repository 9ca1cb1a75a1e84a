"""How much of the difference is the same in every text, by layer and position, and the words that it speaks for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.activation_difference.directions import READINGS
from lensdiff.analyses.activation_difference.result import ActivationDifference
from lensdiff.analyses.activation_difference.view_effects import show_difference_effects
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import known_all, rounded_all
from lensdiff.views.show import register_view
from lensdiff.views.widget import Role, Widget
from lensdiff.views.words import WordIndex

__all__ = ["show_activation_difference", "show_difference_effects"]

CONTROLS = 3  # whose words are drawn
WORDS = 8  # of each sign
DIGITS = 3
ROLES: tuple[Role, ...] = ("tuned", "base", "model")  # of the first readings
LABELS = (
    "the difference, read by the tuned model's head",
    "the difference, read by the base's head",
    "the tuned model's own mean, no difference at all",
)
MEANING = (
    "Both models read the first tokens of {n} texts that have nothing to do with the tuning. Share: the length of the "
    "mean difference of their streams over the mean length of the differences; 1 where tuning moved the stream the "
    "same way in every text. Layer: the stream that enters it; out: what leaves the last."
)
LIMITS = (
    "Any direction speaks for some words. Only what the difference says and neither the tuned model's own mean nor the "
    "controls say is about the tuning.",
    "Whether the difference does anything only interventions tell: effects of the result.",
)


@dataclass(frozen=True)
class CurveData:
    """The shares of one position, or of their mean, by layer.

    Attributes:
        label: of the choice.
        values: None where nothing differs.
        low, high: of the controls' band; empty without one.
        controls: [layer][control], their shares where there is no band.
    """

    label: str
    values: list[float | None]
    low: list[float | None]
    high: list[float | None]
    controls: list[list[float]]


@dataclass(frozen=True)
class ReadingData:
    """The words of one reading: by [sign][layer][position] their numbers, best first, and their logits."""

    label: str
    role: Role
    words: list[Any]
    logits: list[Any]


@dataclass(frozen=True)
class ActivationDifferenceData:
    """What the script of the view is given.

    Attributes:
        facts: paragraphs above; limits: what the view does not say.
        layers: their labels; positions: how many.
        n_controls: how many stand beside.
        start: the layer that is shown first, by its place.
        curves: the mean over positions, then each.
        words: that the readings count.
        readings: the difference and what stands beside it.
    """

    facts: list[str]
    limits: Sequence[str]
    layers: list[str]
    positions: int
    n_controls: int
    start: int
    curves: list[CurveData]
    words: list[str]
    readings: list[ReadingData]


@register_view
def show_activation_difference(result: ActivationDifference) -> Widget:
    """Return the shares and the words of one pair."""
    index = WordIndex()
    labels = [*LABELS, *result.readings[len(READINGS) :][:CONTROLS]]
    readings = [
        _reading(result, i, label, ROLES[i] if i < len(ROLES) else "control", index) for i, label in enumerate(labels)
    ]
    shares = result.constant_share.nanmean(dim=1).nan_to_num(-1.0)
    data = ActivationDifferenceData(
        facts=[MEANING.format(n=result.n_texts), *_facts(result)],
        limits=LIMITS,
        layers=[_label(result, layer) for layer in result.layers],
        positions=len(result.n),
        n_controls=len(result.control_size),
        start=int(shares.argmax()),
        curves=_curves(result),
        words=index.words(),
        readings=readings,
    )
    title = f"What tuning adds to the stream whatever the text: {result.provenance.model}"
    fallback = table_html(result.to_df(), "Constant share by layer and position")
    return Widget("activation_difference", data, title, height=900, fallback=fallback)


def _label(result: ActivationDifference, layer: int) -> str:
    return "out" if layer == result.n_layers else str(layer)


def _curves(result: ActivationDifference) -> list[CurveData]:
    shares, controls = result.constant_share, result.control_shares
    found = [_curve(result, "mean", shares.nanmean(dim=1), controls.mean(dim=2))]
    return found + [
        _curve(result, str(place), shares[:, place], controls[:, :, place]) for place in range(len(result.n))
    ]


def _curve(
    result: ActivationDifference, label: str, values: Float[Tensor, " layer"], controls: Float[Tensor, "control layer"]
) -> CurveData:
    kinds = stats.by_kind(list(controls.numpy()), result.provenance.control_kinds)
    band = stats.against_controls(values.nan_to_num(0.0).numpy(), kinds, level=result.level, limits=(0.0, 1.0)).band
    has = bool(len(controls)) and not torch.tensor(band.low).isnan().any()
    return CurveData(
        label,
        known_all(values),
        known_all(band.low) if has else [],
        known_all(band.high) if has else [],
        [] if has or not len(controls) else [rounded_all(layer) for layer in controls.T],
    )


def _reading(result: ActivationDifference, i: int, label: str, role: Role, index: WordIndex) -> ReadingData:
    words, logits = result.read_words[i, ..., :WORDS].tolist(), result.read_logits[i, ..., :WORDS].tolist()
    return ReadingData(
        label,
        role,
        [[[[index(result.words[w]) for w in place] for place in layer] for layer in sign] for sign in words],
        [[[rounded_all(place, DIGITS) for place in layer] for layer in sign] for sign in logits],
    )


def _facts(result: ActivationDifference) -> list[str]:
    if not bool((result.size > 0).any()):
        return ["Nothing differs: the share of no difference is undefined, and there are no words to read."]
    beside = result.beside()
    if beside is None:
        return [f"Mean share {result.share:.3g}. Without controls nothing says what share a meaningless change has."]
    return [f"Mean share over layers and positions that differ: {beside}."]
