"""The weights of a layer as analyses read them, and what is known of a model beside its weights."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

MatrixName = Literal["W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out"]
GainName = Literal["attn", "mlp", "final", "q_norm", "k_norm"]
ATTENTION: tuple[MatrixName, ...] = ("W_Q", "W_K", "W_V", "W_O")
MATRICES: tuple[MatrixName, ...] = ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out")


@dataclass(frozen=True)
class ModelInfo:
    """What is known about a loaded model beside its weights."""

    id: str
    architecture: str
    wrapper: str  # "hooked" or "bridge"
    weights: str = "raw"  # "raw", "folded", or "as given" for a model that was wrapped elsewhere
    revision: str | None = None
    eos_token_ids: tuple[int, ...] = ()
    final_soft_cap: float | None = None
    chat_template: str | None = None
    notes: tuple[str, ...] = ()  # what was said when it was loaded


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
