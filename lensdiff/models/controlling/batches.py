"""What a control is trained on: the base's own samples, or tuning data whose responses belong to other prompts."""

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from lensdiff.models.change import generator_for
from lensdiff.models.controlling.options import Pair, Recipe
from lensdiff.models.controlling.samples import own_samples
from lensdiff.models.controlling.training import Batch
from lensdiff.models.inside.parts import Weight
from lensdiff.models.text import encode
from lensdiff.models.view import ModelView
from lensdiff.results import InputError


def distilled(base: ModelView, recipe: Recipe, seed: int) -> Iterator[Batch]:
    """Yield batches of fresh samples of the base; every drawn token has a loss."""
    generator = generator_for("distilled", seed, Weight("samples"))
    samples = own_samples(base, recipe.steps * recipe.batch, recipe.length, generator)
    begun = samples.shape[1] - recipe.length  # what begins a text was not drawn
    for rows in samples.split(recipe.batch):
        following = rows[:, 1:].clone()
        following[:, : begun - 1] = -1
        yield Batch(rows[:, :-1], following)


def shuffled(base: ModelView, data: tuple[Pair, ...], recipe: Recipe, seed: int) -> Iterator[Batch]:
    """Yield batches of prompts with the responses of others; tokens of the response, its end too, have a loss.

    Raises:
        InputError: a prompt leaves no room for a response within the recipe's length.
    """
    generator = generator_for("shuffled", seed, Weight("rows"))
    given = derangement(len(data), generator).tolist()
    rows: list[tuple[list[int], int]] = [_row(base, data[i], data[given[i]], recipe) for i in range(len(data))]
    order: list[int] = []
    for _ in range(recipe.steps):
        while len(order) < recipe.batch:
            order += torch.randperm(len(rows), generator=generator).tolist()
        yield _padded([rows[i] for i in order[: recipe.batch]])
        order = order[recipe.batch :]


def derangement(n: int, generator: torch.Generator) -> Int[Tensor, " n"]:
    """Return a random permutation that leaves nothing in its place, uniform over all such."""
    while True:  # one in e is one
        found = torch.randperm(n, generator=generator)
        if not bool((found == torch.arange(n)).any()):
            return found


def _row(base: ModelView, pair: Pair, other: Pair, recipe: Recipe) -> tuple[list[int], int]:
    encoded = encode(base, pair[0], other[1])
    begun = encoded.n_special + encoded.n_prompt
    ids = [*encoded.ids, *base.info.eos_token_ids[:1]][: min(recipe.length, base.n_ctx)]
    if begun >= len(ids):
        name = pair[0].id or pair[0].stripped[:40]
        raise InputError(
            f"prompt {name!r} has {begun} tokens, which leaves none of length={recipe.length} to a response"
        )
    return ids, begun


def _padded(rows: list[tuple[list[int], int]]) -> Batch:
    longest = max(len(ids) for ids, _ in rows) - 1
    tokens, following = torch.zeros(len(rows), longest, dtype=torch.int64), torch.full((len(rows), longest), -1)
    for n, (ids, begun) in enumerate(rows):
        tokens[n, : len(ids) - 1] = torch.tensor(ids[:-1])
        following[n, begun - 1 : len(ids) - 1] = torch.tensor(ids[begun:])
    lengths = torch.tensor([len(ids) - 1 for ids, _ in rows])
    return Batch(tokens, following, (torch.arange(longest) < lengths[:, None]).long())
