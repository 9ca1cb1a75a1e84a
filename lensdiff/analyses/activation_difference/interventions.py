"""From a difference to what it does: the directions of one place, and all interventions there together."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from lensdiff.analyses.activation_difference.defaults import EFFECT_WORDS
from lensdiff.analyses.activation_difference.directions import DIFFERENCE, READINGS, TUNED_MEAN, Directions
from lensdiff.analyses.activation_difference.effects import DifferenceEffects
from lensdiff.inputs.texts import Texts
from lensdiff.models import view_of
from lensdiff.models.given import check_pair
from lensdiff.models.pair import ModelPair
from lensdiff.models.text import token_strings
from lensdiff.results import InputError
from lensdiff.results.diff import SIDES

if TYPE_CHECKING:
    from lensdiff.analyses.activation_difference.result import ActivationDifference


def directions_of(found: "ActivationDifference", pair: ModelPair, layer: int, position: int) -> Directions:
    """Return the directions of one place, to intervene with.

    Raises:
        InputError: the place was not read, the pair is another, or nothing differs there.
    """
    check_pair(pair, "ActivationDifference.directions")
    at = found.place(layer, position)
    if " -> ".join(pair.ids) != found.provenance.model:
        raise InputError(f"the difference is of {found.provenance.model}, the pair is {' -> '.join(pair.ids)}")
    if not float(found.size[at]):
        raise InputError(f"nothing differs at layer {layer}, position {position}: there is no direction to set")
    named = {DIFFERENCE: found.difference[at], TUNED_MEAN: found.tuned_mean[at]}
    for name, vector in zip(found.readings[len(READINGS) :], found.control_difference[:, at[0], at[1]], strict=True):
        if bool(vector.any()):
            named[name] = vector
    targets = found.read_ids[0, 0, at[0], at[1]]
    return Directions(layer, named, float(found.lengths[1][at]), targets)


def all_effects(
    found: "ActivationDifference",
    pair: ModelPair,
    layer: int | None,
    position: int | None,
    *,
    scales: Sequence[float],
    amounts: Sequence[float],
    texts: Texts,
    max_texts: int,
    max_tokens: int,
    draws: int,
    seed: int,
    prepend_bos: bool | None,
) -> DifferenceEffects:
    """Return all three interventions at one place; see `ActivationDifference.effects`."""
    at = found.usual_place(layer, position)
    asked: dict[str, Any] = {"draws": draws, "seed": seed}
    read = {"texts": texts, "max_texts": max_texts, "max_tokens": max_tokens, "prepend_bos": prepend_bos} | asked
    frames: dict[str, Any] = {
        "patchscope": found.patchscope(pair, *at, scales=scales, k=EFFECT_WORDS, **asked),
        "steering": found.steer(pair, *at, scales=amounts, **read),
        "causal": pd.concat([found.causal(pair, *at, into=side, **read) for side in reversed(SIDES)]),
    }
    ids = found.directions(pair, *at).words(pair, 1)
    options = {"layer": at[0], "position": at[1], "scales": list(scales), "amounts": list(amounts)}
    options |= {"max_texts": max_texts, "max_tokens": max_tokens, "draws": draws, "prepend_bos": prepend_bos}
    kept = {key: found.provenance.options[key] for key in ("notice",) if key in found.provenance.options}
    return DifferenceEffects(
        replace(found.provenance, analysis="difference_effects", options=kept | options, seed=seed),
        found.n_layers,
        *at,
        not (layer is position is None),
        token_strings(view_of(pair.tuned), tuple(ids.tolist())),
        **{key: value for name in frames for key, value in DifferenceEffects.rows(name, frames[name]).items()},
        level=found.level,
    )
