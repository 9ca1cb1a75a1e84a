"""A grid of layers and heads: how much there is to say of each, and for the chosen one its words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import pandas as pd

from lensdiff.views.fallback import table_html
from lensdiff.views.widget import Role, Widget

IGNORED = (
    "Read from weights alone: biases, positions, query-key norms and what earlier layers do to a word are left out."
)

Items = list[list[int]]  # numbers of words: of one, of a query and a key, or of these and in how many dimensions


class Block(NamedTuple):
    """Words that belong to a head: a heading, and lists beside each other."""

    title: str
    lists: list[Items]


@dataclass(frozen=True)
class SideData:
    """What stands beside the grid, one model or one direction of change.

    Attributes:
        role: its colour.
        name: its heading.
        heads: blocks of each head, layer by layer.
    """

    role: Role
    name: str
    heads: list[list[Block]]


@dataclass(frozen=True)
class HeadsData:
    """What the script of the grid is given; what has an entry per head goes layer by layer.

    Attributes:
        layers: their numbers.
        heads: their numbers.
        values: of each head, from 0 to 1, its colour.
        meaning: of the values.
        lines: a sentence for each head.
        sides: what stands beside the grid.
        words: that blocks mention.
        notes: paragraphs below.
        marked: heads with a ring, those beyond their controls; empty where none can be.
    """

    layers: Sequence[int]
    heads: Sequence[int]
    values: list[float]
    meaning: str
    lines: list[str]
    sides: list[SideData]
    words: list[str]
    notes: list[str]
    marked: Sequence[bool] = ()


@runtime_checkable
class OfHeads(Protocol):
    """A result with an entry per layer and head."""

    @property
    def layers(self) -> Sequence[int]: ...

    @property
    def heads(self) -> Sequence[int]: ...


def places(result: OfHeads) -> list[tuple[int, int]]:
    """Return where each head stands in a result's arrays, layer by layer."""
    return [(i, j) for i in range(len(result.layers)) for j in range(len(result.heads))]


def grid_widget(title: str, data: HeadsData, top: pd.DataFrame) -> Widget:
    """Return the grid; readers without scripts get a table of the foremost heads."""
    return Widget("heads", data, title, height=760, fallback=table_html(top, data.meaning))
