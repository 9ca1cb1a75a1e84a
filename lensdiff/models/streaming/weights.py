"""The weights of a checkpoint, a layer at a time, in the meaning that its layers were measured to have.

Every layer is read once when a checkpoint is opened: its wrapper is held against `transformers`, its meaning measured,
its values found finite, and its gains and biases kept. From then on a layer's matrices are read when they are asked
for, and the layer before is let go of.

Memory: one layer, or the embeddings, beside the gains and biases of all layers and the position embeddings.
"""

import gc
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lensdiff.models.info import ModelInfo
from lensdiff.models.inside.meaning import Meaning
from lensdiff.models.inside.norms import norm_weight
from lensdiff.models.inside.parts import LAYER_GAINS, MATRICES, BiasName, MatrixName, Sizes, Weight
from lensdiff.models.inside.weights import Weights
from lensdiff.models.inside.wrappers import Wrapper
from lensdiff.models.loading.checkpoints import Source
from lensdiff.models.loading.verification import expect, verify
from lensdiff.models.loading.wrapping import build
from lensdiff.models.others import other_weights
from lensdiff.models.progress import tracked
from lensdiff.models.streaming.slices import Slices
from lensdiff.models.view import ModelView
from lensdiff.results import InputError

OUTSIDE = ("W_E", "W_U", "b_U")
BIASES: tuple[BiasName, ...] = ("b_Q", "b_K", "b_V", "b_O", "b_in", "b_gate", "b_out")


@dataclass(frozen=True)
class Layers:
    """What was found of all layers when each was read once.

    Attributes:
        sizes: of the whole model, in the dtype that weights are given in.
        meaning: of the whole model.
        kept: gains (as stored) and biases of every layer, the final gain and the position embeddings.
        matrices: which there are.
        others: what there is beside them (`models.others`).
        soft_cap: of the attention scores.
        digest: of all tensors as they are stored.
    """

    sizes: Sizes
    meaning: Meaning
    kept: dict[Weight, Tensor]
    matrices: frozenset[Weight]
    others: dict[Weight, Tensor]
    soft_cap: float | None
    digest: str


class StreamedWeights(Weights):
    """The weights of a checkpoint that is read layer by layer; see the module."""

    def __init__(self, slices: Slices, info: Callable[[], ModelInfo], dtype: torch.dtype, device: str, layers: Layers):
        self._slices, self._info, self._dtype, self._device, self._layers = slices, info, dtype, device, layers
        self._layer: tuple[int, Wrapper] | None = None
        self._outside: dict[str, Tensor | None] = {}

    @property
    def name(self) -> str:
        return self._info().id

    @property
    def sizes(self) -> Sizes:
        return self._layers.sizes

    @property
    def meaning(self) -> Meaning:
        return self._layers.meaning

    @property
    def attention_soft_cap(self) -> float | None:
        return self._layers.soft_cap

    @property
    def digest(self) -> str:
        """A hash of all tensors as the files hold them."""
        return self._layers.digest

    @property
    def n_parameters(self) -> int:
        """How many parameters there are, a tied one once."""
        return self._slices.stored.n_parameters

    @property
    def others(self) -> dict[Weight, Tensor]:
        """What there is beside matrices, embeddings and gains."""
        bias = self.stored(Weight("b_U"))
        found = {} if bias is None or not bool(bias.any()) else {Weight("b_U"): bias}
        return found | self._layers.others

    def has(self, weight: Weight) -> bool:
        if weight.name in ("W_E", "W_U"):
            return True
        if weight.name in MATRICES:
            return weight in self._layers.matrices
        return self.stored(weight) is not None

    def stored(self, weight: Weight) -> Tensor | None:
        if weight.name in OUTSIDE:
            return self._read_outside()[weight.name]
        if weight.name not in MATRICES:
            return self._layers.kept.get(weight)
        assert weight.layer is not None
        if weight not in self._layers.matrices:
            return None
        return self._read_layer(weight.layer).matrix(0, _matrix(weight))

    def free(self) -> None:
        """Let go of the layer and the embeddings that were read last."""
        self._layer, self._outside = None, {}
        gc.collect()  # a model is full of reference cycles

    def _read_layer(self, layer: int) -> Wrapper:
        if self._layer is None or self._layer[0] != layer:
            self.free()
            self._layer = (layer, self._wrapped(layer))
        return self._layer[1]

    def _read_outside(self) -> dict[str, Tensor | None]:
        if not self._outside:
            self.free()
            wrapper = self._wrapped(0, whole_vocabulary=True)
            self._outside = {name: getattr(wrapper, name) for name in OUTSIDE}
        return self._outside

    def _wrapped(self, layer: int, *, whole_vocabulary: bool = False) -> Wrapper:
        known = not whole_vocabulary  # of which only the first rows were looked at when the checkpoint was opened
        source = self._slices.build(layer, self._dtype, whole_vocabulary=whole_vocabulary, known=known)
        view = wrapped(source, self._info(), self._dtype, self._device, meaning=self.meaning)
        assert view._wrapper is not None
        return view._wrapper


def wrapped(
    source: Any, info: ModelInfo, dtype: torch.dtype, device: str, *, meaning: Meaning | None = None
) -> ModelView:
    """Return the view of a slice in its wrapper; with a meaning that is known, none is measured."""
    found = Source(info.id, source, None)
    return build(found, info.wrapper, None, info, "raw", device, dtype, meaning=meaning)


def read_once(slices: Slices, info: ModelInfo, dtype: torch.dtype, device: str, *, verified: bool) -> Layers:
    """Return what there is to know of all layers, each read once and let go of.

    Slices are measured in at least float32, in which the numbers of a meaning are told apart.

    Raises:
        InputError: a layer cannot be cut out, is not finite, or its wrapper disagrees with `transformers`.
    """
    measured = torch.promote_types(dtype, torch.float32)
    whole, matrices, hashed = Meaning(), set(), hashlib.blake2b(digest_size=16)
    kept: dict[Weight, Tensor] = {}
    others: dict[Weight, Tensor] = {}
    soft_cap, sizes = None, None

    def hash_it(name: str, value: Tensor) -> None:
        hashed.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        hashed.update(value.contiguous().flatten().view(torch.uint8).numpy().data)

    for layer in tracked(list(range(slices.n_layers)), f"reading {info.id}"):
        source = slices.build(layer, measured, seen=hash_it)
        expected = expect(source, measured) if verified else None
        view = wrapped(source, info, measured, device)
        if expected is not None:
            verify(view, expected, folded=False)
        wrapper = view._wrapper
        assert wrapper is not None
        _take(whole, view.meaning, layer)
        for weight, value in _vectors(view, wrapper, layer):
            kept[weight] = value.to(dtype, copy=True)
        matrices |= {Weight(name, layer) for name in MATRICES if wrapper.matrix(0, name) is not None}
        for weight, value in other_weights(view).items():
            if weight.layer is not None or (layer == 0 and weight.name not in OUTSIDE):
                others[weight._replace(layer=layer if weight.layer is not None else None)] = value.to(dtype, copy=True)
        if layer == 0:
            soft_cap, sizes = wrapper.attention_soft_cap(), wrapper.sizes()
            if (positions := wrapper.W_pos()) is not None:
                kept[Weight("W_pos")] = positions.detach().to(dtype, copy=True)
        del source, view, wrapper
        gc.collect()
    assert sizes is not None
    for name in slices.outside():
        hash_it(name, slices.stored.read(name))
    sizes = replace(sizes, n_layers=slices.n_layers, d_vocab=slices.d_vocab, dtype=dtype)
    return Layers(sizes, whole, kept, frozenset(matrices), others, soft_cap, hashed.hexdigest())


def _take(whole: Meaning, one: Meaning, layer: int) -> None:
    """Add what was measured of a slice to what is known of the model; what is outside of layers is the first's."""
    whole.gains |= {(name, layer): one.gains[(name, 0)] for name in LAYER_GAINS}
    whole.matrices |= {(name, layer): why for (name, _), why in one.matrices.items()}
    whole.biases |= {(name, layer): why for (name, _), why in one.biases.items()}
    whole.posts[layer] = one.posts[0]
    if layer == 0:
        whole.gains[("final", 0)] = one.gains[("final", 0)]
        whole.positions, whole.logits = one.positions, one.logits


def _vectors(view: ModelView, wrapper: Wrapper, layer: int) -> list[tuple[Weight, Tensor]]:
    found: list[tuple[Weight, Tensor | None]] = []
    for name in (*LAYER_GAINS, "final"):
        gain = view.meaning.gains[(name, 0)]
        module = getattr(gain, "module", None)
        value = None if module is None else norm_weight(wrapper.model.get_submodule(module))
        found.append((Weight(f"{name}_gain", None if name == "final" else layer), value))
    found += [(Weight(name, layer), wrapper.bias(0, name)) for name in BIASES]
    return [(weight, value.detach()) for weight, value in found if value is not None]


def _matrix(weight: Weight) -> MatrixName:
    assert weight.name in MATRICES
    return weight.name  # pyright: ignore[reportReturnType]


def streamed_error(name: str) -> InputError:
    """Return what is said where more than weights is asked of a streamed model."""
    return InputError(
        f"{name} is streamed: its weights are read layer by layer and no model is built, so it has no forward pass; "
        "load it without stream=True for this"
    )
