"""Which attention is cut: queries, keys and layers, and the other tokens that are cut for comparison.

    response   queries from the prompt's last token on, which predicts the response's first
    after      also every query of the prompt that stands behind a key and is none itself, so that nothing comes
               through other prompt tokens

A query keeps itself, unless it is the prompt's last token and one of the keys. One that would be left with nothing (the
whole prompt is cut, or all that a sliding window shows of it) keeps itself too.
"""

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensdiff.analyses.knock_out.defaults import WINDOWS
from lensdiff.models.layers import chosen_indices
from lensdiff.results import InputError

CUTS = ("response", "after")
SWEEP = "windows"


class Condition(NamedTuple):
    """One way to cut.

    Attributes:
        cut: "response" or "after".
        window_first, window_last: the layers in which it is cut.
        first: whether token 0 is cut too, where the instruction holds it.
    """

    cut: str
    window_first: int
    window_last: int
    first: bool

    def __str__(self) -> str:
        """Return it in words: `response, layers 0 to 3, token 0 too`."""
        one, last = self.window_first, self.window_last
        layers = f"layer {one}" if one == last else f"layers {one} to {last}"
        return f"{self.cut}, {layers}{', token 0 too' if self.first else ''}"


def cut_mask(keys: Bool[Tensor, " pos"], last: int, cut: str) -> Bool[Tensor, "query_pos key_pos"]:
    """Return where attention is cut.

    Args:
        keys: the tokens that are not to be seen, all of the prompt.
        last: the position of the prompt's last token.
    """
    place = torch.arange(len(keys), device=keys.device)
    queries = place >= last
    if cut == "after":
        queries = queries | ~keys
    return queries[:, None] & keys & (place <= place[:, None])


def cut_scores(
    scores: Float[Tensor, "batch head_index query_pos key_pos"],
    cut: Bool[Tensor, "batch query_pos key_pos"],
    last: Int[Tensor, " batch"],
) -> Float[Tensor, "batch head_index query_pos key_pos"]:
    """Return attention scores with -inf where they are cut.

    Args:
        last: each prompt's last token: the one query that may be left with nothing, and then goes on seeing itself.
    """
    left = scores.masked_fill(cut[:, None], -torch.inf)
    rows = torch.arange(len(last), device=last.device)
    # hidden keys are -inf or the smallest number, by the wrapper
    blind = ~(left[rows, :, last] > torch.finfo(scores.dtype).min / 2).any(dim=-1)
    left[rows, :, last, last] = torch.where(blind, scores[rows, :, last, last], left[rows, :, last, last])
    return left


def sweep(n_layers: int) -> tuple[tuple[int, int], ...]:
    """Return windows (first, last) of about a sixth of the layers, one layer at least; each layer is in one."""
    n = min(WINDOWS, n_layers)
    ends = [round(i * n_layers / n) for i in range(n + 1)]
    return tuple((start, end - 1) for start, end in pairwise(ends))


def chosen_windows(layers: Sequence[int] | str | None, n_layers: int) -> tuple[tuple[int, int], ...]:
    """Return the windows that are asked for: one of all layers (None), one of consecutive layers, or the sweep.

    Raises:
        InputError: no such layers, or layers with gaps.
    """
    if layers == SWEEP:
        return sweep(n_layers)
    if isinstance(layers, str):
        raise InputError(f"layers={layers!r} given, expected None, a list of layers or {SWEEP!r}")
    found = sorted(chosen_indices(layers, range(n_layers), "layers"))
    if found[-1] - found[0] >= len(found):
        raise InputError(f"layers={found} has gaps, expected a window of consecutive layers, or {SWEEP!r}")
    return ((found[0], found[-1]),)


def drawn(others: Sequence[int], n: int, *, draws: int, seed: str) -> list[tuple[int, ...]]:
    """Return draws of n of the other tokens, each in order; none where there are fewer than n."""
    chance = random.Random(seed)
    return [tuple(sorted(chance.sample(others, n))) for _ in range(draws)] if len(others) >= n else []
