"""Plain HookedTransformers, whose blocks are computed again from their own weights (`branching`)."""

from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from lensdiff.models.view import ModelView

_NORMS = ("RMS", "RMSPre", "LN", "LNPre")


def has_plain_blocks(view: ModelView) -> bool:
    """Return whether a model is a HookedTransformer, every block of the kinds that are computed again."""
    cfg = view.model.cfg
    return (
        view.info.wrapper == "hooked"
        and cfg.normalization_type in _NORMS
        and cfg.positional_embedding_type in ("standard", "rotary")
        and not cfg.use_normalization_before_and_after
        and not cfg.attn_only
        and not cfg.num_experts
        and not cfg.use_attn_in
        and not cfg.use_split_qkv_input
        and not cfg.use_hook_mlp_in
        and not cfg.use_attn_result
        and not cfg.use_logn_attn
        and not cfg.use_attention_sinks
        and not cfg.ungroup_grouped_query_attention
        and cfg.clip_qkv is None
        and cfg.attn_scores_soft_cap <= 0
        and not cfg.is_layer_norm_activation()
        and cfg.original_architecture not in ("OlmoeForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM")
    )


class Rotation:
    """The rotary embedding of a block: pairs of a head's dimensions are turned by an angle of their position."""

    def __init__(self, attn: Any):
        cfg = attn.cfg
        cos, self.sin = (table[:, None] for table in (attn.rotary_cos, attn.rotary_sin))
        self.dim = cfg.rotary_dim
        self.cos = F.pad(cos, (0, cfg.d_head - self.dim), value=1.0) if self.dim < cfg.d_head else cos
        half = self.dim // 2
        adjacent = slice(0, self.dim, 2), slice(1, self.dim, 2)
        self.pair = adjacent if cfg.rotary_adjacent_pairs else (slice(0, half), slice(half, self.dim))

    def __call__(self, x: Float[Tensor, "n pos head d_head"], start: int = 0) -> Float[Tensor, "n pos head d_head"]:
        where, (one, other) = slice(start, start + x.shape[1]), self.pair
        sin, out = self.sin[where], x * self.cos[where]
        out[..., one].addcmul_(x[..., other], sin[..., one], value=-1)
        out[..., other].addcmul_(x[..., one], sin[..., other])
        return out


def flat_heads(attn: Any, name: str) -> Float[Tensor, "head_d_head d_model"]:
    """Return W_Q, or W_K or W_V of the key-value heads alone, as one matrix that `F.linear` takes."""
    weight = getattr(attn, f"_{name}", None)  # grouped-query attention: the plain names are repeated to the query heads
    weight = getattr(attn, name) if weight is None else weight
    return rearrange(weight, "head_index d_model d_head -> (head_index d_head) d_model")
