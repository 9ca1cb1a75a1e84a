"""The same points in `transformers`' own models, by their modules and eager attention: an oracle for forward passes."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from experiments.families import blocks_of
from lensdiff.models import Point

Edit = Callable[[Tensor], Tensor]

# by family: modules below a block whose outputs are added to the stream, the output projection of attention, and by
# what they are multiplied on the way
_ADDED: dict[str, tuple[str, str, str]] = {
    "gpt2": ("attn", "mlp", "attn.c_proj"),
    "gpt_neox": ("attention", "mlp", "attention.dense"),
    "gptj": ("attn", "mlp", "attn.out_proj"),
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm", "self_attn.o_proj"),
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm", "self_attn.o_proj"),
    "phi": ("self_attn", "mlp", "self_attn.dense"),
    "opt": ("self_attn", "fc2", "self_attn.out_proj"),
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h", "self_attention.dense"),
    "falcon": ("self_attention", "mlp", "self_attention.dense"),
}
for name in ("gemma3", "vaultgemma", "olmo3", "flex_olmo", "exaone4"):
    _ADDED[name] = _ADDED["gemma2"]
_ADDED["vaultgemma"] = ("self_attn", "mlp", "self_attn.o_proj")
for name in ("gpt2_quick_gelu", "gpt2_scaled_by_layer"):
    _ADDED[name] = _ADDED["gpt2"]
_ADDED["gpt_neox_sequential"] = _ADDED["gpt_neox"]
_DEFAULT = ("self_attn", "mlp", "self_attn.o_proj")
MULTIPLIED = {"granite": 0.5}


def patched(family: str, model: Any, tokens: Tensor, point: Point, edit: Edit | None) -> tuple[Tensor, Tensor]:
    """Return the value at a point, in the shape that it has there, and the logits with `edit` applied to it."""
    caught: list[Tensor] = []

    def change(value: Tensor, scale: float = 1.0) -> Tensor:
        caught.append(value * scale)
        return value if edit is None else edit(value * scale) / scale

    def on_output(module: nn.Module, args: tuple, out: Any) -> Any:
        scale = MULTIPLIED.get(family, 1.0) if point.name in ("attn_out", "mlp_out") else 1.0
        if isinstance(out, tuple):
            return (change(out[0], scale), *out[1:])
        return change(out, scale)

    def on_input(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

    attn, mlp, projection = _ADDED.get(family, _DEFAULT)
    block: Any = None if point.layer is None else blocks_of(model)[point.layer]
    with ExitStack() as stack:
        module, into = {
            "embed": lambda: (model.get_input_embeddings(), False),
            "resid_pre": lambda: (block, True),
            "resid_post": lambda: (block, False),
            "attn_out": lambda: (block.get_submodule(attn), False),
            "mlp_out": lambda: (block.get_submodule(mlp), False),
            "z": lambda: (block.get_submodule(projection), True),
            "final": lambda: (model.get_output_embeddings(), True),
        }[point.name]()
        if into:
            stack.callback(module.register_forward_pre_hook(on_input, with_kwargs=True).remove)
        else:
            stack.callback(module.register_forward_hook(on_output).remove)
        logits = model(tokens, use_cache=False).logits
    return caught[0], logits
