"""Passes: the stream at the last prompt token by layer, and a response with a vector added or projected out.

Both changes are made where a layer's stream enters it, at the last prompt token and all behind it: where the response
is predicted. Effects are differences from an unchanged row of the same batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.inputs.prompts import Prompt
from lensdiff.models import ModelView, Point, entering
from lensdiff.models.pair import ModelPair
from lensdiff.models.text import encode, pieces_of
from lensdiff.models.view import view_of
from lensdiff.results import InputError
from lensdiff.results.diff import SIDES

MAX_BYTES = 2**28  # of what a batch holds

Ids = dict[str, tuple[int, ...]]  # by the side that reads them


def read_alike(pair: ModelPair, prompt: Prompt, prepend_bos: bool | None) -> Ids:
    """Return a prompt's ids in both models.

    Raises:
        InputError: they read it as different tokens, or it cannot be tokenised.
    """
    ids, pieces = {}, {}
    for side in reversed(SIDES):
        view = view_of(getattr(pair, side))
        found = encode(view, prompt, prepend_bos=prepend_bos)
        ids[side] = found.ids
        pieces[side] = (found.n_added, pieces_of(view.tokenizer, found.ids[found.n_added :]))
    if pieces["base"] != pieces["tuned"]:
        raise InputError(
            f"the models read the prompt {prompt.id or prompt.stripped[:40]!r} as different tokens: streams of the one "
            "are not those of the other"
        )
    return ids


@torch.no_grad()
def last_streams(view: ModelView, texts: Sequence[tuple[int, ...]]) -> Float[Tensor, "layer text d_model"]:
    """Return the stream at the last token where it enters each layer and behind the last one, float64 on the CPU."""
    points = [entering(view.n_layers, layer) for layer in range(view.n_layers + 1)]
    rows = []
    for ids in texts:
        found = view.forward.run(torch.tensor([ids]), read=points, until=points[-1])
        rows.append(torch.stack([found[point][0, -1].cpu().double() for point in points]))
    return torch.stack(rows, dim=1)


class Change(NamedTuple):
    """What is done with a vector: "add" it, or "project" its direction out."""

    how: str
    vector: Float[Tensor, " d_model"]

    def __call__(self, stream: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos d_model"]:
        vector = self.vector.to(stream.device, stream.dtype)
        if self.how == "add":
            return stream + vector
        size = vector @ vector
        return stream if size == 0 else stream - (stream @ vector / size)[:, None] * vector


@torch.no_grad()
def effects(
    view: ModelView, ids: Tensor, said: Tensor, first: int, layer: int, changes: Sequence[Change]
) -> Float[Tensor, " change"]:
    """Return how far each change moves the mean log-probability of the response, nats per token.

    Args:
        ids: the text without the last response token; said: the response's; first: the position that predicts it.
        layer: at which streams are changed, below n_layers.
    """
    point, found = entering(view.n_layers, layer), []
    ids, said = ids.to(view.device), said.to(view.device)
    own = view.forward.run(ids[None], read=[point], until=point)[point][0]
    held = len(ids) * (12 * view.d_model + 3 * view.d_mlp) + 3 * view.n_heads * len(ids) ** 2
    at_once = max(1, MAX_BYTES // (4 * (held + 3 * len(said) * view.d_vocab)) - 1)
    for i in range(0, len(changes), at_once):
        some = changes[i : i + at_once]
        rows = own.expand(1 + len(some), -1, -1).clone()
        for row, change in enumerate(some, start=1):
            rows[row, first:] = change(own[first:])
        hidden = view.forward.run(
            ids.expand(len(rows), -1), read=[Point("final")], write={point: lambda _, rows=rows: rows}, start=point,
            until=Point("final"),
        )[Point("final")]  # fmt: skip
        logits = view.forward.unembed(hidden[:, first:])
        log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
        score = log_probs.gather(-1, said.expand(len(rows), -1)[:, :, None])[:, :, 0].double().mean(dim=1)
        found.append((score[1:] - score[0]).cpu())
    return torch.cat(found)
