"""The passes behind patching: one that reads a model's activations, batches of patched ones, and a gradient.

A batch starts at the first layer that its rows patch, from the stream that the unpatched model has there; its first
row stays unpatched, and effects are differences from that row, which went through the same arithmetic.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.analyses.attribute.targets import Target
from lensdiff.analyses.patch.metrics import mean_of, means_of
from lensdiff.models import ModelView, Point
from lensdiff.models.aligned_text import AlignedText


@dataclass(frozen=True, eq=False)
class Activations:
    """What one model has on a text.

    Attributes:
        at: by point, [pos, ...] as `points` has them without the batch.
        score: the metric.
    """

    at: Mapping[Point, Tensor]
    score: float


class Reader(NamedTuple):
    """A model that reads a text as one of a pair's models does, and what is measured on it."""

    view: ModelView
    ids: Int[Tensor, " pos"]
    said: Int[Tensor, " out_pos"]
    first: int
    target: Target

    @classmethod
    def of(cls, view: ModelView, text: AlignedText, side: str, target: Target) -> "Reader":
        """Return a model that reads the text in the ids of one side."""
        said = text.said[side].to(view.device)
        return cls(view, text.ids[side].to(view.device), said, text.first, target)

    def scores(self, hidden: Float[Tensor, "row pos d_model"]) -> Float[Tensor, " row"]:
        """Return the metric of each row from the unembedding's input; only where the response is predicted."""
        return means_of(self.target, self.view.forward.unembed(hidden[:, self.first :]), self.said)


class Part(NamedTuple):
    """A piece of a row: what stands at some positions of a point, of one head or of all, and what is put there."""

    point: Point
    head: int | None
    places: Int[Tensor, " some_pos"]
    own: Tensor
    donor: Tensor

    @property
    def differs(self) -> bool:
        return not torch.equal(self.own, self.donor)

    def put(self, value: Tensor, *, first: bool) -> None:
        """Write the donor's values into a row of a batch.

        Where nothing in front of it is patched (`first`), values that both models share are left as the batch has
        them: a model's own activation changes nothing, to the last bit.
        """
        index = (self.places,) if self.head is None else (self.places, self.head)
        new = torch.where(self.own != self.donor, self.donor, value[index]) if first else self.donor
        value[index] = new


Row = tuple[Part, ...]


def part_of(
    point: Point, head: int | None, places: Int[Tensor, " some_pos"], own: Activations, donor: Activations
) -> Part:
    """Return what one model has at a point beside what is put there from another."""
    mine, theirs = own.at[point], donor.at[point]
    places = places.to(mine.device)
    index = (places,) if head is None else (places, head)
    return Part(point, head, places, mine[index], theirs[index].to(mine.device, mine.dtype))


@torch.no_grad()
def read(reader: Reader, points: Iterable[Point]) -> Activations:
    """Return what a model has at some points, and its metric, from one pass."""
    wanted = list(dict.fromkeys(points))
    found = reader.view.forward.run(reader.ids[None], read=[*wanted, Point("final")], until=Point("final"))
    return Activations({point: found[point][0] for point in wanted}, float(reader.scores(found[Point("final")]).item()))


def patched(
    reader: Reader, own: Activations, rows: Sequence[Row], *, max_bytes: int, skip: bool = True
) -> Float[Tensor, " row"]:
    """Return how far each row's patches move the metric, in float64 on the CPU.

    Args:
        own: of the model that is patched, with `resid_pre` of every layer that a row starts at.
        rows: each is one pass, whose parts are all put in.
        max_bytes: of a batch's activations and logits; one row at least is run.
        skip: rows that put in what is there already are not run: their effect is 0.
    """
    found = torch.zeros(len(rows), dtype=torch.float64)
    by_start: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        if not skip or any(part.differs for part in row):
            by_start.setdefault(min(part.point.layer or 0 for part in row), []).append(i)
    at_once = max(1, max_bytes // _bytes(reader) - 1)
    for start, all_of_it in sorted(by_start.items()):
        for i in range(0, len(all_of_it), at_once):
            some = all_of_it[i : i + at_once]
            found[some] = _batch(reader, own, [rows[j] for j in some], start)
    return found


def _bytes(reader: Reader) -> int:
    """Return about what one row of a batch holds at a time: a layer's activations and patterns, and its logits."""
    view, n = reader.view, len(reader.ids)
    held = n * (12 * view.d_model + 3 * view.d_mlp) + 3 * view.n_heads * n**2 + 3 * len(reader.said) * view.d_vocab
    return held * max(4, view.dtype.itemsize)


@torch.no_grad()
def _batch(reader: Reader, own: Activations, rows: Sequence[Row], start: int) -> Float[Tensor, " row"]:
    """Return the effects of rows that start at one layer, less the unpatched row before them."""
    entrance, n = Point("resid_pre", start), len(rows) + 1
    parts: dict[Point, list[tuple[int, Part, bool]]] = {entrance: []}
    for i, row in enumerate(rows, start=1):
        for part in row:
            parts.setdefault(part.point, []).append((i, part, len(row) == 1))

    def writing(point: Point) -> Callable[[Tensor], Tensor]:
        def write(value: Tensor) -> Tensor:
            new = own.at[point].expand(n, -1, -1).clone() if point == entrance else value.clone()
            for i, part, first in parts[point]:
                part.put(new[i], first=first)
            return new

        return write

    hidden = reader.view.forward.run(
        reader.ids.expand(n, -1),
        read=[Point("final")],
        write={point: writing(point) for point in parts},
        start=entrance,
        until=Point("final"),
    )[Point("final")]
    scores = reader.scores(hidden)
    return scores[1:] - scores[0]


def estimated(reader: Reader, rows: Sequence[Row]) -> Float[Tensor, " row"]:
    """Return the first-order estimate of each row's effect: gradient times difference, summed, from one backward pass.

    It is the effect where the metric is linear in what is patched; nothing says how far off it is elsewhere.
    """
    points = list(dict.fromkeys(part.point for row in rows for part in row))
    forward = reader.view.forward
    # what is written is the leaf or the copy that the rest is computed from: a view that is only read may not be
    write: dict[Point, Callable[[Tensor], Tensor]] = dict.fromkeys(points, torch.clone)
    with torch.enable_grad(), forward.frozen():
        found = forward.run(
            reader.ids[None],
            read=[*points, Point("final")],
            write=write | {Point("embed"): lambda value: value.detach().clone().requires_grad_()},
            until=Point("final"),
        )
        logits = forward.unembed(found[Point("final")][0, reader.first :])
        score = mean_of(reader.target, logits.to(torch.promote_types(logits.dtype, torch.float32)), reader.said)
        values = [found[point] for point in points]
        gradients = torch.autograd.grad(score, values, allow_unused=True)
    slopes = dict(zip(points, gradients, strict=True))

    def of(part: Part) -> float:
        slope = slopes[part.point]
        if slope is None:
            return 0.0
        index = (part.places,) if part.head is None else (part.places, part.head)
        return float((slope[0][index].double() * (part.donor - part.own).double()).sum())

    return torch.tensor([sum(of(part) for part in row) for row in rows], dtype=torch.float64)
