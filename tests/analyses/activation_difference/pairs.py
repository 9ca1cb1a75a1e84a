"""Tiny pairs whose difference is known, and texts of several lengths."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lensdiff.models import ModelPair, load_pair, view_of
from lensdiff.models.inside.wrappers import HookedTransformer
from tests.checkpoints import TEXT, hf_model, tokenizer_of

NO_HOOKED = pytest.mark.skipif(HookedTransformer is None, reason="this transformer-lens has no HookedTransformer")
WRAPPERS = ["bridge", pytest.param("hooked", marks=NO_HOOKED)]
FAMILIES = ("llama", "gpt2", "gpt_neox", "gemma2", "olmo2")
OPTIONS: dict[str, Any] = {"device": "cpu", "verify": False, "dtype": "float64"}
TEXTS = [*TEXT, "Good morning.", "a", "The moon and the sea"]
PLANTED = 1  # the layer that the planted direction enters


def pair_of(base: Any = None, tuned: Any = None, *, bos: bool = False, **options: Any) -> ModelPair:
    sides = (
        hf_model("llama", dtype=torch.float64) if base is None else base,
        hf_model("llama", seed=1, dtype=torch.float64) if tuned is None else tuned,
    )
    given: dict[str, Any] = {"tokenizer": tokenizer_of(bos)} | OPTIONS | options
    return load_pair(*sides, **given)


def own_token(W_U: Tensor) -> int:
    """A token whose own product with W_U is the largest of its row, by the most."""
    products = W_U.T @ W_U
    own = products.diagonal().clone()
    products.fill_diagonal_(-torch.inf)
    return int((own / products.amax(dim=1)).argmax())


def planted(wrapper: str, size: float = 3.0) -> tuple[ModelPair, Tensor, int]:
    """A pair that differs by c W_U[:, t] / gain in the bias that the first layer's MLP adds; that, and the token t."""
    base, tuned = (hf_model("llama", dtype=torch.float64, mlp_bias=True) for _ in range(2))
    W_U, gain = base.lm_head.weight.detach().T, base.model.norm.weight.detach()
    token = own_token(W_U)
    added = size * W_U[:, token] / gain
    with torch.no_grad():
        for model in (base, tuned):
            for layer in model.model.layers:
                layer.mlp.up_proj.bias.zero_()
                layer.mlp.gate_proj.bias.zero_()
                layer.mlp.down_proj.bias.zero_()
    if wrapper == "bridge":
        tuned.model.layers[PLANTED - 1].mlp.down_proj.bias.data += added
        return pair_of(base, tuned, wrapper=wrapper), added, token
    plain = [hf_model("llama", dtype=torch.float64) for _ in range(2)]  # a HookedTransformer has biases of its own
    for model in plain:
        model.load_state_dict({name: value for name, value in base.state_dict().items() if "bias" not in name})
    pair = pair_of(*plain, wrapper=wrapper)
    pair.tuned.blocks[PLANTED - 1].mlp.b_out.data += added
    assert view_of(pair.tuned).weights.W_U.shape == W_U.shape
    return pair, added, token
