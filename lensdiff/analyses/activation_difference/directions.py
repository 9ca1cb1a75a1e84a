"""Directions to intervene with: the difference of one place, and those that stand beside it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.analyses.activation_difference.words import unit
from lensdiff.analyses.attribute.targets import one_token
from lensdiff.inputs.spans import shorten
from lensdiff.models import ModelView
from lensdiff.models.pair import ModelPair
from lensdiff.results import InputError

DIFFERENCE, TUNED_MEAN = "difference", "tuned mean"  # of a place
BY_BASE = "difference, base's head"
READINGS = (DIFFERENCE, BY_BASE, TUNED_MEAN)  # what is read for words
NONE, RANDOM = "none", "random vector"
N_TARGETS = 5  # words of the difference whose probability is measured, unless others are named


class Directions(NamedTuple):
    """The directions of one place.

    Attributes:
        layer: whose entering stream they are of.
        named: the difference first, then those beside it.
        length: mean length of the tuned model's stream there.
        targets: ids, in the tuned model, of the words that the difference speaks for.
    """

    layer: int
    named: Mapping[str, Float[Tensor, " d_model"]]
    length: float
    targets: Int[Tensor, " k"]

    @property
    def difference(self) -> Float[Tensor, " d_model"]:
        return next(iter(self.named.values()))

    def units(self) -> Iterator[tuple[str, int, Float[Tensor, " d_model"]]]:
        """Yield name, draw (0) and direction of length 1."""
        for name, vector in self.named.items():
            yield name, 0, unit(vector)

    def words(self, pair: ModelPair, side: int) -> Int[Tensor, " word"]:
        """Return the first words that the difference speaks for, in one model's ids, of those that both models have."""
        shared = pair.shared_tokens
        ids = dict(zip(shared[1].tolist(), shared[side].tolist(), strict=True))
        first = [int(token) for token in self.targets[:N_TARGETS]]
        return torch.tensor([ids[token] for token in first if token in ids], dtype=torch.int64)

    def random(self, draws: int, seed: int) -> Iterator[tuple[str, int, Float[Tensor, " d_model"]]]:
        """Yield random directions of length 1."""
        generator = torch.Generator().manual_seed(seed)
        for draw in range(draws):
            drawn = torch.randn(len(self.difference), generator=generator, dtype=torch.float64)
            yield RANDOM, draw, unit(drawn).to(self.difference.dtype)


def check_texts(name: str, given: Any) -> list[str]:
    """Return texts of a list.

    Raises:
        InputError: none is given, one twice, or one that is empty or no text.
    """
    found = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
    if not found or not all(isinstance(x, str) and x for x in found) or len(set(found)) < len(found):
        raise InputError(f"{name}={shorten(given)} given, expected at least one text, each once")
    return found


def check_choice(name: str, given: Any, choices: Sequence[str]) -> None:
    """Refuse what is none of the choices.

    Raises:
        InputError: with the choices.
    """
    if given not in choices:
        raise InputError(f"{name}={shorten(given)} is none of {', '.join(choices)}")


def token_ids(view: ModelView, tokens: Sequence[str]) -> Int[Tensor, " token"]:
    """Return the ids of texts that are one token each.

    Raises:
        InputError: one is none, or several, or has no row in the embedding.
    """
    return torch.tensor([one_token(view, text) for text in check_texts("tokens", tokens)])
