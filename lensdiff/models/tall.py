"""Norms and singular values of the change of a large matrix, which comes to float64 some rows at a time.

A matrix with more columns than rows is taken by its columns. With blocks D_1, D_2, ... of the change's rows, the sum of
D_k^T D_k is D^T D, from which `spectrum` has D's singular values. Where these are not exact enough D is read once more:
R_k is the triangle of a QR decomposition of [R_(k-1); D_k], so R^T R = D^T D, and R has D's values to rounding.

Memory: a few blocks of LARGE entries, the product and its copy; of a second reading some squares of the smaller side.
Reference: Demmel et al., Communication-optimal parallel and sequential QR and LU factorizations, SIAM J. Sci. Comput.
2012.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.models.spectrum import add_product, values_of_product

LARGE = 2**22  # entries: 32 MiB in float64, at a time

Gains = tuple[Float[Tensor, " row"] | None, Float[Tensor, " row"] | None]


@dataclass(frozen=True)
class Moments:
    """What is known of a change when it has been read.

    Attributes:
        base, tuned, change: Frobenius norms.
        product: sum of the products of base's and tuned's entries.
        equal: whether nothing changed.
        values: the change's singular values above rounding, largest first; none where nothing changed.
    """

    base: float
    tuned: float
    change: float
    product: float
    equal: bool
    values: Float[Tensor, " rank"]


def is_large(weight: Tensor) -> bool:
    """Whether a weight, or the heads of one side by side, is a matrix to be read some rows at a time."""
    return weight.ndim > 1 and weight.numel() > LARGE and min(weight.shape) > 1


def moments(
    base: Float[Tensor, "row col"], tuned: Float[Tensor, "row col"], gains: Gains = (None, None), *, eps: float
) -> Moments:
    """Return the norms and singular values of tuned - base, with the rows of each multiplied by its gain.

    Args:
        eps: of the dtype of the coarser one, which says what rounding can have put into the change.
    """
    base_square = tuned_square = product = 0.0
    summed = None
    for before, after in _blocks(base, tuned, gains):
        base_square += _dot(before, before)
        tuned_square += _dot(after, after)
        product += _dot(before, after)
        change = after.sub_(before)
        if bool(change.any()):
            if summed is None:
                summed = change.new_zeros(change.shape[1], change.shape[1])
            add_product(summed, change)
    base_norm, tuned_norm = math.sqrt(base_square), math.sqrt(tuned_square)
    if summed is None:
        return Moments(base_norm, tuned_norm, 0.0, product, True, torch.zeros(0, dtype=torch.float64))
    change_norm = math.sqrt(float(summed.diagonal().sum()))
    values = values_of_product(
        summed,
        max(base.shape),
        eps / 2 * tuned_norm,
        lambda: torch.linalg.svdvals(_triangle(base, tuned, gains)),
    )
    return Moments(base_norm, tuned_norm, change_norm, product, False, values)


def _triangle(base: Tensor, tuned: Tensor, gains: Gains) -> Float[Tensor, "left cols"]:
    """Return R with R^T R = D^T D, the rows collected until they are as many as a QR decomposition is worth."""
    n_cols, stack, n_rows = min(base.shape), [], 0
    for before, after in _blocks(base, tuned, gains):
        stack.append(after.sub_(before))
        n_rows += len(after)
        if n_rows >= 2 * n_cols:
            stack, n_rows = [torch.linalg.qr(torch.cat(stack), mode="r").R], n_cols
    return torch.cat(stack)


def _blocks(base: Tensor, tuned: Tensor, gains: Gains) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield some rows of both in float64, new tensors; of a matrix with more columns than rows some columns as rows."""
    by_columns = base.shape[0] < base.shape[1]
    sides = (base.T, tuned.T) if by_columns else (base, tuned)
    at_once = max(1, LARGE // sides[0].shape[1])
    for first in range(0, len(sides[0]), at_once):
        rows = slice(first, first + at_once)
        before, after = (
            _scaled(side[rows], gain, rows, by_columns=by_columns) for side, gain in zip(sides, gains, strict=True)
        )
        yield before, after


def _scaled(block: Tensor, gain: Tensor | None, rows: slice, *, by_columns: bool) -> Tensor:
    block = block.cpu().to(torch.float64, copy=True, memory_format=torch.contiguous_format)
    if gain is None:
        return block
    gain = gain.cpu().double()
    return block.mul_(gain if by_columns else gain[rows, None])


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.flatten(), b.flatten()))
