"""A trained change in the form in which it is kept: half precision, or low-rank factors in half precision.

It is rounded before it is first used, so that what is read from the cache equals what was made.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.models.change import RealChange, generator_for, of_norm, random_norm
from lensdiff.models.inside.parts import Weight


@dataclass(frozen=True, eq=False)
class Trained:
    """The change of every trained weight as a matrix (see `change`), before it is rescaled.

    Attributes:
        parts: by weight, the change or its two factors [row rank] and [rank col], in half precision, largest entry 1.
        scales: by weight, what the product of the parts is multiplied by.
    """

    parts: Mapping[Weight, tuple[Tensor, ...]]
    scales: Mapping[Weight, float]

    @classmethod
    def of(cls, changes: Mapping[Weight, tuple[Tensor, ...]]) -> "Trained":
        """Return changes, whole or in factors, in the form in which they are kept; those that are zero are left out."""
        parts, scales = {}, {}
        for weight, tensors in changes.items():
            largest = [float(tensor.abs().max()) for tensor in tensors]
            scale = torch.tensor(largest, dtype=torch.float64).prod().item()
            if scale > 0:
                scales[weight] = scale
                parts[weight] = tuple((t / m).half().cpu() for t, m in zip(tensors, largest, strict=True))
        return cls(parts, scales)

    def change(self, weight: Weight) -> Float[Tensor, "row col"] | None:
        """Return the change of one weight; None where training left it alone."""
        if weight not in self.parts:
            return None
        first, *second = (part.double() for part in self.parts[weight])
        return (first @ second[0] if second else first) * self.scales[weight]


class Rescaled:
    """Changes of training, each with the norm of the real one.

    A weight that training left alone gets a norm-matched change.
    """

    def __init__(self, change: RealChange, trained: Trained, kind: str, seed: int):
        self._change, self._trained, self._kind, self._seed = change, trained, kind, seed

    def __call__(self, weight: Weight, values: Tensor, shape: tuple[int, int]) -> Float[Tensor, "row col"]:
        found = self._trained.change(weight)
        if found is not None:
            for axis, size in enumerate(shape):
                if found.shape[axis] != size:  # only what both vocabularies have changes
                    rows = self._change.rows_of(weight.name)
                    assert rows is not None
                    found = found.index_select(axis, rows[0])
        if found is None or not found.any():
            return random_norm(values, shape, generator_for(self._kind, self._seed, weight))
        return of_norm(found, values)
