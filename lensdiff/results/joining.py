"""Results of some layers each become the result of all: what is joined is read from the fields' annotations.

    an array with an axis `layer`    end to end along it
    an array with a ragged axis      end to end along it, and the field that says where its rows begin counts on
    layers                           end to end; those in the provenance's options, too
    anything else                    is the same in every part, or the parts are refused

So a new field per layer is joined where its annotation says so, and is never silently the first part's.
"""

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from lensdiff.results.errors import InputError
from lensdiff.results.fields import axes_of

T = TypeVar("T")
LAYER = "layer"


def joined(kind: type[T], parts: Sequence[T]) -> T:
    """Return the parts as one, in their order; see `Result.join`.

    Raises:
        InputError: there are no parts, they are of another kind, one that is not read layer by layer, a layer is in two
            of them, or they differ in what is not joined.
    """
    whole: Any = kind
    if not whole.layer_by_layer:
        raise InputError(f"a {kind.__name__} is not read layer by layer: its parts are no part of the whole")
    others = {type(part).__name__ for part in parts if not isinstance(part, kind)}
    if others or not parts:
        raise InputError(
            f"{', '.join(sorted(others)) or 'nothing'} given to be joined, expected parts of {kind.__name__}"
        )
    layers = _layers(parts)
    axes, changed = axes_of(kind), {"layers": layers, "provenance": _provenance(parts, layers)}
    for field in fields(whole):
        values = [getattr(part, field.name) for part in parts]
        if field.name in whole.ragged.values():
            changed[field.name] = _counted_on(values)
        elif found := [axis for axis in axes[field.name] if axis == LAYER or axis in whole.ragged]:
            changed[field.name] = torch.cat(values, dim=axes[field.name].index(found[0]))
        elif field.name not in changed:
            _check_same(kind, field.name, values)
    return replace(parts[0], **changed)  # type: ignore[type-var]


def _layers(parts: Sequence[Any]) -> tuple[int, ...]:
    layers = tuple(layer for part in parts for layer in part.layers)
    if len(set(layers)) < len(layers):
        twice = next(layer for i, layer in enumerate(layers) if layer in layers[:i])
        raise InputError(f"layer {twice} is in two of the parts that are to be joined, expected each once")
    return layers


def _provenance(parts: Sequence[Any], layers: tuple[int, ...]) -> Any:
    origins = [part.provenance for part in parts]
    recorded = [asdict(origin) for origin in origins]
    for name in recorded[0]:
        if name != "options":
            _check_same(type(parts[0]), f"provenance.{name}", [one[name] for one in recorded])
    options = [one["options"] for one in recorded]
    for name in {name: None for one in options for name in one}:
        if name != "layers":
            _check_same(type(parts[0]), f"provenance.options[{name!r}]", [one.get(name, ...) for one in options])
    told = {"layers": list(layers)} if "layers" in options[0] else {}
    return replace(origins[0], options=origins[0].options | told)


def _counted_on(starts: list[Tensor]) -> Tensor:
    """Return where rows begin, given where those of each part do; the last entry of each is its end."""
    counts = torch.cat([part.diff() for part in starts])
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _check_same(kind: type, name: str, values: Sequence[Any]) -> None:
    if not all(_same(values[0], value) for value in values[1:]):
        raise InputError(f"the parts of a {kind.__name__} have different {name}, expected the same in all of them")


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            return False
        return bool(((one == other) | (one.isnan() & other.isnan())).all())
    return type(one) is type(other) and one == other
