"""What a model holds beside its matrices, embeddings and gains, by name, so that no parameter is left out of sight.

    b_Q ... b_out          what is added behind a matrix, per layer
    attn_norm_bias, ...    what a norm adds (LayerNorm), where its gain has a name too
    b_U, W_pos             the unembedding's bias, learned position embeddings
    anything else          under the checkpoint's own name within its layer: norms behind a layer, experts, routers,
                           and whatever has another meaning than its name

A tensor that is zero throughout is left out: the wrappers add biases to checkpoints that have none. So is a fused
matrix where a bridge computes with copies of its parts: those are there.
"""

import re
from collections.abc import Iterator, Mapping
from typing import get_args

import torch
from torch import Tensor

from lensdiff.models.inside.norms import Unknown, norm_bias
from lensdiff.models.inside.parts import LAYER_GAINS, MATRICES, BiasName, GainName, Weight
from lensdiff.models.inside.storage import covers
from lensdiff.models.view import ModelView
from lensdiff.results import InputError

BIASES: tuple[BiasName, ...] = get_args(BiasName)
_WRAPPED = "_original_component."
_LAYER = re.compile(r"(?:^|\.)(\d+)\.(.+)$")


def other_weights(view: ModelView) -> dict[Weight, Tensor]:
    """Return them; `Weight.layer` is None for what stands in no layer."""
    if view.streamed is not None:
        return dict(view.streamed.others)
    found = {weight: value for weight, value in _named(view) if value is not None}
    known = (view.weights.stored(weight) for weight in view.weights.known())
    seen = [value for value in (*known, *found.values()) if value is not None]
    parameters = dict(view.model.named_parameters())
    # parts first: a fused parameter of which a part has been seen is that part's
    for name, parameter in sorted(parameters.items(), key=lambda item: item[1].numel()):
        value = parameter.detach()
        if not is_split(name, parameters) and not any(covers(value, other) for other in seen):
            found[own_name(name)] = value
            seen.append(value)
    return {weight: value for weight, value in found.items() if bool(torch.count_nonzero(value))}


def is_split(name: str, parameters: Mapping[str, Tensor]) -> bool:
    """Whether a parameter is a fused matrix of which the wrapper computes with copies of the parts."""
    return ".qkv." in name and all(name.replace(".qkv.", f".{part}.") in parameters for part in "qkv")


def _named(view: ModelView) -> Iterator[tuple[Weight, Tensor | None]]:
    """Yield those that have a name of TransformerLens's, or that of their norm."""
    weights = view.weights
    yield Weight("b_U"), weights.b_U
    yield Weight("W_pos"), None if weights.meaning.positions else weights.W_pos
    yield Weight("final_norm_bias"), _norm_bias(view, "final", 0)
    for layer in range(weights.sizes.n_layers):
        for name in BIASES:
            yield Weight(name, layer), _bias(view, layer, name)
        for name in LAYER_GAINS:
            if not (name == "mlp" and weights.meaning.shared(layer)):
                yield Weight(f"{name}_norm_bias", layer), _norm_bias(view, name, layer)


def _bias(view: ModelView, layer: int, name: BiasName) -> Tensor | None:
    assert f"W{name[1:]}" in MATRICES
    try:
        return view.weights.bias(layer, name)
    except InputError:  # it is something else: it comes under the checkpoint's name
        return None


def _norm_bias(view: ModelView, name: GainName, layer: int) -> Tensor | None:
    gain = view.meaning.gains[(name, layer)]
    if isinstance(gain, Unknown) or gain.module is None:
        return None
    bias = norm_bias(view.model.get_submodule(gain.module))
    return None if bias is None else bias.detach()


def own_name(parameter: str) -> Weight:
    """Return a parameter's name without the wrapper's additions, within its layer."""
    name = parameter.replace(_WRAPPED, "")
    found = _LAYER.search(name)  # the first number in a path is a layer's
    return Weight(name) if found is None else Weight(found.group(2), int(found.group(1)))
