"""A response's log-probability with some of the prompt's tokens removed: which ones, and the passes.

To remove a token is to leave it out of the input: those behind it move up, and what is left is not tokenised again. So
does the deletion check, and so is a prompt written without a word. An embedding of zeros or of the mean in its place
would be read as a token of its own, at a place that attention still sees, and say more about that stand-in.
"""

import random
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.models import ModelView
from lensdiff.models.forced_reading import Reading, mean_log_probs
from lensdiff.models.text import Encoded
from lensdiff.results import InputError

Order = tuple[int, ...]  # places of all prompt tokens, those that are removed, or put in, first to last


class Levels(NamedTuple):
    """Mean log-probabilities of a response's tokens, nats.

    Attributes:
        deleted: without the first tokens of an order, as many as the grid says.
        inserted: with the first tokens of an order alone: n less what the grid says, from its end.
        random_deleted: as `deleted`, of random orders.
    """

    deleted: Float[Tensor, "order point"]
    inserted: Float[Tensor, "order point"]
    random_deleted: Float[Tensor, "draw point"]


def grid_of(encoded: Encoded, points: int, name: str) -> tuple[int, ...]:
    """Return how many tokens are removed at each point: evenly from none to all; all but one where no BOS is left.

    Raises:
        InputError: nothing can be removed, or nothing is predicted.
    """
    if not encoded.n_response:
        raise InputError(f"the response to prompt {name} is empty: nothing is predicted")
    most = encoded.n_prompt if encoded.n_special else encoded.n_prompt - 1
    if not most:
        raise InputError(f"prompt {name} is one token, and no BOS is before it: nothing can be removed")
    return tuple(round(most * i / (points - 1)) for i in range(points))


def order_of(weights: Float[Tensor, " in_pos"]) -> Order:
    """Return the places of tokens, the heaviest first; of equal ones the earlier first."""
    return tuple(weights.argsort(descending=True, stable=True).tolist())


def random_orders(n: int, *, draws: int, seed: str) -> list[Order]:
    """Return orders of n tokens that are drawn at random."""
    chance = random.Random(seed)
    return [tuple(chance.sample(range(n), n)) for _ in range(draws)]


def levels_of(
    view: ModelView, encoded: Encoded, orders: Sequence[Order], drawn: Sequence[Order], grid: Sequence[int]
) -> Levels:
    """Return the log-probabilities at every point of every order, in the precision of the maps that order.

    Equal texts are read once.
    """
    n = encoded.n_prompt
    deleted = [[frozenset(order[k:]) for k in grid] for order in orders]
    inserted = [[frozenset(order[: n - k]) for k in reversed(grid)] for order in orders]
    beside = [[frozenset(order[k:]) for k in grid] for order in drawn]
    kept = list(dict.fromkeys(chain.from_iterable((*deleted, *inserted, *beside))))
    found = mean_log_probs(view.widened(), [_reading(encoded, one) for one in kept])
    level = dict(zip(kept, found.tolist(), strict=True))

    def values(rows: Iterable[Sequence[frozenset[int]]]) -> Tensor:
        read = [[level[one] for one in row] for row in rows]
        return torch.tensor(read, dtype=torch.float64).reshape(len(read), len(grid))

    return Levels(values(deleted), values(inserted), values(beside))


def _reading(encoded: Encoded, kept: frozenset[int]) -> Reading:
    prompt = tuple(token for place, token in enumerate(encoded.prompt_ids) if place in kept)
    return Reading((*encoded.ids[: encoded.n_special], *prompt, *encoded.response_ids), encoded.n_response)


def area(at: Float[Tensor, "*rest point"], change: Float[Tensor, "*rest point"]) -> Float[Tensor, "*rest"]:
    """Return the area under a curve over the share of tokens, on straight lines between its points."""
    return torch.trapezoid(change, at, dim=-1)
