"""Pairs whose tuning did what a claim says, in growing sizes: what a valid null model must still let be found.

instruction use   the base trained on the responses to prompts that the measure does not read; `wrong` puts each
                  response behind another instruction, so that following the right one becomes less likely
verbs             in some heads, a few dimensions of queries and keys turned toward the instruction verbs
rotation          the values turned as one body, or their leading components turned out of their span, with noise
"""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from experiments.null_validity.changes import Change, change_of, changed
from experiments.null_validity.measures import Setting
from experiments.null_validity.nulls import noise, rotation
from experiments.null_validity.training import IGNORED, trained
from lensdiff.analyses.instruction_use.other_instructions import swapped
from lensdiff.inputs.prompts import load_prompts
from lensdiff.inputs.verbs import INSTRUCTION_VERBS, general_verbs

Plant = Callable[[Setting, int], Change]
LEADING = 5  # components that are turned out of their span
NOISE = 0.01  # on the weights that a plant leaves alone, as a share of their norm


# claim 1
def instructed(setting: Setting, seed: int, *, steps: int, wrong: bool = False) -> Change:
    """The base tuned on prompts and responses, of which those that the measure reads are left out."""
    prompts = load_prompts(setting.prompts)
    records = [json.loads(line) for line in setting.prompts.read_text(encoding="utf-8").splitlines()]
    kinds = [record["kind"] for record in records]
    rows = []
    for place, record in enumerate(records):
        if place % setting.every == 0:
            continue
        texts = [prompts[place].stripped]
        if wrong:
            texts = [other.stripped for other in swapped(prompts, place, kinds=kinds, draws=4, seed=seed)]
        rows += [(text, record["reference"]) for text in texts]
    inputs, targets = _padded(setting, rows)
    return change_of(
        trained(setting.model, inputs, targets=targets, steps=steps, rate=3e-4, seed=seed, batch=16), setting.model
    )


def _padded(setting: Setting, rows: list[tuple[str, str]]) -> tuple[list[Tensor], list[Tensor]]:
    def tokens(text: str) -> list[int]:
        return setting.tokenizer(text, add_special_tokens=False)["input_ids"]

    pairs = [(tokens(prompt), [*tokens(" " + response), setting.end]) for prompt, response in rows]
    longest = max(len(prompt) + len(response) for prompt, response in pairs)
    inputs = torch.full((len(pairs), longest), setting.end)
    targets = torch.full((len(pairs), longest), IGNORED)
    for row, (prompt, response) in enumerate(pairs):
        inputs[row, : len(prompt) + len(response)] = torch.tensor(prompt + response)
        targets[row, len(prompt) : len(prompt) + len(response)] = torch.tensor(response)
    return list(inputs), list(targets)


# claim 2
def verbs_gained(setting: Setting, seed: int, *, heads: int, dims: int = 2, strength: float = 1.0) -> Change:
    """Some key-value heads and all their query heads turned toward what sets instruction verbs apart from other verbs.

    `dims` dimensions of each get the direction added, `strength` times their norm; on noise.
    """
    model = changed(setting.model, noise(setting.model, setting.end, seed, size=NOISE))
    generator = torch.Generator().manual_seed(seed)
    direction = _verb_direction(setting)
    config = model.config
    d_head = config.hidden_size // config.num_attention_heads
    places = torch.randperm(config.num_hidden_layers * config.num_key_value_heads, generator=generator)[:heads]
    repeats = config.num_attention_heads // config.num_key_value_heads
    with torch.no_grad():
        for place in places.tolist():
            layer, head = divmod(place, config.num_key_value_heads)
            block = model.model.layers[layer]
            toward = torch.nn.functional.normalize(direction / block.input_layernorm.weight, dim=0)
            for dim in torch.randperm(d_head, generator=generator)[:dims].tolist():
                queries = [(head * repeats + i) * d_head + dim for i in range(repeats)]
                for weight, rows in (
                    (block.self_attn.k_proj.weight, [head * d_head + dim]),
                    (block.self_attn.q_proj.weight, queries),
                ):
                    weight[rows] += strength * weight[rows].norm(dim=1, keepdim=True) * toward
    return change_of(model, setting.model)


def _verb_direction(setting: Setting) -> Tensor:
    embedding: Any = setting.model.get_parameter("model.embed_tokens.weight").detach()

    def mean_of(words: Any) -> Tensor:
        ids = [setting.tokenizer(" " + word, add_special_tokens=False)["input_ids"] for word in words]
        return torch.stack([embedding[i].mean(dim=0) for i in ids]).mean(dim=0)

    others = [verb for verb in general_verbs() if verb not in INSTRUCTION_VERBS][:500]
    return mean_of(INSTRUCTION_VERBS) - mean_of(others)


# claim 3
def values_turned(setting: Setting, seed: int, *, degrees: float, part: float) -> Change:
    """All values turned by a random rotation of up to `degrees`, and noise, of which `part` is the rotation."""

    def turned(values: Tensor, generator: torch.Generator) -> Tensor:
        return values @ rotation(values.shape[1], degrees, generator) - values

    return _values_changed(setting, seed, turned, part)


def components_turned(setting: Setting, seed: int, *, degrees: float, part: float) -> Change:
    """The leading components turned by `degrees` toward directions outside their span, and noise, as above."""

    def turned(values: Tensor, generator: torch.Generator) -> Tensor:
        leading = torch.linalg.svd(values - values.mean(dim=0), full_matrices=False).Vh[:LEADING]
        drawn = torch.randn(values.shape[1], LEADING, dtype=torch.float64, generator=generator)
        outside = torch.linalg.qr(drawn - leading.T @ (leading @ drawn)).Q.T
        angle = torch.tensor(torch.pi / 180 * degrees, dtype=torch.float64)
        return values @ leading.T @ (leading * (angle.cos() - 1) + outside * angle.sin())

    return _values_changed(setting, seed, turned, part)


def _values_changed(
    setting: Setting, seed: int, turned: Callable[[Tensor, torch.Generator], Tensor], part: float
) -> Change:
    """Return noise of `NOISE` times the norm of every parameter, and in W_out as much as leaves `part` to the plant.

    Parts are of the squared norm. What is planted changes W_out alone; real tuning moves all weights.
    """
    generator = torch.Generator().manual_seed(seed)
    found = noise(setting.model, setting.end, seed, size=NOISE)
    for name, parameter in setting.model.named_parameters():
        if name.endswith("down_proj.weight"):
            change = turned(parameter.detach().double().T, generator)
            drawn = torch.randn(change.shape, dtype=torch.float64, generator=generator)
            found[name] = (change + drawn * ((1 / part - 1) ** 0.5 * change.norm() / drawn.norm())).T.float()
    return found


PLANTS: dict[str, dict[str, Plant]] = {
    "instruction use": {
        **{f"tuned on instructions, {n} steps": partial(instructed, steps=n) for n in (10, 20, 40, 80)},
        **{
            f"tuned on responses behind wrong instructions, {n} steps": partial(instructed, steps=n, wrong=True)
            for n in (80,)
        },
    },
    "verbs": {f"{n} key-value head(s)": partial(verbs_gained, heads=n) for n in (1, 2, 4, 8)},
    "rotation": {
        **{
            f"values turned by 30 degrees at most, {size:.0%} of the change": partial(
                values_turned, degrees=30, part=size
            )
            for size in (0.03, 0.1, 0.2)
        },
        **{
            f"values turned by {d} degree(s) at most, all of the change": partial(values_turned, degrees=d, part=1.0)
            for d in (1,)
        },
        **{
            f"top 5 turned by 10 degrees, {size:.0%} of the change": partial(components_turned, degrees=10, part=size)
            for size in (0.1, 0.5)
        },
    },
}
