"""From a checkpoint's own config to a HookedTransformer: one short table, by architecture and never by name.

TransformerLens derives its config from the name of a model, which fails on most local folders. Its weight conversions
only read the modules, so they are used as they are. What the table cannot express (another rotary scaling, biases
where a family has none) is named by `why_not_hooked`, and such a checkpoint comes as a TransformerBridge instead.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from lensdiff.models.inside.wrappers import HookedTransformer

try:
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.utilities.activation_functions import SUPPORTED_ACTIVATIONS
except ImportError:
    HookedTransformerConfig = None
    SUPPORTED_ACTIVATIONS: dict[str, Any] = {}

Options = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """How one architecture becomes a HookedTransformer."""

    architecture: str
    options: Callable[[PretrainedConfig], Options]
    conversion: str  # module and function below transformer_lens.pretrained.weight_conversions


def _rope_theta(config: PretrainedConfig) -> float:
    parameters = getattr(config, "rope_parameters", None) or {}
    return float(parameters.get("rope_theta", getattr(config, "rope_theta", None) or 10000.0))


def _rope_type(config: PretrainedConfig) -> str:
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return str(parameters.get("rope_type", parameters.get("type", "default")))


def _llama3_scaling(config: PretrainedConfig) -> Options:
    if _rope_type(config) != "llama3":
        return {}
    scaling = getattr(config, "rope_parameters", None) or config.rope_scaling
    return {
        "use_NTK_by_parts_rope": True,
        "NTK_original_ctx_len": scaling.get("original_max_position_embeddings", config.max_position_embeddings),
        "NTK_by_parts_low_freq_factor": scaling.get("low_freq_factor", 1.0),
        "NTK_by_parts_high_freq_factor": scaling.get("high_freq_factor", 4.0),
        "NTK_by_parts_factor": scaling.get("factor", 1.0),
    }


def _gpt2(config: PretrainedConfig) -> Options:
    return {
        "d_model": config.n_embd,
        "d_head": config.n_embd // config.n_head,
        "n_heads": config.n_head,
        "d_mlp": config.n_inner or 4 * config.n_embd,
        "n_layers": config.n_layer,
        "n_ctx": config.n_positions,
        "eps": config.layer_norm_epsilon,
        "act_fn": config.activation_function,
        "use_attn_scale": config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
        "normalization_type": "LN",
    }


def _decoder(config: PretrainedConfig) -> Options:
    heads = config.num_attention_heads
    return {
        "d_model": config.hidden_size,
        "d_head": getattr(config, "head_dim", None) or config.hidden_size // heads,
        "n_heads": heads,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "act_fn": config.hidden_act,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_base": _rope_theta(config),
    }


def _gpt_neox(config: PretrainedConfig) -> Options:
    options = _decoder(config)
    parameters = getattr(config, "rope_parameters", None) or {}
    part = parameters.get("partial_rotary_factor", getattr(config, "rotary_pct", 1.0))
    return options | {
        "eps": config.layer_norm_eps,
        "parallel_attn_mlp": config.use_parallel_residual,
        "rotary_dim": int(options["d_head"] * part),
        "normalization_type": "LN",
    }


def _llama(config: PretrainedConfig, *, ungrouped_when_equal: bool = True) -> Options:
    options = _decoder(config)
    grouped = config.num_key_value_heads != config.num_attention_heads or not ungrouped_when_equal
    return (
        options
        | {
            "eps": config.rms_norm_eps,
            "n_key_value_heads": config.num_key_value_heads if grouped else None,
            "rotary_dim": options["d_head"],
            "normalization_type": "RMS",
            "final_rms": True,
            "gated_mlp": True,
        }
        | _llama3_scaling(config)
    )


def _grouped(config: PretrainedConfig) -> Options:
    # these conversions always write grouped key and value heads, also where there are as many of them as query heads
    return _llama(config, ungrouped_when_equal=False)


def _mistral(config: PretrainedConfig) -> Options:
    options = _grouped(config)
    if getattr(config, "sliding_window", None):
        local = {"use_local_attn": True, "window_size": config.sliding_window}
        options |= local | {"attn_types": ["local"] * config.num_hidden_layers}
    return options


def _qwen3(config: PretrainedConfig) -> Options:
    return _llama(config) | {"use_qk_norm": True}


FAMILIES = {
    family.architecture: family
    for family in (
        Family("GPT2LMHeadModel", _gpt2, "gpt2.convert_gpt2_weights"),
        Family("GPTNeoXForCausalLM", _gpt_neox, "neox.convert_neox_weights"),
        Family("LlamaForCausalLM", _llama, "llama.convert_llama_weights"),
        Family("MistralForCausalLM", _mistral, "mistral.convert_mistral_weights"),
        Family("Qwen2ForCausalLM", _grouped, "qwen2.convert_qwen2_weights"),
        Family("Qwen3ForCausalLM", _qwen3, "qwen3.convert_qwen3_weights"),
    )
}


def why_not_hooked(config: PretrainedConfig, architecture: str) -> str | None:
    """Return why a checkpoint cannot be a HookedTransformer, or None if it can."""
    if HookedTransformer is None:
        return "this transformer-lens has no HookedTransformer (3.9 is the last)"
    if architecture not in FAMILIES:
        return f"no HookedTransformer conversion for {architecture} (there is one for {', '.join(FAMILIES)})"
    llama3 = architecture == "LlamaForCausalLM" and _rope_type(config) == "llama3"
    if architecture != "GPT2LMHeadModel" and _rope_type(config) != "default" and not llama3:
        return f"its rotary scaling {_rope_type(config)!r} has no HookedTransformer counterpart"
    if architecture not in ("GPT2LMHeadModel", "GPTNeoXForCausalLM") and (
        getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False)
    ):
        return f"a {architecture} with biases has no HookedTransformer counterpart"
    if architecture == "GPTNeoXForCausalLM" and not getattr(config, "attention_bias", True):
        return "a GPT-NeoX without attention biases has no HookedTransformer counterpart"
    activation = getattr(config, "hidden_act", None) or getattr(config, "activation_function", None)
    if activation not in SUPPORTED_ACTIVATIONS:
        return f"its activation {activation!r} has no HookedTransformer counterpart"
    if architecture != "MistralForCausalLM" and getattr(config, "use_sliding_window", False):
        return "its sliding windows have no HookedTransformer counterpart"
    return None


def supported_architectures() -> list[str]:
    """Return the causal language models that one of the two wrappers can hold."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    return sorted(
        {name for name in SUPPORTED_ARCHITECTURES if name.endswith(("ForCausalLM", "LMHeadModel"))} | set(FAMILIES)
    )


def build_hooked(source: PreTrainedModel, *, architecture: str, device: str, dtype: torch.dtype, name: str) -> Any:
    """Return a HookedTransformer around the storage of `source`'s raw weights (nothing of that dtype is copied)."""
    from accelerate import init_empty_weights

    assert HookedTransformer is not None  # `why_not_hooked` has said so
    assert HookedTransformerConfig is not None
    family = FAMILIES[architecture]
    options = family.options(source.config) | {
        "model_name": name,
        "original_architecture": architecture,
        "d_vocab": cast(Tensor, source.get_input_embeddings().weight).shape[0],
        "dtype": dtype,
        "device": device,
        "init_weights": False,
        "default_prepend_bos": False,
    }
    config = HookedTransformerConfig.from_dict(options)
    with init_empty_weights(include_buffers=False):
        model = HookedTransformer(config, move_to_device=False)
    module, function = family.conversion.split(".")
    convert = getattr(import_module(f"transformer_lens.pretrained.weight_conversions.{module}"), function)
    with torch.no_grad():
        state = {key: value.detach().to(dtype) for key, value in convert(source, config).items()}
    _, unexpected = model.load_state_dict(state, strict=False, assign=True)
    if unexpected:
        raise RuntimeError(f"transformer-lens converted weights that its model does not have: {unexpected}")
    _fill_zeros(model, dtype)
    for buffers in (model.buffers(), model.parameters()):
        for tensor in buffers:
            tensor.data = tensor.data.to(device)
    return model.eval()


def _fill_zeros(model: Any, dtype: torch.dtype) -> None:
    # parameters that a conversion leaves out are the biases a checkpoint does not have
    for path, parameter in list(model.named_parameters()):
        if not parameter.is_meta:
            continue
        owner, leaf = path.rsplit(".", 1)
        if not leaf.lstrip("_").startswith("b"):
            raise RuntimeError(f"transformer-lens's conversion left out {path}")
        module = model.get_submodule(owner)
        setattr(
            module,
            leaf,
            torch.nn.Parameter(torch.zeros(parameter.shape, dtype=dtype), requires_grad=parameter.requires_grad),
        )
