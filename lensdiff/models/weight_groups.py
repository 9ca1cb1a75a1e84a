"""Groups of a model's weights by name, each weight in as many parts as anything asks for apart.

A part is one weight, or one head's share of it, and each number of a model is in exactly one part. A group is a set of
parts:

    all                    everything
    layer 3                everything of one layer, its norms and biases too
    attention              W_Q, W_K, W_V and W_O of all layers
    mlp                    W_in, W_gate and W_out of all layers
    W_Q, ..., W_out        one kind of matrix, of all layers
    embedding              W_E, W_U and W_pos; each of them by its name, W_E and W_U together where they are tied
    head 3.5               W_Q and W_O of head 5 of layer 3
    kv 3.2                 W_K and W_V of key-value head 2 of layer 3
    not NAME               everything but a group

Norm gains, biases, and what has none of these names (experts and routers of a mixture) belong to "all", to "layer"
where they stand in one, and to every "not" of a group without them.
"""

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

from lensdiff.models.inside.parts import ATTENTION, MATRICES
from lensdiff.results import InputError

EMBEDDING = ("W_E", "W_U", "W_pos")
MLP = tuple(name for name in MATRICES if name not in ATTENTION)
OF_HEADS: dict[str, tuple[str, ...]] = {"head": ("W_Q", "W_O"), "kv": ("W_K", "W_V")}
_KINDS: dict[str, tuple[str, ...]] = {
    "attention": tuple(ATTENTION),
    "mlp": MLP,
    "embedding": EMBEDDING,
    **{name: (name,) for name in (*MATRICES, *EMBEDDING)},
}


class Part(NamedTuple):
    """A weight by its name and layer, or a head's share of it."""

    name: str
    layer: int | None = None
    head_index: int | None = None


Group = frozenset[Part]


def group_of(name: str, parts: Collection[Part], *, tied: bool = False) -> Group:
    """Return the parts that a group's name stands for.

    Args:
        parts: of the model, all of them.
        tied: whether W_U is W_E.

    Raises:
        InputError: there is no such group, or there is nothing in it; with what there is.
    """
    found = _group(name, parts, tied=tied) if isinstance(name, str) else frozenset()
    if not found:
        raise InputError(f"there is no group {name!r} of weights, expected one of {', '.join(names_of(parts))}")
    return found


def _group(name: str, parts: Collection[Part], *, tied: bool) -> Group:
    kind, _, rest = name.partition(" ")
    if name == "all":
        return frozenset(parts)
    if kind == "not":
        without = _group(rest, parts, tied=tied)
        return frozenset(parts) - without if without else frozenset()
    if kind == "layer" and rest.isdecimal():
        return frozenset(part for part in parts if part.layer == int(rest))
    if kind in OF_HEADS and (place := re.fullmatch(r"(\d+)\.(\d+)", rest)):
        wanted = {Part(matrix, int(place[1]), int(place[2])) for matrix in OF_HEADS[kind]}
        return frozenset(wanted) if wanted <= set(parts) else frozenset()
    names = ("W_E", "W_U") if tied and name in ("W_E", "W_U") else _KINDS.get(name, ())
    return frozenset(part for part in parts if part.name in names)


def names_of(parts: Collection[Part]) -> list[str]:
    """Return the names of the groups that there are, heads and layers as ranges, for people."""
    found = ["all", *(name for name in _KINDS if _group(name, parts, tied=False))]
    for kind, matrices in OF_HEADS.items():
        places = sorted({part[1:] for part in parts if part.name == matrices[0] and _group_of_head(kind, part, parts)})
        found += _range(f"{kind} {layer}.{head}" for layer, head in places)
    layers = sorted({part.layer for part in parts if part.layer is not None})
    return [*found, *_range(f"layer {layer}" for layer in layers), "not NAME"]


def _group_of_head(kind: str, part: Part, parts: Collection[Part]) -> bool:
    return bool(_group(f"{kind} {part.layer}.{part.head_index}", parts, tied=False))


def _range(names: Iterable[str]) -> list[str]:
    found = list(names)
    return [f"{found[0]!s} to {found[-1]!s}"] if len(found) > 1 else found
