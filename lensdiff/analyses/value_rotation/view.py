"""How much of the change of the feed-forward values is a rotation: the share by layer, beside each kind of control."""

from collections.abc import Sequence
from dataclasses import dataclass

from lensdiff.analyses.value_rotation.measure import ValueRotation
from lensdiff.results.numbers import n_of
from lensdiff.stats import FEWEST_FOR_RANK
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import rounded_all
from lensdiff.views.show import register_view
from lensdiff.views.widget import Widget

LIMITS = (
    "1: the values of a layer turned as one body. 0: they did not turn, or did not change. Some map always fits a "
    "little, so read the share beside the controls'.",
    "Bands of layers are no tests; the mean over layers is one.",
)


@dataclass(frozen=True)
class BandData:
    """A kind with enough controls: in each layer one more of them would have a share from low to high."""

    name: str
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class DotsData:
    """A kind with few controls: [layer][control], their shares."""

    name: str
    values: list[list[float]]


@dataclass(frozen=True)
class ValueRotationData:
    """What the script of the curve is given.

    Attributes:
        layers: their numbers.
        shares: of each layer's change that one rotation explains, from 0 to 1.
        change: of each layer's values, over their norm.
        moved: neurons of each layer that stand in another place.
        bands: kinds with enough controls.
        dots: kinds with few.
        facts: paragraphs above.
        limits: what the view does not say.
    """

    layers: Sequence[int]
    shares: list[float]
    change: list[float]
    moved: list[int]
    bands: list[BandData]
    dots: list[DotsData]
    facts: list[str]
    limits: Sequence[str]


@register_view
def show_value_rotation(result: ValueRotation) -> Widget:
    """Return the layer curve of one pair."""
    many = [kind for kind in result.kinds if len(result.of_kind(kind)) >= FEWEST_FOR_RANK]
    data = ValueRotationData(
        layers=result.layers,
        shares=rounded_all(result.shares),
        change=rounded_all(result.change),
        moved=result.neurons_moved.tolist(),
        bands=[_band(result, kind) for kind in many],
        dots=[
            DotsData(_name(result, kind), [rounded_all(layer) for layer in result.of_kind(kind).T])
            for kind in result.kinds
            if kind not in many
        ],
        facts=_facts(result),
        limits=LIMITS,
    )
    title = f"Rotation of the feed-forward values: {result.provenance.model}"
    return Widget("value_rotation", data, title, height=560, fallback=table_html(result.to_df(), "Share by layer"))


def _name(result: ValueRotation, kind: str) -> str:
    return f"{kind} controls ({len(result.of_kind(kind))})"


def _band(result: ValueRotation, kind: str) -> BandData:
    return BandData(_name(result, kind), *(rounded_all(limit) for limit in result.band(kind)))


def _facts(result: ValueRotation) -> list[str]:
    facts = [f"Mean over {n_of(len(result.layers), 'layer')}: share {result.share:.3g}."]
    beside = result.beside()
    if beside is None:
        facts.append("Without controls nothing says what share a meaningless change would have.")
    else:
        facts[0] = f"Mean share over {n_of(len(result.layers), 'layer')}: {beside}."
    if unchanged := int((result.change == 0).sum()):
        facts.append(f"No change in {n_of(unchanged, 'layer')}.")
    if moved := int(result.neurons_moved.sum()):
        facts.append(f"{n_of(moved, 'neuron')} in another place, matched first.")
    if result.basis_changed:
        facts.append("The stream's basis was changed, which was taken away first.")
    return facts
