"""Which models are plain: HookedTransformers whose every block is of the kinds that are computed by hand here."""

from typing import Any

from jaxtyping import Int
from torch import Tensor

from lensdiff.models.linear.forms import RotationPlan, rotation_of
from lensdiff.models.linear.tangents import Rotation
from lensdiff.models.view import ModelView

_NORMS = ("RMS", "RMSPre", "LN", "LNPre")


def is_plain(view: ModelView) -> bool:
    """Return whether a model is plain, and no hook changes what it does; under the lock of its wrapper."""
    return (
        view.info.wrapper == "hooked"
        and _has_plain_blocks(view.model.cfg)
        and not any(module._forward_hooks or module._forward_pre_hooks for module in view.model.modules())
    )


def _has_plain_blocks(cfg: Any) -> bool:
    return (
        cfg.normalization_type in _NORMS
        and cfg.positional_embedding_type in ("standard", "rotary")
        and cfg.attention_dir == "causal"
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


def rotation_in(attn: Any, positions: slice | Int[Tensor, "*pos"]) -> Rotation:
    """Return the rotation of an attention layer of a HookedTransformer at some positions of a text."""
    adjacent = bool(attn.cfg.rotary_adjacent_pairs)
    plan = RotationPlan(swapped=False, doubled="twice" if adjacent else "halves", neighbours=adjacent)
    found = rotation_of(plan, (attn.rotary_cos[positions], attn.rotary_sin[positions]))
    assert found is not None  # a plan was given
    return found
