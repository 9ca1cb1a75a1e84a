"""Which models are plain: HookedTransformers whose every block is of the kinds that are computed by hand here."""

from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

from lensdiff.models.inside.parts import BiasName, MatrixName
from lensdiff.models.inside.widened import Widened
from lensdiff.models.linear.forms import RotationPlan, rotation_of
from lensdiff.models.linear.tangents import Rotation
from lensdiff.models.view import ModelView

PROJECTED: tuple[tuple[MatrixName, BiasName], ...] = (("W_Q", "b_Q"), ("W_K", "b_K"), ("W_V", "b_V"))
_NORMS = ("RMS", "RMSPre", "LN", "LNPre")


def is_plain(view: ModelView) -> bool:
    """Return whether a model is plain, and nobody has changed what it does; under the lock of its wrapper."""
    return (
        view.info.wrapper == "hooked"
        and not isinstance(view.forward.wrapper, Widened)  # weights are read as they lie
        and _has_plain_blocks(view.model.cfg)
        and all(_is_untouched(module) for module in view.model.modules())
    )


def _is_untouched(module: nn.Module) -> bool:
    """Return whether a module is what its class says: no hook on it, nothing in its place, nobody else's forward."""
    own = type(module).__module__.partition(".")[0] in ("torch", "transformer_lens") and "forward" not in vars(module)
    turned = getattr(module, "_attention_dir_override", None) is not None
    return own and not turned and not module._forward_hooks and not module._forward_pre_hooks


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
        and not cfg.use_dynamic_ntk_rope
        and not cfg.load_in_4bit
        and cfg.n_devices == 1
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
