"""The four cells: one model's blocks run on the stream that another one has at a layer.

    Y(U, L) = logit(tuned's token) - logit(base's token)

where U's whole stream [pos, d_model] enters layer k of L and L's blocks run from there, keys and values of all
positions recomputed from it; then one final norm and unembedding, the same for every cell. Y(U, U) is U itself.
k = n_layers is behind the last block, where no block is left to run.

Cost: a pass that reads each model's streams, and per layer k one of n_layers - k blocks in either direction: about
n_layers + 3 whole passes for all k. Texts of one length run together.
Memory: the streams of both models at all layers, of as many texts as fit into `max_bytes`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.models import ModelView, Point, entering
from lensdiff.models.inside.ending import behind_last
from lensdiff.results.diff import SIDES

ROWS = 16  # texts that run together
LOGIT_BYTES = 2**27  # of the logits that are held at once

Side = Callable[[str], ModelView]  # the base, or what stands in the tuned model's place


class Scored(NamedTuple):
    """A position of a text, and the ids that the two tokens have in the base and in the tuned model."""

    position: int
    base_token: tuple[int, int]
    tuned_token: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Text:
    """A text and where it is scored.

    Attributes:
        ids: by the model.
        scored: the first one at every layer, the others beside it at one.
    """

    ids: Mapping[str, Int[Tensor, " pos"]]
    scored: tuple[Scored, ...]


@dataclass(frozen=True, eq=False)
class _Batch:
    """Texts of one length, and which of all texts they are."""

    numbers: list[int]
    ids: dict[str, Int[Tensor, "text pos"]]
    scored: list[tuple[int, Scored]]  # with the row, row after row

    def at(self, stream: Float[Tensor, "text pos d_model"]) -> Float[Tensor, "scored d_model"]:
        """Return what stands at the scored positions, on the CPU."""
        rows, positions = [row for row, _ in self.scored], [scored.position for _, scored in self.scored]
        return stream[rows, positions].cpu()


def cells(
    side: Side, texts: Sequence[Text], layers: Sequence[int], heads: Sequence[str], *, beside: int, max_bytes: int
) -> list[Float[Tensor, "head upstream late layer scored"]]:
    """Return the cells of each text, in float64, under the final norm and unembedding of each of `heads`.

    What is scored beside a text's first position is NaN at other layers than one, but for Y(U, U).

    Args:
        side: gives a model by its side; a pair may keep one at a time.
        texts: what is read, and where it is scored.
        layers: at which streams enter, 0 to n_layers.
        heads: "base", "tuned".
        beside: the place in `layers` of the one at which all positions are scored.
        max_bytes: of the streams that are held at once.

    Raises:
        InputError: a model's stream cannot be read or written.
    """
    found: list[Tensor] = [torch.empty(0)] * len(texts)
    for batches in _fitting(side("base"), texts, layers, max_bytes):
        with torch.no_grad():
            left = _streams(side, batches, layers)
            scores = torch.stack([_scores(side(head), head, batches, left, beside) for head in heads])
        at = 0
        for batch in batches:
            for row, number in enumerate(batch.numbers):
                n = sum(r == row for r, _ in batch.scored)
                found[number] = scores[..., at : at + n]
                at += n
    return found


def _fitting(view: ModelView, texts: Sequence[Text], layers: Sequence[int], max_bytes: int) -> Iterator[list[_Batch]]:
    """Yield batches of texts of one length, as many at once as fit."""
    size = len(SIDES) * (len(layers) + 1) * view.d_model * view.dtype.itemsize
    order = sorted(range(len(texts)), key=lambda n: len(texts[n].ids["base"]))
    groups: list[list[int]] = []
    for n in order:
        same = groups and len(texts[groups[-1][0]].ids["base"]) == len(texts[n].ids["base"])
        if same and len(groups[-1]) < ROWS:
            groups[-1].append(n)
        else:
            groups.append([n])
    held: list[_Batch] = []
    total = 0
    for numbers in groups:
        own = size * sum(len(texts[n].ids["base"]) for n in numbers)
        if held and total + own > max_bytes:
            yield held
            held, total = [], 0
        held.append(_batch(texts, numbers))
        total += own
    if held:
        yield held


def _batch(texts: Sequence[Text], numbers: list[int]) -> _Batch:
    some = [texts[n] for n in numbers]
    ids = {side: torch.stack([text.ids[side] for text in some]) for side in SIDES}
    return _Batch(numbers, ids, [(row, scored) for row, text in enumerate(some) for scored in text.scored])


def _streams(
    side: Side, batches: Sequence[_Batch], layers: Sequence[int]
) -> Float[Tensor, "upstream late layer scored d_model"]:
    """Return what leaves the last block of each cell at the scored positions, batch after batch."""
    entering = {name: [_entering(side(name), batch.ids[name], layers) for batch in batches] for name in SIDES}
    crossed = {
        (upstream, late): torch.cat(
            [
                _carried(side(late), batch, late, layers, stream)
                for batch, stream in zip(batches, entering[upstream], strict=True)
            ],
            dim=1,
        )
        for upstream, late in (("base", "tuned"), ("tuned", "base"))  # the tuned model is the one at hand
    }
    for name in SIDES:
        own = torch.cat([batch.at(stream[-1]) for batch, stream in zip(batches, entering[name], strict=True)])
        crossed[name, name] = repeat(own, "scored d_model -> layer scored d_model", layer=len(layers))
    return torch.stack([torch.stack([crossed[upstream, late] for late in SIDES]) for upstream in SIDES])


def _entering(
    view: ModelView, ids: Int[Tensor, "text pos"], layers: Sequence[int]
) -> list[Float[Tensor, "text pos d_model"]]:
    """Return the stream that enters each layer, and last the one that leaves the model's blocks."""
    end = Point("resid_post", view.n_layers - 1)
    points = [entering(view.n_layers, layer) for layer in layers]
    found = view.forward.run(ids.to(view.device), read=[*points, end], until=end)
    return [found[point] for point in (*points, end)]


def _carried(
    view: ModelView,
    batch: _Batch,
    side: str,
    layers: Sequence[int],
    entering: Sequence[Float[Tensor, "text pos d_model"]],
) -> Float[Tensor, "layer scored d_model"]:
    """Return what a model's blocks make of the stream that enters each layer."""
    end, ids = Point("resid_post", view.n_layers - 1), batch.ids[side].to(view.device)
    left = []
    for layer, stream in zip(layers, entering, strict=False):
        given = stream.to(view.device, view.dtype)
        if layer == view.n_layers:
            left.append(batch.at(given))
            continue
        start = Point("resid_pre", layer)
        found = view.forward.run(ids, start=start, write={start: lambda _, new=given: new}, read=[end], until=end)
        left.append(batch.at(found[end]))
    return torch.stack(left)


def _scores(
    view: ModelView,
    head: str,
    batches: Sequence[_Batch],
    streams: Float[Tensor, "upstream late layer scored d_model"],
    beside: int,
) -> Float[Tensor, "upstream late layer scored"]:
    """Return logit(tuned's token) - logit(base's token) of streams under a model's final norm and unembedding."""
    scored = [one for batch in batches for _, one in batch.scored]
    firsts = [n == 0 or b.scored[n - 1][0] != row for b in batches for n, (row, _) in enumerate(b.scored)]
    wanted = torch.tensor(firsts).expand(streams.shape[:-1]).clone()
    wanted[:, :, beside] = True
    for own in range(len(SIDES)):  # the same at every layer
        wanted[own, own] = False
        wanted[own, own, 0] = True
    which = wanted.nonzero()[:, -1]
    side = SIDES.index(head)
    more, less = (
        torch.tensor([tokens[side] for tokens in both])[which]
        for both in ([one.tuned_token for one in scored], [one.base_token for one in scored])
    )
    found = torch.full(streams.shape[:-1], torch.nan, dtype=torch.float64)
    found[wanted] = contrasts(view, streams[wanted], more, less)
    for own in range(len(SIDES)):
        found[own, own] = found[own, own, :1].clone()
    return found


def contrasts(
    view: ModelView, streams: Float[Tensor, "item d_model"], more: Int[Tensor, " item"], less: Int[Tensor, " item"]
) -> Float[Tensor, " item"]:
    """Return logit(more) - logit(less) of each stream behind the last block."""
    at_once = max(1, LOGIT_BYTES // (view.d_vocab * view.dtype.itemsize))
    found = []
    every = behind_last(view.forward, streams, "logits", at_once=at_once)
    for logits, plus, minus in zip(every, more.split(at_once), less.split(at_once), strict=True):
        rows, own = torch.arange(len(plus)), logits.cpu()
        found.append(own[rows, plus].double() - own[rows, minus].double())
    return torch.cat(found)
