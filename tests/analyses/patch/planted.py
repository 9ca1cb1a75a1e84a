"""Pairs whose difference lies in one place, and what a loop of whole passes finds."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch

from lensdiff.inputs import Prompt
from lensdiff.models import ModelPair, Point, load_pair, view_of
from lensdiff.models.aligned_text import align_text
from lensdiff.models.response import Response
from tests.checkpoints import hf_model, tokenizer_of

OPTIONS: dict[str, Any] = {"device": "cpu", "verify": False, "dtype": "float64"}
PROMPT = Prompt("Write a short poem about the moon and the sea", ["Write a short poem"], ["the moon"], id="poem")
RESPONSE = "Apples and bananas, good morning."
LAYERS, HEADS, D_HEAD = 2, 4, 8
Edit = Callable[[Any], None]


def pair_of(edit: Edit | None = None, *, tuned_seed: int = 1, family: str = "llama", **options: Any) -> ModelPair:
    """A base, and the same with an edit; without one another random model."""
    dtype = torch.float32 if options.get("dtype") == "float32" else torch.float64
    base = hf_model(family, dtype=dtype)
    tuned = hf_model(family, seed=tuned_seed, dtype=dtype) if edit is None else deepcopy(base)
    if edit is not None:
        with torch.no_grad():
            edit(tuned)
    given: dict[str, Any] = {"tokenizer": tokenizer_of(True)} | OPTIONS | options
    return load_pair(base, tuned, **given)


def changed_head(layer: int, head: int, *, matrix: str = "q_proj", size: float = 100.0) -> Edit:
    """Another W_Q (or a key-value head's W_K, W_V) of one head."""

    def edit(model: Any) -> None:
        weight = getattr(model.model.layers[layer].self_attn, matrix).weight
        rows = slice(head * D_HEAD, (head + 1) * D_HEAD)
        noise = torch.randn(weight[rows].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        weight[rows] += (size * noise * weight.std()).to(weight.dtype)

    return edit


def changed_mlp(layer: int, size: float = 4.0) -> Edit:
    """Another W_out of one layer."""

    def edit(model: Any) -> None:
        weight = model.model.layers[layer].mlp.down_proj.weight
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        weight += (size * noise * weight.std()).to(weight.dtype)

    return edit


def whole_pass(
    pair: ModelPair,
    into: str,
    point: Point,
    head: int | None,
    places: list[int] | None = None,
    *,
    said: str | Response = RESPONSE,
) -> float:
    """The effect by two whole passes of the patched model, and nothing of the analysis."""
    text = align_text(pair, PROMPT, said, max_new_tokens=1, prepend_bos=None)
    other = "tuned" if into == "base" else "base"
    own, donor = view_of(getattr(pair, into)), view_of(getattr(pair, other))
    index = slice(None) if places is None else places

    def score(logits: torch.Tensor) -> float:
        log_probs = logits[0, text.first :].double().log_softmax(dim=-1)
        return float(log_probs.gather(-1, text.said[into][:, None]).mean())

    with torch.no_grad():
        given = donor.forward.run(text.ids[other][None], read=[point])[point]

        def write(value: torch.Tensor) -> torch.Tensor:
            value = value.clone()
            if head is None:
                value[:, index] = given[:, index]
            else:
                value[:, index, head] = given[:, index, head]
            return value

        clean = own.forward.logits(text.ids[into][None])
        logits = own.forward.run(text.ids[into][None], read=[Point("logits")], write={point: write})[Point("logits")]
    return score(logits) - score(clean)
