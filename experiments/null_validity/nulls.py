"""Pairs tuned on nothing, and pairs whose weights changed while their function did not.

Every recipe takes the base, the base's end-of-text token and a seed, and returns a change of the weights. `folded`
brings a base into the form without gains that a change of the stream's basis needs.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from experiments.null_validity.changes import Change, change_of
from experiments.null_validity.training import samples, trained
from lensdiff.results import InputError

Recipe = Callable[[PreTrainedModel, int, int], Change]
TEXTS, LENGTH = 96, 48  # of the base's own, for each pair; no more than its steps read
BATCH = 8


def distilled(
    base: PreTrainedModel, end: int, seed: int, *, steps: int, rate: float, rank: int | None = None
) -> Change:
    """The base trained on its own samples: there is nothing to learn in them."""
    texts = samples(base, n=min(TEXTS, steps * BATCH), length=LENGTH, start=end, seed=seed)
    return change_of(trained(base, list(texts), steps=steps, rate=rate, seed=seed, batch=BATCH, rank=rank), base)


def random_tokens(base: PreTrainedModel, end: int, seed: int, *, steps: int, rate: float) -> Change:
    """The base trained on tokens drawn at random, each as often as any other."""
    generator = torch.Generator().manual_seed(seed)
    texts = torch.randint(0, base.config.vocab_size, (TEXTS, LENGTH), generator=generator)
    return change_of(trained(base, list(texts), steps=steps, rate=rate, seed=seed, batch=BATCH), base)


def noise(base: PreTrainedModel, end: int, seed: int, *, size: float) -> Change:
    """Gaussian noise on every parameter, `size` of its norm."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(p.shape, generator=generator) for name, p in base.named_parameters()}
    return {name: drawn[name] * (size * p.detach().norm() / drawn[name].norm()) for name, p in base.named_parameters()}


def scaled(base: PreTrainedModel, end: int, seed: int, *, size: float) -> Change:
    """Every parameter larger or smaller by `size` of itself, at random; the same directions."""
    generator = torch.Generator().manual_seed(seed)
    signs = {n: 2 * int(torch.randint(2, (1,), generator=generator)) - 1 for n, _ in base.named_parameters()}
    return {name: p.detach() * (size * signs[name]) for name, p in base.named_parameters()}


def neurons_swapped(base: PreTrainedModel, end: int, seed: int, *, share: float) -> Change:
    """A share of each layer's neurons in another order: the function is the same."""
    model, generator = copy.deepcopy(base), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.model.layers:
            n = layer.mlp.down_proj.in_features
            some = torch.randperm(n, generator=generator)[: max(2, round(share * n))]
            order = torch.arange(n)
            order[some] = some.roll(1)
            for rows in (layer.mlp.gate_proj, layer.mlp.up_proj):
                rows.weight.copy_(rows.weight[order])
            layer.mlp.down_proj.weight.copy_(layer.mlp.down_proj.weight[:, order])
    return change_of(model, base)


def basis_changed(base: PreTrainedModel, end: int, seed: int, *, degrees: float) -> Change:
    """The stream's basis turned by a random rotation whose planes turn by up to `degrees`: the function is the same.

    Raises:
        InputError: a norm of the base has gains (see `folded`), which no rotation passes.
    """
    if any(bool((gain != 1).any()) for gain in _gains(base)):
        raise InputError("a change of the stream's basis needs a base without gains: give folded(base)")
    turn = rotation(base.config.hidden_size, degrees, torch.Generator().manual_seed(seed))
    model = copy.deepcopy(base)
    with torch.no_grad():
        reading, writing = [model.lm_head], []
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            reading += [attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj]
            writing += [attention.o_proj, mlp.down_proj]
        model.model.embed_tokens.weight.copy_(_times(model.model.embed_tokens.weight, turn))
        for linear in reading:
            linear.weight.copy_(_times(linear.weight, turn))
        for linear in writing:
            linear.weight.copy_(_times(linear.weight.T, turn).T)
    return change_of(model, base)


def _times(rows: Tensor, turn: Tensor) -> Tensor:
    return (rows.double() @ turn).float()


def rotation(size: int, degrees: float, generator: torch.Generator) -> Tensor:
    """Return a rotation in float64 whose largest angle is `degrees`, in random planes."""
    skew = torch.randn(size, size, dtype=torch.float64, generator=generator)
    skew = skew - skew.T
    largest = torch.linalg.matrix_norm(skew, ord=2)
    return torch.linalg.matrix_exp(skew * (torch.pi / 180 * degrees / largest))


def folded(base: PreTrainedModel) -> PreTrainedModel:
    """Return the base with every norm's gain multiplied into the maps that read behind it; the function is the same."""
    model = copy.deepcopy(base)
    with torch.no_grad():
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for reader in (attention.q_proj, attention.k_proj, attention.v_proj):
                reader.weight.mul_(layer.input_layernorm.weight)
            for reader in (mlp.gate_proj, mlp.up_proj):
                reader.weight.mul_(layer.post_attention_layernorm.weight)
        model.lm_head.weight.mul_(model.model.norm.weight)
        for gain in _gains(model):
            gain.fill_(1.0)
    return model


def _gains(model: PreTrainedModel) -> list[Tensor]:
    layers = model.model.layers
    per_layer = [g for layer in layers for g in (layer.input_layernorm.weight, layer.post_attention_layernorm.weight)]
    return [*per_layer, model.model.norm.weight]


NULLS: dict[str, Recipe] = {
    "self-distilled, Adam": partial(distilled, steps=40, rate=3e-4),
    "self-distilled, Adam, short and fast": partial(distilled, steps=15, rate=1e-3),
    "self-distilled, Adam, long and slow": partial(distilled, steps=60, rate=1e-4),
    "self-distilled, LoRA": partial(distilled, steps=40, rate=2e-3, rank=8),
    "random tokens, Adam": partial(random_tokens, steps=40, rate=3e-4),
    "Gaussian noise": partial(noise, size=0.03),
    "rescaled": partial(scaled, size=0.03),
    "neurons swapped": partial(neurons_swapped, share=0.02),
    "basis changed": partial(basis_changed, degrees=3.0),
}

FAST_NULLS: dict[str, Recipe] = {
    "self-distilled, Adam": partial(distilled, steps=6, rate=3e-4),
    "random tokens, Adam": partial(random_tokens, steps=6, rate=3e-4),
}
