"""How far tuning turned the concepts: the layer curve with the bands of the controls, and the components behind it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lensdiff.analyses.mlp.rotation import Rotation, highest
from lensdiff.stats import FEWEST_FOR_RANK
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import rounded_all
from lensdiff.views.show import register_view
from lensdiff.views.small_table import SmallTable
from lensdiff.views.widget import Widget

TOP = 12
WORDS = 8  # lost and gained ones of a component
LIMITS = (
    "A principal angle says how far the subspace of the first components turned. A rotation inside it is invisible, "
    "and it says nothing of what the new directions mean.",
    "Components of nearly equal variance mix by noise alone: a matched component counts only where it turned further "
    "than its own band. An angle grows with any mixing, so it is no test of a rotation: the share of the values' "
    "change that one rotation explains (value_rotation) is.",
)


Angles = list[list[list[float]]]  # degrees of [side][rank][layer]


@dataclass(frozen=True)
class BandData:
    """A kind with enough controls: in each layer one more of them would have a mean angle from low to high.

    Attributes:
        name: of the kind.
        outline: drawn as its edge alone, so that those behind it are seen.
        low: lower limit.
        high: upper limit.
    """

    name: str
    outline: bool
    low: Angles
    high: Angles


@dataclass(frozen=True)
class RotationData:
    """What the script of the curve is given.

    Attributes:
        layers: their numbers.
        sides: kinds of vectors, one of which is chosen.
        ranks: sizes of the subspace, one of which is chosen.
        mean: of the principal angles.
        largest: of the principal angles.
        bands: of the controls, for the mean.
        facts: paragraphs above.
        limits: what the view does not say.
        top: matched components beyond their band.
    """

    layers: Sequence[int]
    sides: Sequence[str]
    ranks: list[str]
    mean: Angles
    largest: Angles
    bands: list[BandData]
    facts: list[str]
    limits: Sequence[str]
    top: SmallTable


@register_view
def show_rotation(result: Rotation) -> Widget:
    """Return the layer curve of one pair."""
    data = RotationData(
        layers=result.layers,
        sides=result.sides,
        ranks=[str(rank) for rank in result.ranks],
        mean=_degrees(result.angles.nanmean(dim=-1)),
        largest=_degrees(result.angles.nan_to_num(-1.0).amax(dim=-1)),
        bands=[
            BandData(f"{kind} controls ({n})", i > 0, *(_degrees(limit) for limit in result.band[i]))
            for i, (kind, n) in enumerate(zip(result.kinds, result.n_controls, strict=True))
            if not bool(result.band[i].isnan().any())
        ],
        facts=_facts(result),
        limits=LIMITS,
        top=SmallTable.of(_top(result), "Matched components that turned furthest beyond their band"),
    )
    title = f"Rotation of concepts: {result.provenance.options['base']} to {result.provenance.model}"
    return Widget("rotation", data, title, height=900, fallback=table_html(result.to_df(), "Angles in radians"))


def _degrees(values: Float[Tensor, "layer side rank"]) -> Angles:
    degrees = np.degrees(rearrange(values.double(), "layer side rank -> side rank layer").numpy())
    return [[rounded_all(rank) for rank in side] for side in degrees]


def _facts(result: Rotation) -> list[str]:
    mean = math.degrees(float(result.angles.nanmean(dim=-1).mean()))
    whole = f"All layers, sides and ranks together: {mean:.3g}° on average; the curve is of one rank."
    few = [f"{n} {kind}" for kind, n in zip(result.kinds, result.n_controls, strict=True) if n < FEWEST_FOR_RANK]
    if few or not result.kinds:
        made = f"too few controls to tell ({', '.join(few)})" if few else "no controls were made"
        return [whole, f"How far a meaningless change would turn it: {made}."]
    return [whole]


def _top(result: Rotation) -> pd.DataFrame:
    frame = result.ranked(TOP)
    limit = highest(frame)
    frame = frame.loc[frame.angle > limit]
    shown = frame[["layer", "side", "component"]].assign(match=frame.tuned_component)
    shown["angle °"] = np.degrees(frame.angle)
    if bool((limit > 0).any()):
        shown["bands to °"] = np.degrees(limit.loc[frame.index])
    shown["variance change"] = [f"{v:+.2%}" for v in frame.variance_change]
    for name in ("lost", "gained"):
        shown[name] = [", ".join(text.split(", ")[:WORDS]) for text in frame[name]]
    return shown
