"""The fields of a saved result, held against what its class says of them: a file may come from anywhere.

Values have the types and arrays the axes of the class's hints; an axis has one size in all arrays, and as many layers
and sides as the result names; the rows of a ragged axis begin where one after the other can begin.
"""

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args, get_type_hints

import torch
from jaxtyping import AbstractArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from lensdiff.results.errors import InputError

NAMED = {"layer": "layers", "side": "sides"}  # an axis, and the field that says what it counts
SHOWN = 60  # characters of a value that is not of its type


@cache
def adapter(kind: Any) -> TypeAdapter:
    """Return what turns a field's values into JSON values and back; to make one takes longer than to use it."""
    return TypeAdapter(kind)


def checked_fields(kind: type, values: str, arrays: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the fields of a result of a class, from the JSON of its values and its arrays.

    Raises:
        InputError: a field is missing, unknown, or not of its type or shape.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = {name: hint for name, hint in get_type_hints(kind).items() if name in fields}
    stated = _values(values)
    if twice := sorted(stated.keys() & arrays.keys()):
        raise InputError(f"it has {twice[0][:SHOWN]} twice, as a value and as an array")
    given = {**stated, **arrays}
    required = {name for name, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    if missing := sorted(required - given.keys()):
        raise InputError(f"it has no {missing[0]}")
    if unknown := sorted(given.keys() - hints.keys()):
        raise InputError(f"it has a field {unknown[0][:SHOWN]!r}, which is none of {', '.join(sorted(hints))}")
    sizes: dict[str, int] = {}
    found = {name: _checked(name, value, hints[name], sizes) for name, value in given.items()}
    for axis, name in NAMED.items():
        if axis in sizes and name in found and len(found[name]) != sizes[axis]:
            raise InputError(f"it has {len(found[name])} {name}, but arrays of {sizes[axis]}")
    for axis, name in getattr(kind, "ragged", {}).items():
        starts, size = found[name], sizes.get(axis)
        if len(starts) < 1 or starts[0] != 0 or starts[-1] != size or bool((starts.diff() < 0).any()):
            raise InputError(f"{name} does not say where the rows of {size} entries begin")
    return found


@cache
def axes_of(kind: type) -> dict[str, tuple[str, ...]]:
    """Return the names of the axes of each field of a result's class; none where it is no array."""
    found = {}
    for name, hint in get_type_hints(kind).items():
        kinds = [getattr(one, "dim_str", "") for one in (hint, *get_args(hint)) if isinstance(one, type)]
        found[name] = tuple(next((axes for axes in kinds if axes), "").split())
    return found


def _values(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, nested too deeply
        values = None
    if not isinstance(values, dict):
        raise InputError("its values are no JSON object that can be read")
    return values


def _checked(name: str, value: Any, hint: Any, sizes: dict[str, int]) -> Any:
    """Return a field's value as its class has it; sizes of axes are put into `sizes`."""
    if isinstance(value, Tensor) and Tensor in (hint, *get_args(hint)):
        return value  # a class that states no axes
    kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and issubclass(kind, AbstractArray)]
    if isinstance(value, Tensor) or (kinds and not (value is None and type(None) in get_args(hint))):
        if not isinstance(value, Tensor) or not any(isinstance(value, kind) for kind in kinds):
            wanted = f"an array [{kinds[0].dim_str.strip()}] of its kind of number" if kinds else "no array"
            got = f"{list(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else "no array"
            raise InputError(f"{name} is {got}, expected {wanted}")
        _fit(name, value.shape, kinds[0].dim_str.split(), sizes)
        return value
    if kinds:
        return None
    try:
        return adapter(hint).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"])
        said = first["msg"].removeprefix("Input should be ").split("\n", 1)[0][: 2 * SHOWN]
        raise InputError(f"{name}{place[:SHOWN]} is not as expected: {said}") from None


def _fit(name: str, shape: torch.Size, axes: list[str], sizes: dict[str, int]) -> None:
    if len(axes) != len(shape) or not all(axis.isidentifier() for axis in axes):
        return  # of axes without names the hint alone speaks
    for axis, size in zip(axes, shape, strict=True):
        if axis != "_" and sizes.setdefault(axis, size) != size:
            raise InputError(f"{name} has {size} along the axis {axis}, other arrays have {sizes[axis]}")
