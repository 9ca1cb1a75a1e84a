"""How much of the change of each layer's values is a rotation, of a model held against the base; see `value_rotation`.

Memory: one layer of two models in float64, and the tables of `neuron_matching`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.analyses.value_rotation.neuron_matching import gaps, match_neurons, neuron_vectors
from lensdiff.analyses.value_rotation.procrustes import explained_share, shared_map
from lensdiff.models import ModelView
from lensdiff.models.progress import tracked
from lensdiff.results import InputError


class Layer(NamedTuple):
    share: float
    change: float
    size: float
    moved: int


class Found(NamedTuple):
    shares: Float[Tensor, " layer"]
    change: Float[Tensor, " layer"]
    moved: Int[Tensor, " layer"]
    basis_changed: bool


@dataclass(frozen=True)
class Reference:
    """The base's layers, which every other model is held against; `gaps` keeps what they need only once."""

    base: ModelView
    layers: tuple[int, ...]
    gaps: dict[int, Tensor]

    def compare(self, other: ModelView, ids: tuple[Tensor, Tensor]) -> Found:
        basis = shared_map(self.base, other, ids)
        maps: list[Tensor | None] = [None] if basis is None else [None, basis]
        per_layer = [
            list(self._layer(other, layer, maps)) for layer in tracked(self.layers, f"turning {other.info.id}")
        ]
        readings = [[row[i] for row in per_layer] for i in range(len(maps))]
        away = [sum(layer.change**2 for layer in reading) for reading in readings]
        nearest = int(np.argmin(away))  # the first of equals: no change of basis
        sizes = [layer.size for layer in readings[nearest]]
        change = [
            layer.change / size if size else layer.change for layer, size in zip(readings[nearest], sizes, strict=True)
        ]
        return Found(
            torch.tensor([layer.share for layer in readings[nearest]], dtype=torch.float64),
            torch.tensor(change, dtype=torch.float64),
            torch.tensor([layer.moved for layer in readings[nearest]]),
            nearest > 0,
        )

    def _layer(self, other: ModelView, layer: int, maps: list[Tensor | None]) -> Iterator[Layer]:
        """Yield one layer's numbers with each change of the stream's basis taken away from the other model."""
        base, theirs = _vectors(self.base, layer), _vectors(other, layer)
        mine, values = neuron_vectors(base), base[-1]
        if layer not in self.gaps:
            self.gaps[layer] = gaps(mine)
        eps = max(torch.finfo(view.dtype).eps for view in (self.base, other))
        for basis in maps:
            read = theirs if basis is None else [vectors @ basis.T for vectors in theirs]
            match = match_neurons(mine, neuron_vectors(read), self.gaps[layer])
            matched = read[-1][match]
            size, change = float(values.norm()), float((matched - values).norm())
            if basis is not None and change <= (4 * eps + 1e-12) * size:
                matched, change = values, 0.0
            moved = int((match != torch.arange(len(match))).sum())
            yield Layer(explained_share(values, matched), change, size, moved)


def _vectors(view: ModelView, layer: int) -> list[Float[Tensor, "d_mlp d_model"]]:
    """Return a layer's keys (with their gain) and, last, its values, in float64.

    Raises:
        InputError: a number among them is not finite.
    """
    weights = view.weights.mlp(layer)
    keys = [W.cpu().double().T for W in (weights.W_in, weights.W_gate) if W is not None]
    if weights.gain is not None:
        keys = [key * weights.gain.cpu().double() for key in keys]
    found = [*keys, weights.W_out.cpu().double()]
    if not all(bool(vectors.isfinite().all()) for vectors in found):
        raise InputError(f"the MLP of layer {layer} of {view.info.id} holds numbers that are not finite")
    return found
