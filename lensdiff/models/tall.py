"""Norms and singular values of the change of a large matrix, which comes to float64 some rows at a time.

A matrix with more columns than rows is taken by its columns. With blocks D_1, D_2, ... of the change's rows, R_k is the
triangle of a QR decomposition of [R_(k-1); D_k]: R^T R = D^T D, so R has D's singular values, to rounding in float64.

Memory: a few blocks of LARGE entries, and the triangle. Reference: Demmel et al., Communication-optimal parallel and
sequential QR and LU factorizations, SIAM J. Sci. Comput. 2012.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

LARGE = 2**24  # entries: 128 MiB in float64

Gains = tuple[Float[Tensor, " row"] | None, Float[Tensor, " row"] | None]


@dataclass(frozen=True)
class Moments:
    """What is known of a change when it has been read once.

    Attributes:
        base, tuned, change: Frobenius norms.
        product: sum of the products of base's and tuned's entries.
        equal: whether nothing changed.
        triangle: with the change's singular values; None where nothing changed.
    """

    base: float
    tuned: float
    change: float
    product: float
    equal: bool
    triangle: Float[Tensor, "col col"] | None


def is_large(weight: Tensor) -> bool:
    """Whether a weight, or the heads of one side by side, is a matrix to be read some rows at a time."""
    return weight.ndim > 1 and weight.numel() > LARGE and min(weight.shape) > 1


def moments(base: Float[Tensor, "row col"], tuned: Float[Tensor, "row col"], gains: Gains = (None, None)) -> Moments:
    """Return the norms and the triangle of tuned - base, with the rows of each multiplied by its gain."""
    by_columns = base.shape[0] < base.shape[1]
    sides = (base.T, tuned.T) if by_columns else (base, tuned)
    n_rows, n_cols = sides[0].shape
    at_once = max(n_cols, LARGE // n_cols)
    sums, triangle, equal = [0.0, 0.0, 0.0, 0.0], None, True
    for first in range(0, n_rows, at_once):
        rows = slice(first, first + at_once)
        before, after = (
            _scaled(side[rows].cpu().double(), gain, rows, by_columns=by_columns)
            for side, gain in zip(sides, gains, strict=True)
        )
        sums[0] += float(before.square().sum())
        sums[1] += float(after.square().sum())
        sums[3] += float((before * after).sum())
        change = after.sub_(before)
        del before
        if not bool(change.any()):
            continue
        equal = False
        sums[2] += float(change.square().sum())
        stacked = change if triangle is None else torch.cat([triangle, change])
        triangle = torch.linalg.qr(stacked, mode="r").R
    base_norm, tuned_norm, change_norm = (math.sqrt(x) for x in sums[:3])
    return Moments(base_norm, tuned_norm, change_norm, sums[3], equal, triangle)


def _scaled(block: Tensor, gain: Tensor | None, rows: slice, *, by_columns: bool) -> Tensor:
    if gain is None:
        return block
    gain = gain.cpu().double()
    return block * (gain if by_columns else gain[rows, None])
