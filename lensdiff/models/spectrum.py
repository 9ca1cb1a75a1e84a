"""Singular values of a change, to its numerical rank, from the product of its smaller side where that tells them.

    s_i = sqrt(l_i),   l the eigenvalues of D^T D in float64, several times as fast as a decomposition of D

With m and n the sides of D, an eigenvalue is off by at most e = (m + n) eps l_1 (measured: an eighth of it at most), so
a singular value by e / s_i, and one below sqrt(e), about 1e-6 s_1, is not known at all. That is no loss where rounding
to the weights' dtype drops the tail anyway. The product is taken at its word only where these errors

    - leave no doubt at which value the tail begins (see `above_rounding`), and
    - add up to less than 1e-6 of the sum of the values that are kept (found: 2e-11 at most);

else D itself is decomposed: the rank is always that of the exact values. In half precision that is hardly ever so, in
float32 it is where a change of low rank is large (some hundredths of the weight). Norms below 1e-125 or above 1e125,
whose squares leave the range of numbers, are decomposed too.

Reference: Weyl's inequality; Golub and Van Loan, Matrix Computations, 4th edition, section 8.6 (the product's errors).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

DROPPED = 1e-3  # at most this share of a change's norm is taken for rounding
ERROR = 1e-6  # of the sum of the kept values: what these may be off by, all together
EPS = torch.finfo(torch.float64).eps
SQUARED = 1e-250, 1e250  # in which the sum of all squares must lie
BLOCK = 512  # columns of a product at a time: what lies below its diagonal is not computed


def above_rounding(values: Float[Tensor, " value"], rounding: float) -> Float[Tensor, " rank"]:
    """Return singular values, largest first, without the tail that rounding can have made; see `singular_values`."""
    tails = values.square().flip(0).cumsum(0).flip(0).sqrt()  # the norm of all from here on
    return values[tails > min(rounding, DROPPED * float(tails[0]))]


def singular_values(change: Float[Tensor, "row col"], *, rounding: float = 0.0) -> Float[Tensor, " rank"]:
    """Return the singular values of a change down to its numerical rank, largest first; none for no change.

    Args:
        rounding: the Frobenius norm that rounding can have put into the change; so much of the tail is dropped, and at
            most 1e-3 of the whole.
    """
    if not change.any():
        return change.new_zeros(0, dtype=torch.float64)
    change = change.double()
    rows = change if change.shape[0] >= change.shape[1] else change.T
    product = rows.new_zeros(rows.shape[1], rows.shape[1])
    add_product(product, rows)
    return values_of_product(product, len(rows), rounding, lambda: torch.linalg.svdvals(change))


def add_product(into: Float[Tensor, "col col"], rows: Float[Tensor, "row col"]) -> None:
    """Add the upper triangle of rows^T rows, and of what lies below it only what is computed with it."""
    for first in range(0, rows.shape[1], BLOCK):
        into[first : first + BLOCK, first:].addmm_(rows[:, first : first + BLOCK].T, rows[:, first:])


def values_of_product(
    product: Float[Tensor, "col col"], n_rows: int, rounding: float, exact: Callable[[], Float[Tensor, " value"]]
) -> Float[Tensor, " rank"]:
    """Return the values above rounding of a change D, given the upper triangle of D^T D.

    Args:
        n_rows: of D, at least as many as columns.
        rounding: as `singular_values` takes it.
        exact: returns all singular values of D, largest first; called where the product does not tell them.
    """
    total = float(product.diagonal().sum())
    found = None
    if SQUARED[0] < total < SQUARED[1]:
        squares = torch.linalg.eigvalsh(product, UPLO="U").flip(0).clamp(min=0.0)
        found = _kept(squares, total, n_rows + len(squares), rounding)
    return above_rounding(exact(), rounding) if found is None else found


def _kept(squares: Float[Tensor, " value"], total: float, sides: int, rounding: float) -> Float[Tensor, " rank"] | None:
    """Return the values above rounding, or None where the errors of their squares leave them open."""
    n, error = len(squares), sides * EPS * float(squares[0])
    cut = min(rounding**2, DROPPED**2 * total)
    # a tail is the sum of what it has, or the whole without what comes before: the shorter one has less error
    before = torch.arange(n, dtype=torch.float64, device=squares.device)
    behind = n - before
    tails = squares.flip(0).cumsum(0).flip(0).where(behind <= before, total - (squares.cumsum(0) - squares))
    doubt = torch.minimum(behind, before) * error + sides * EPS * total * (before < behind)
    rank = int((tails > cut).sum())
    if not rank or tails[rank - 1] - doubt[rank - 1] <= cut:
        return None
    if rank < n and tails[rank] + doubt[rank] > cut:
        return None
    values = squares[:rank].sqrt()
    return values if float((error / values).sum()) <= ERROR * float(values.sum()) else None
