"""Random models that take as long as a checkpoint's would, made of its config alone: for estimates.

A stand-in has the checkpoint's architecture and vocabulary, a few layers instead of all, and where these are large,
narrower ones: `narrower` divides d_model, the heads and d_mlp alike, and the heads stay as wide as they are. Its
numbers are one block of noise again and again, its gains 1, its biases 0. The stand-in of a tuned model differs from
its base in what the tuned model's files say that it changed: an adapter's modules by its rank, else every weight.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor
from transformers import AutoModelForCausalLM

from lensdiff.models.loading.headers import D_MLP
from lensdiff.models.loading.opening import EMPTY_OPTIONS
from lensdiff.models.loading.stumbles import at_the_door

SHIFT = 4099  # by which the noise of a tensor begins after that of the one before
BLOCK = 2**18  # random numbers that are drawn; what is larger repeats them
SCALE, CHANGE = 0.02, 1e-3  # standard deviation of a weight, and of its change


def reduced(config: Any, n_layers: int, *, narrower: int = 1, d_vocab: int | None = None) -> Any:
    """Return a config of fewer and narrower layers, and of a smaller vocabulary where one is given."""
    found = copy.deepcopy(config)
    text = found.get_text_config()
    whole = int(text.num_hidden_layers)
    for key, value in vars(text).copy().items():
        if isinstance(value, list | tuple) and len(value) == whole and not key.startswith("_"):
            setattr(text, key, list(value)[:n_layers])
    text.num_hidden_layers = n_layers
    if d_vocab is not None and d_vocab < text.vocab_size:
        text.vocab_size = d_vocab
        text.pad_token_id = None  # beyond the rows, it would be none
    if narrower > 1:
        _narrow(text, narrower)
    return found


def _narrow(text: Any, by: int) -> None:
    heads, own = int(text.num_attention_heads), int(getattr(text, "num_key_value_heads", None) or 0)
    d_head = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    groups = max(1, (own or heads) // by)
    text.hidden_size = max(d_head, int(text.hidden_size) // by // d_head * d_head)
    text.num_attention_heads = groups * (heads // (own or heads))
    if not getattr(text, "head_dim", None):  # heads are as wide as the model allows
        text.num_attention_heads = text.hidden_size // d_head
        groups = min(groups, text.num_attention_heads)
        while text.num_attention_heads % groups:
            groups -= 1
    if own:
        text.num_key_value_heads = groups
    for name in D_MLP:
        if isinstance(value := getattr(text, name, None), int):
            setattr(text, name, max(1, value // by))


def random_model(config: Any, dtype: torch.dtype, name: str) -> Any:
    """Return a `transformers` model of a config with random weights.

    Raises:
        InputError: `transformers` makes none of it; `name` is what its checkpoint is called.
    """
    with at_the_door(f"cannot load {name}"), init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, **EMPTY_OPTIONS)
    block = _noise(0)
    # each begins elsewhere: two of a shape are not the same
    state = {
        key: _filled(key, value, block.roll(SHIFT * n)) for n, (key, value) in enumerate(model.state_dict().items())
    }
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    return model.eval().requires_grad_(True)


def changed(model: Any, modules: Mapping[str, int | None] | None) -> Any:
    """Return a copy of a random model with the change of a tuned one.

    Args:
        modules: the names of the modules that change, each with the rank of its change (None: a full one); None for
            all of them.
    """
    found = copy.deepcopy(model)
    with torch.no_grad():
        for number, (key, parameter) in enumerate(found.named_parameters()):
            rank = None
            if modules is not None:
                module = key.removesuffix(".weight")
                if module not in modules:
                    continue
                rank = modules[module]
            parameter.add_(_change(parameter, rank, number))
    return found


def _change(like: Tensor, rank: int | None, number: int) -> Tensor:
    if rank is None or like.ndim != 2 or rank >= min(like.shape):
        return CHANGE / SCALE * _repeated(like, _noise(1 + number))
    left, right = (
        _repeated(torch.empty(size, rank), _noise(seed + number)) for size, seed in zip(like.shape, (1, 2), strict=True)
    )
    return (left @ right.T).to(like) * (CHANGE / SCALE**2)


def _noise(seed: int) -> Tensor:
    return SCALE * torch.randn(BLOCK + 1, generator=torch.Generator().manual_seed(seed))


def _filled(key: str, like: Tensor, block: Tensor) -> Tensor:
    if not like.is_meta:
        return like  # a buffer, which the model has computed
    if like.ndim > 1:
        return _repeated(like, block)
    fill = torch.zeros if key.endswith("bias") else torch.ones
    return fill(like.shape, dtype=like.dtype)


def _repeated(like: Tensor, block: Tensor) -> Tensor:
    # an odd number of different ones: rows of a matrix, whose length is even, are not each other's copies
    times = -(-like.numel() // len(block))
    return block.repeat(times)[: like.numel()].reshape(like.shape).to(like.dtype)
