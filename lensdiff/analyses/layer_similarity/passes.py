"""The streams of two models on the same texts, a few texts and layers at a time, and what is summed up of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.analyses.layer_similarity.running import Products
from lensdiff.analyses.residual_stream.forced import groups
from lensdiff.models import ModelView, entering
from lensdiff.models.aligned_text import GROUPS, AlignedText

ALL = "all"
MAX_SUMS = 2**30  # bytes of running sums at a time; what does not fit costs passes
MAX_STREAMS = 2**28  # bytes of streams of one model at a time
Kind = tuple[str, ...]  # the groups that a position is in


# kernels
class Change(NamedTuple):
    """What becomes of each stream; see `measure`."""

    relative: Float[Tensor, "layer pos"]
    cosine: Float[Tensor, "layer pos"]
    distance: Float[Tensor, "layer pos"]


def change(x: Float[Tensor, "layer pos d_model"], y: Float[Tensor, "layer pos d_model"]) -> Change:
    """Return how far each y is from its x: 0, 1, 0 of equal streams, and 1, 0 where one of them is 0."""
    distance, own, other = (torch.linalg.vector_norm(part, dim=-1) for part in (y - x, x, y))
    same, nothing = distance == 0, (own == 0) | (other == 0)
    relative = torch.where(own == 0, 1.0, distance / own)
    cosine = torch.where(nothing, 0.0, (x * y).sum(dim=-1) / (own * other)).clamp(-1, 1)
    return Change(torch.where(same, 0.0, relative), torch.where(same, 1.0, cosine), distance)


# texts
@dataclass(frozen=True, eq=False)
class Text:
    """A text that both models read.

    Attributes:
        ids: by the side that reads it.
        kinds: the positions that are compared, by the groups that they are in.
    """

    prompt_id: str
    ids: Mapping[str, Int[Tensor, " pos"]]
    kinds: Mapping[Kind, Int[Tensor, " some_pos"]]

    @classmethod
    def of(cls, text: AlignedText, *, max_tokens: int | None, first: bool) -> "Text":
        """Return a text with the first response tokens alone, and position 0 only where it is asked for."""
        n = text.n_read if max_tokens is None else min(text.n_read, text.first + max_tokens)
        kinds: dict[Kind, list[int]] = {}
        for place in range(0 if first else 1, n):
            kinds.setdefault(tuple(group for group in GROUPS if place in text.groups[group]), []).append(place)
        ids = {side: own[:n] for side, own in text.ids.items()}
        return cls(text.prompt.id, ids, {kind: torch.tensor(places) for kind, places in kinds.items()})

    @property
    def n_compared(self) -> int:
        return sum(len(places) for places in self.kinds.values())


def groups_of(texts: Sequence[Text]) -> tuple[str, ...]:
    """Return the groups that any of the texts has, all positions first."""
    seen = {group for text in texts for kind in text.kinds for group in kind}
    return (ALL, *(group for group in GROUPS if group in seen))


def positions_of(texts: Sequence[Text], wanted: Sequence[str]) -> Int[Tensor, "prompt group"]:
    """Return how many positions of each group are compared."""
    return torch.tensor(
        [[sum(len(places) for kind, places in text.kinds.items() if _in(kind, group)) for group in wanted]
         for text in texts]
    )  # fmt: skip


def _in(kind: Kind, group: str) -> bool:
    return group == ALL or group in kind


# passes
@torch.no_grad()
def streams(view: ModelView, ids: Int[Tensor, " pos"], layers: Sequence[int]) -> Float[Tensor, "layer pos d_model"]:
    """Return the streams that enter layers, n_layers being what leaves the last one, in float64 on the CPU."""
    points = [entering(view.n_layers, layer) for layer in layers]
    found = view.forward.run(ids[None], read=points, until=points[-1])
    return torch.stack([found[point][0].cpu().double() for point in points])


class Sums:
    """What is summed up of some layers, by the kind of a position."""

    def __init__(self, n_texts: int, n_layers: int, d_model: int):
        self.shape = n_texts, n_layers, d_model
        self.products: dict[Kind, list[Products]] = {}
        self.shift: dict[Kind, Float[Tensor, "layer d_model"]] = {}
        self.distance: dict[Kind, Float[Tensor, " layer"]] = {}
        self.relative: dict[Kind, Float[Tensor, "prompt layer"]] = {}
        self.cosine: dict[Kind, Float[Tensor, "prompt layer"]] = {}

    def add(self, places: Sequence[int], texts: Sequence[Text], own: Sequence[Tensor], other: Sequence[Tensor]) -> None:
        """Add texts, given their places among all and their streams [layer pos d_model] in both models."""
        rows: dict[Kind, tuple[list[Tensor], list[Tensor]]] = {}
        for place, text, x, y in zip(places, texts, own, other, strict=True):
            moved = change(x, y)
            for kind, positions in text.kinds.items():
                self._begin(kind)
                xs, ys = rows.setdefault(kind, ([], []))
                xs.append(x[:, positions])
                ys.append(y[:, positions])
                self.shift[kind] += (ys[-1] - xs[-1]).sum(dim=1)
                self.distance[kind] += moved.distance[:, positions].sum(dim=1)
                self.relative[kind][place] += moved.relative[:, positions].sum(dim=1)
                self.cosine[kind][place] += moved.cosine[:, positions].sum(dim=1)
        for kind, (xs, ys) in rows.items():
            together = zip(torch.cat(xs, dim=1), torch.cat(ys, dim=1), strict=True)
            for products, (x, y) in zip(self.products[kind], together, strict=True):
                products.add(x, y)

    def _begin(self, kind: Kind) -> None:
        if kind not in self.products:
            n_texts, n_layers, d_model = self.shape
            self.products[kind] = [Products.none(d_model) for _ in range(n_layers)]
            self.shift[kind] = torch.zeros(n_layers, d_model, dtype=torch.float64)
            self.distance[kind] = torch.zeros(n_layers, dtype=torch.float64)
            for found in (self.relative, self.cosine):
                found[kind] = torch.zeros(n_texts, n_layers, dtype=torch.float64)

    def of(self, group: str) -> dict[str, Tensor]:
        """Return of a group's positions cka and mean_shift_share, [layer], and sums of the others, [prompt layer]."""
        kinds = [kind for kind in self.products if _in(kind, group)]
        ckas = []
        for layer in range(self.shape[1]):
            first, *rest = (self.products[kind][layer] for kind in kinds)
            ckas.append(sum(rest, start=first).cka())
        distance = sum_of(self.distance[kind] for kind in kinds)
        shift = torch.linalg.vector_norm(sum_of(self.shift[kind] for kind in kinds), dim=-1)
        return {
            "cka": torch.tensor(ckas, dtype=torch.float64),
            "mean_shift_share": torch.where(distance == 0, 0.0, shift / distance).clamp(max=1.0),
            "relative": sum_of(self.relative[kind] for kind in kinds),
            "cosine": sum_of(self.cosine[kind] for kind in kinds),
        }


def sum_of(tensors: Iterator[Tensor] | Sequence[Tensor]) -> Tensor:
    """Return the sum of at least one tensor."""
    return torch.stack(list(tensors)).sum(dim=0)


def compared(
    first: Callable[[], ModelView],
    second: Callable[[], ModelView],
    texts: Sequence[Text],
    sides: tuple[str, str],
    layers: Sequence[int],
) -> dict[str, Tensor]:
    """Return cka, mean_shift_share [group layer], and sums of relative, cosine [group prompt layer], of two models.

    Args:
        first, second: give a model when it is read: a pair that keeps one loads it then.
        sides: as which each of them reads the texts.
        layers: 0 to n_layers, rising.
    """
    wanted, d_model, found = groups_of(texts), first().d_model, []
    n_kinds = len({kind for text in texts for kind in text.kinds})
    for some in groups(layers, n_kinds * 3 * 8 * d_model**2, MAX_SUMS):
        sums = Sums(len(texts), len(some), d_model)
        for places in _blocks(texts, len(some) * d_model * 8):
            block = [texts[i] for i in places]
            own, other = (_read(model, side, block, some) for model, side in zip((first, second), sides, strict=True))
            sums.add(places, block, own, other)
        found.append([sums.of(group) for group in wanted])
    return {
        name: torch.stack([torch.cat([part[g][name] for part in found], dim=-1) for g in range(len(wanted))])
        for name in found[0][0]
    }


def _read(model: Callable[[], ModelView], side: str, texts: Sequence[Text], layers: Sequence[int]) -> list[Tensor]:
    view = model()  # held here alone: a pair that keeps one model lets go of it before it loads the other
    return [streams(view, text.ids[side], layers) for text in texts]


def _blocks(texts: Sequence[Text], size: int) -> Iterator[list[int]]:
    """Yield the places of texts that are read one after the other, as many as fit, at `size` bytes a position."""
    block, held = [], 0
    for place, text in enumerate(texts):
        own = size * len(text.ids["base"])
        if block and held + own > MAX_STREAMS:
            yield block
            block, held = [], 0
        block.append(place)
        held += own
    if block:
        yield block
