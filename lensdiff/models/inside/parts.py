"""Names and shapes of the parts of a model, as analyses ask for them."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.results.numbers import n_of

MatrixName = Literal["W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out"]
BiasName = Literal["b_Q", "b_K", "b_V", "b_O", "b_in", "b_gate", "b_out"]
GainName = Literal["attn", "mlp", "final", "q_norm", "k_norm"]
ATTENTION: tuple[MatrixName, ...] = ("W_Q", "W_K", "W_V", "W_O")
MATRICES: tuple[MatrixName, ...] = (*ATTENTION, "W_in", "W_gate", "W_out")
LAYER_GAINS: tuple[GainName, ...] = ("attn", "mlp", "q_norm", "k_norm")


class Weight(NamedTuple):
    """The name of one weight: a matrix, "W_E", "W_U", or a gain ("attn_gain", ..., "final_gain")."""

    name: str
    layer: int | None = None


@dataclass(frozen=True)
class Sizes:
    """How large a model is, and in what its weights are held."""

    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_ctx: int
    dtype: torch.dtype
    device: torch.device


def sizes_of(sizes: Any) -> str:
    """Return what has a model's sizes (`Sizes`, `Facts`) in words, by TransformerLens's names."""
    counts = [n_of(sizes.n_layers, "layer"), n_of(sizes.n_heads, "head")]
    return ", ".join([*counts, *(f"{name} {getattr(sizes, name)}" for name in ("d_model", "d_mlp", "d_vocab"))])


@dataclass(frozen=True, eq=False)
class AttentionWeights:
    """One layer's attention: x -> (x * gain) W_Q and so on; `gain` is None where the input is not scaled."""

    gain: Float[Tensor, " d_model"] | None
    W_Q: Float[Tensor, "head_index d_model d_head"]
    W_K: Float[Tensor, "head_index d_model d_head"]
    W_V: Float[Tensor, "head_index d_model d_head"]
    W_O: Float[Tensor, "head_index d_head d_model"]
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    n_key_value_heads: int = 0
    soft_cap: float | None = None


@dataclass(frozen=True, eq=False)
class MLPWeights:
    """One layer's feed-forward weights: keys are the columns of W_in (and W_gate), values the rows of W_out."""

    gain: Float[Tensor, " d_model"] | None
    W_in: Float[Tensor, "d_model d_mlp"]
    W_gate: Float[Tensor, "d_model d_mlp"] | None
    W_out: Float[Tensor, "d_mlp d_model"]
