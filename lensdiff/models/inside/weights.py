"""The weights of a model, a tensor at a time and in one meaning, whichever wrapper, change or file they come from.

All matrices multiply from the right, x -> (x * gain) W + b; keys and values have their own heads. What stands there is
what `meaning` has measured: a norm that scales by 1 + w gives the gain 1 + w, two branches that share a norm have one
gain, and what is not understood is refused in a sentence. Nothing is copied but gains of that kind.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.models.inside.meaning import Meaning
from lensdiff.models.inside.norms import Unknown, norm_weight
from lensdiff.models.inside.parts import (
    ATTENTION,
    LAYER_GAINS,
    MATRICES,
    AttentionWeights,
    BiasName,
    GainName,
    MatrixName,
    MLPWeights,
    Sizes,
    Weight,
)
from lensdiff.models.inside.wrappers import Wrapper
from lensdiff.results import InputError


class Weights(ABC):
    """The weights of one model; see the module.

    Attributes:
        name: the model's, for errors.
        sizes: how large it is.
        meaning: what has been measured of its parts.
    """

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def sizes(self) -> Sizes: ...

    @property
    @abstractmethod
    def meaning(self) -> Meaning: ...

    @abstractmethod
    def stored(self, weight: Weight) -> Tensor | None:
        """Return a weight as it is stored, unchecked (a norm's weight, not its gain); None where there is none."""

    @abstractmethod
    def has(self, weight: Weight) -> bool:
        """Whether there is such a weight, without computing it."""

    @property
    @abstractmethod
    def attention_soft_cap(self) -> float | None:
        """The cap of the attention scores, or None."""

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding."""
        return self._there(Weight("W_E"))

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The unembedding."""
        return self._there(Weight("W_U"))

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"] | None:
        """The unembedding's bias, or None."""
        return self.stored(Weight("b_U"))

    @property
    def W_pos(self) -> Float[Tensor, "pos d_model"] | None:
        """The learned position embeddings, or None where there are none.

        Raises:
            InputError: they are not what is added to the embedding.
        """
        if self.meaning.positions:
            raise InputError(f"W_pos of {self.name} cannot be read: {self.meaning.positions}")
        return self.stored(Weight("W_pos"))

    def matrix(self, layer: int, name: MatrixName) -> Tensor | None:
        """Return one matrix, or None where there is no such weight (W_gate of an ungated MLP).

        W_Q [head_index d_model d_head], W_K and W_V the same with the key-value heads, W_O [head_index d_head d_model],
        W_in and W_gate [d_model d_mlp], W_out [d_mlp d_model].

        Raises:
            InputError: the wrapper's tensor of that name does not do what the name says.
        """
        if wrong := self.meaning.matrices.get((name, layer)):
            raise InputError(f"{name} of layer {layer} of {self.name} cannot be read: {wrong}")
        return self.stored(Weight(name, layer))

    def needed_matrix(self, layer: int, name: MatrixName) -> Tensor:
        """Return one matrix of a model that has it.

        Raises:
            InputError: the layer has no single matrix of that name (a mixture of experts), or it cannot be read.
        """
        found = self.matrix(layer, name)
        if found is None:
            part = "attention" if name in ATTENTION else "MLP"
            raise InputError(
                f"layer {layer} of {self.name} has no single {name}: this reading needs one {part} matrix a layer, "
                "which a mixture of experts does not have"
            )
        return found

    def bias(self, layer: int, name: BiasName) -> Tensor | None:
        """Return what is added behind a matrix, in the shape of its output, or None where nothing is.

        Raises:
            InputError: what is added there is something else.
        """
        wrong = self.meaning.biases.get((name, layer)) or self.meaning.matrices.get((f"W{name[1:]}", layer))  # pyright: ignore[reportArgumentType, reportCallIssue]
        if wrong:
            raise InputError(f"{name} of layer {layer} of {self.name} cannot be read: {wrong}")
        return self.stored(Weight(name, layer))

    def gain(self, name: GainName, layer: int = 0) -> Tensor | None:
        """Return the gain by which a norm scales what is read ("attn", "mlp", "final"), or queries and keys; or None.

        None where nothing is scaled at that place: folded weights, or a norm after the layer (OLMo 2).

        Raises:
            InputError: what is read there is scaled in a way that has not been understood.
        """
        layer = 0 if name == "final" else layer
        found = self.meaning.gains[(name, layer)]
        if isinstance(found, Unknown):
            raise InputError(f"the {name} gain of layer {layer} of {self.name} cannot be read: {found.reason}")
        stored = self.stored(_gain(name, layer))
        return stored + found.offset if stored is not None and found.offset else stored

    def read(self, weight: Weight) -> Tensor | None:
        """Return a weight by its name and layer, checked as the methods above are."""
        name, layer = weight
        if name.endswith("_gain"):
            return self.gain(name.removesuffix("_gain"), layer or 0)  # pyright: ignore[reportArgumentType]
        if name in MATRICES:
            assert layer is not None
            return self.matrix(layer, name)
        return self.stored(weight)

    def known(self) -> Iterator[Weight]:
        """Yield the weights that there are and can be read: embeddings, the final gain, then layer by layer.

        A norm that attention and MLP share counts once, as the attention's.
        """
        yield from (Weight("W_E"), Weight("W_U"))
        if self.has_gain("final"):
            yield _gain("final")
        for layer in range(self.sizes.n_layers):
            for name in MATRICES:
                weight = Weight(name, layer)
                if not self.meaning.matrices.get((name, layer)) and self.has(weight):
                    yield weight
            for gain in LAYER_GAINS:
                if self.has_gain(gain, layer) and not (gain == "mlp" and self.meaning.shared(layer)):
                    yield _gain(gain, layer)

    def has_gain(self, name: GainName, layer: int = 0) -> bool:
        """Whether something is scaled there, by a gain that is known."""
        found = self.meaning.gains[(name, layer)]
        return not isinstance(found, Unknown) and found.module is not None

    def attention(self, layer: int) -> AttentionWeights:
        """Return one layer's attention weights, keys and values repeated to the query heads."""
        W_Q, W_K, W_V, W_O = (self.needed_matrix(layer, name) for name in ("W_Q", "W_K", "W_V", "W_O"))
        repeats = W_Q.shape[0] // W_K.shape[0]
        return AttentionWeights(
            self.gain("attn", layer),
            W_Q,
            W_K.repeat_interleave(repeats, dim=0),
            W_V.repeat_interleave(repeats, dim=0),
            W_O,
            self.gain("q_norm", layer),
            self.gain("k_norm", layer),
            n_key_value_heads=W_K.shape[0],
            soft_cap=self.attention_soft_cap,
        )

    def mlp(self, layer: int) -> MLPWeights:
        """Return one layer's feed-forward weights."""
        W_in, W_out = self.needed_matrix(layer, "W_in"), self.needed_matrix(layer, "W_out")
        return MLPWeights(self.gain("mlp", layer), W_in, self.matrix(layer, "W_gate"), W_out)

    def _there(self, weight: Weight) -> Tensor:
        value = self.stored(weight)
        assert value is not None
        return value


class ModelWeights(Weights):
    """The weights of a model in memory, sharing its storage."""

    def __init__(self, wrapper: Wrapper, name: Callable[[], str], meaning: Callable[[], Meaning]):
        self._wrapper, self._name, self._meaning = wrapper, name, meaning

    @property
    def name(self) -> str:
        return self._name()

    @property
    def sizes(self) -> Sizes:
        return self._wrapper.sizes()

    @property
    def meaning(self) -> Meaning:
        return self._meaning()

    @property
    def attention_soft_cap(self) -> float | None:
        return self._wrapper.attention_soft_cap()

    def has(self, weight: Weight) -> bool:
        return self.stored(weight) is not None

    def stored(self, weight: Weight) -> Tensor | None:
        with self._wrapper.lock:  # as in `Wrapper.sizes`
            return self._stored(weight)

    def _stored(self, weight: Weight) -> Tensor | None:
        name, layer = weight
        if name in ("W_E", "W_U", "b_U"):
            return getattr(self._wrapper, name)
        if name == "W_pos":
            return self._wrapper.W_pos()
        if name.endswith("_gain"):
            found = self.meaning.gains[(name.removesuffix("_gain"), layer or 0)]  # pyright: ignore[reportArgumentType]
            if isinstance(found, Unknown) or found.module is None:
                return None
            value = norm_weight(self._wrapper.model.get_submodule(found.module))
            return None if value is None else value.detach().to(torch.promote_types(value.dtype, self.sizes.dtype))
        assert layer is not None
        read: Callable[..., Tensor | None] = self._wrapper.matrix if name in MATRICES else self._wrapper.bias
        return read(layer, name)


def _gain(name: GainName, layer: int = 0) -> Weight:
    return Weight(f"{name}_gain", None if name == "final" else layer)
