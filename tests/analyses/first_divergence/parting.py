"""Pairs that part late, and the same greedy texts and cells by `transformers` alone."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from experiments.families import blocks_of
from lensdiff.inputs import Prompt
from lensdiff.models import ModelPair, Point, load_pair
from lensdiff.models.inside.precision import double_precision
from tests.checkpoints import TEXT, hf_model, tokenizer_of
from tests.models.hf_points import patched

N_LAYERS = 4
PROMPTS = [Prompt(text, id=f"p{i}") for i, text in enumerate(TEXT)]
OPTIONS: dict[str, Any] = {"device": "cpu", "verify": False, "dtype": torch.float64}


def small(seed: int = 0, **options: Any) -> Any:
    """A Llama of four layers in double precision."""
    return hf_model("llama", seed=seed, dtype=torch.float64, num_hidden_layers=N_LAYERS, **options)


def nearby(model: Any, size: float = 0.02, seed: int = 5) -> Any:
    """The same model with every weight moved a little: it says the same for a while."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(size * parameter.std() * noise if parameter.numel() > 1 else 0)
    return other


def pair_of(base: Any, tuned: Any, **options: Any) -> ModelPair:
    return load_pair(base, tuned, **({"tokenizer": tokenizer_of(), **OPTIONS} | options))


def logits_of(model: Any, ids: Sequence[int]) -> Tensor:
    with torch.no_grad(), double_precision():
        return model(torch.tensor([list(ids)]), use_cache=False).logits[0]


def greedy_of(base: Any, tuned: Any, ids: Sequence[int], most: int) -> tuple[list[int], int, int] | None:
    """The tokens that both choose, and their first two choices that differ; None where there are none."""
    said: list[int] = []
    while len(said) < most:
        choices = [int(logits_of(model, [*ids, *said])[-1].argmax()) for model in (base, tuned)]
        if choices[0] != choices[1]:
            return said, choices[0], choices[1]
        said.append(choices[0])
    return None


def cells_of(
    family: str,
    models: Mapping[str, Any],
    head: str,
    ids: Sequence[int],
    position: int,
    layer: int,
    more: int,
    less: int,
) -> dict[str, float]:
    """The four cells by hooks on `transformers`' own modules: bb, bt, tb, tt."""
    tokens = torch.tensor([list(ids)])
    n_layers = len(blocks_of(models["base"]))
    found = {}
    with torch.no_grad(), double_precision():
        for upstream, giver in models.items():
            end = layer == n_layers
            point = Point("resid_post", n_layers - 1) if end else Point("resid_pre", layer)
            stream, _ = patched(family, giver, tokens, point, None)
            for late, runner in models.items():
                left = stream if end else _leaving(family, runner, tokens, layer, stream)
                last = Point("resid_post", n_layers - 1)
                _, logits = patched(family, models[head], tokens, last, lambda _, new=left: new)
                scores = logits[0, position]
                found[upstream[0] + late[0]] = float(scores[more] - scores[less])
    return found


def _leaving(family: str, model: Any, tokens: Tensor, layer: int, stream: Tensor) -> Tensor:
    caught: list[Tensor] = []
    handle = blocks_of(model)[-1].register_forward_hook(
        lambda module, args, out: caught.append(out[0] if isinstance(out, tuple) else out)
    )
    patched(family, model, tokens, Point("resid_pre", layer), lambda _: stream)
    handle.remove()
    return caught[0]
