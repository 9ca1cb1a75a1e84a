"""The words that a direction of the residual stream speaks for: the lens of d and of -d.

    logit[v] = W_U[:, v] . (N(d) - N(0))         N the model's final norm with its gain, W_U its unembedding

in logits before a soft cap, times the model's own scale of logits. N(0) is what the norm's bias writes without any
stream, which is nothing of d; the unembedding's bias is left out for the same reason. d is set to a length that a
stream has, so that the norm's epsilon does not shrink a small one: the order of the words does not depend on it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.models import ModelView
from lensdiff.models.inside.ending import behind_last
from lensdiff.models.inside.meaning import LogitMap
from lensdiff.results import InputError

ROWS = 64  # directions whose logits are held at once
SIGNS = ("+", "-")


class Readings(NamedTuple):
    """The words of directions, best first, by their ids, and their logits, which are 0 for a direction of length 0."""

    ids: Int[Tensor, "sign *place k"]
    logits: Float[Tensor, "sign *place k"]


@torch.no_grad()
def read_words(
    view: ModelView,
    directions: Float[Tensor, "*place d_model"],
    lengths: Float[Tensor, "*place"],
    k: int,
) -> Readings:
    """Return the k words that directions, and their opposites, speak for.

    Args:
        lengths: that the directions are set to.

    Raises:
        InputError: the model's last stream cannot be written, or its logits are not understood.
    """
    view = view.whole()
    found, weights = view.meaning.logits, view.weights
    if not isinstance(found, LogitMap):
        raise InputError(f"the unembedding of {view.info.id} cannot be followed: {found.reason}")
    place, work = directions.shape[:-1], torch.promote_types(weights.W_U.dtype, torch.float32)
    W_U = weights.W_U.to(work)
    rows = (unit(directions) * lengths[..., None]).reshape(-1, directions.shape[-1]).to(view.device, view.dtype)
    both = torch.cat([rows, -rows, torch.zeros_like(rows[:1])])
    final = torch.cat([*behind_last(view.forward, both)]).to(work)
    written = final[:-1] - final[-1]
    k = min(k, W_U.shape[1])
    tops = [(some @ W_U * found.scale).topk(k, dim=-1) for some in written.split(ROWS)]
    ids, logits = torch.cat([top.indices for top in tops]), torch.cat([top.values for top in tops])
    shape = (len(SIGNS), *place, k)
    return Readings(ids.cpu().reshape(shape), logits.float().cpu().reshape(shape))


def unit(directions: Float[Tensor, "*place d_model"]) -> Float[Tensor, "*place d_model"]:
    """Return directions of length 1; one of length 0 stays."""
    lengths = directions.double().norm(dim=-1, keepdim=True)
    return (directions.double() / torch.where(lengths > 0, lengths, 1.0)).to(directions.dtype)


def indexed(words: Sequence[str]) -> tuple[tuple[str, ...], Int[Tensor, " word"]]:
    """Return the words, each once, and the place of each in them."""
    places = {word: i for i, word in enumerate(dict.fromkeys(words))}
    return tuple(places), torch.tensor([places[word] for word in words], dtype=torch.int64)
