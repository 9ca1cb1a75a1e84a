"""The first tokens of plain texts as both models of a pair read them, and the streams of a model over them.

Texts are read in groups of one length: nothing is padded.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.inputs.texts import FEWEST
from lensdiff.models import ModelView, Point, entering, view_of
from lensdiff.models.inside.forward import Forward
from lensdiff.models.pair import ModelPair
from lensdiff.models.text import encode_start, pieces_of
from lensdiff.results import InputError
from lensdiff.results.diff import SIDES

MAX_BYTES = 2**28  # of streams at a time
MAX_LOGITS = 2**24  # bytes of the logits that changed streams give: many short texts at once, and one long one


class Start(NamedTuple):
    """The first tokens of a text.

    Attributes:
        ids: in the base and in the tuned model, special tokens first.
        first: where the text's own tokens begin.
    """

    ids: tuple[tuple[int, ...], tuple[int, ...]]
    first: int


class Batch(NamedTuple):
    """Starts of one length: the numbers that they have among all, and their tokens by the model."""

    numbers: list[int]
    ids: tuple[Int[Tensor, "text pos"], Int[Tensor, "text pos"]]
    first: int


def starts_of(pair: ModelPair, texts: Sequence[str], n_tokens: int, prepend_bos: bool | None) -> list[Start]:
    """Return the first tokens of the texts; those that the models do not read as the same tokens are left out.

    Raises:
        InputError: fewer than two are left, with the reason of the first that is not.
    """
    found, reasons = [], []
    for place, text in enumerate(texts):
        try:
            found.append(_start(pair, text, place, n_tokens, prepend_bos))
        except InputError as error:
            reasons.append(str(error))
    if len(found) < FEWEST:
        reason = f"; {reasons[0]}" if reasons else ""
        raise InputError(f"{len(found)} of {len(texts)} texts can be read, expected at least {FEWEST}{reason}")
    if reasons:
        warnings.warn(f"{len(reasons)} of {len(texts)} texts are left out; {reasons[0]}", stacklevel=3)
    return found


def _start(pair: ModelPair, text: str, place: int, n_tokens: int, prepend_bos: bool | None) -> Start:
    views = [view_of(getattr(pair, side)) for side in SIDES]
    both = [encode_start(view, text, n_tokens, prepend_bos=prepend_bos) for view in views]
    if both[0].n_special != both[1].n_special:
        special = " and ".join(str(encoded.n_special) for encoded in both)
        raise InputError(
            f"the models put {special} special tokens in front of text {place}: positions of the one are not those of "
            "the other; give prepend_bos"
        )
    pieces = [pieces_of(view.tokenizer, own.ids[own.n_added :]) for view, own in zip(views, both, strict=True)]
    if pieces[0] != pieces[1]:
        raise InputError(f"the models read text {place} ({text[:40]!r}) as different tokens")
    return Start((both[0].ids, both[1].ids), both[0].n_special)


def batches(starts: Sequence[Start], bytes_per_token: int, max_bytes: int = MAX_BYTES) -> Iterator[Batch]:
    """Yield the starts in groups of one length, as many as fit, at least one."""
    by_length: dict[tuple[int, int], list[int]] = {}
    for i, start in enumerate(starts):
        by_length.setdefault((len(start.ids[0]), start.first), []).append(i)
    for (length, first), numbers in sorted(by_length.items()):
        at_once = max(1, max_bytes // max(1, bytes_per_token * length))
        for begin in range(0, len(numbers), at_once):
            some = numbers[begin : begin + at_once]
            base, tuned = (torch.tensor([starts[i].ids[side] for i in some]) for side in range(len(SIDES)))
            yield Batch(some, (base, tuned), first)


@torch.no_grad()
def streams(
    view: ModelView, ids: Int[Tensor, "text pos"], layers: Sequence[int]
) -> Float[Tensor, "layer text pos d_model"]:
    """Return the streams that enter layers, on the model's device."""
    points = [entering(view.n_layers, layer) for layer in layers]
    found = view.forward.run(ids, read=points, until=points[max(range(len(layers)), key=layers.__getitem__)])
    return torch.stack([found[point] for point in points])


@torch.no_grad()
def final_from(
    forward: Forward, ids: Int[Tensor, "text pos"], layer: int, stream: Float[Tensor, "text pos d_model"]
) -> Float[Tensor, "text pos d_model"]:
    """Return what the unembedding reads when a stream enters a layer in place of the model's own."""
    n_layers, final = forward.sizes.n_layers, Point("final")
    before, at = Point("resid_pre", min(layer, n_layers - 1)), entering(n_layers, layer)
    write = dict.fromkeys((before, at), lambda _: stream)
    return forward.run(ids, read=[final], write=write, start=before, until=final)[final]


def changed(
    view: ModelView,
    ids: Int[Tensor, "text pos"],
    layer: int,
    rows: Float[Tensor, "row d_model"],
    change: Callable[[Float[Tensor, "some d_model"]], Float[Tensor, "some text pos d_model"]],
) -> Iterator[tuple[slice, Float[Tensor, "some text pos d_model"]]]:
    """Yield what the unembedding reads when streams that are made of rows enter a layer: as many rows as fit at once.

    Args:
        change: makes the streams of some rows.
    """
    at_once = max(1, MAX_LOGITS // max(1, 8 * view.d_vocab * ids.numel()))
    for begin in range(0, len(rows), at_once):
        some = slice(begin, min(begin + at_once, len(rows)))
        made = change(rows[some])
        final = final_from(view.forward, ids.repeat(len(made), 1), layer, made.flatten(0, 1))
        yield some, final.unflatten(0, made.shape[:2])
