"""Which neuron of one feed-forward layer is which of another's: the order of neurons means nothing.

    score(i, j) = mean over a neuron's vectors of cos(base's of neuron i, other's of neuron j)

The vectors are the neuron's keys (columns of W_in, and of W_gate where there is one) and its value (its row of W_out).
Base and other are matched so that the sum of scores is as large as can be had cheaply:

1. If every neuron has moved by less than half the distance to the base's nearest other neuron, each is its own best
   match, which no assignment can better (triangle inequality). That costs no product of the two layers.
2. Else pairs that are each other's best are matched, until at most `AT_ONCE` neurons are left over.
3. Those are assigned to each other with the largest sum.

Equal scores (dead or doubled neurons) leave a neuron where it is. Memory: `ROWS` rows of the table of scores, and the
table of the neurons left over. Ignored: the keys' biases, and that a neuron's key may grow while its value shrinks.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

ROWS = 1024  # of the table of scores, at a time
AT_ONCE = 4096  # neurons that are assigned at once; the assignment's time grows with their cube
TIE = 1e-5  # squared distance that is rounding: cosines are computed in float32


def neuron_vectors(vectors: Sequence[Float[Tensor, "d_mlp d_model"]]) -> Float[Tensor, "d_mlp feature"]:
    """Return each neuron's vectors side by side, scaled so that a product of two neurons is their score.

    A vector of zeros stays zero: its cosine with any other is 0.
    """
    scale = len(vectors) ** -0.5
    return torch.cat([torch.nn.functional.normalize(v.float(), dim=1) * scale for v in vectors], dim=1)


def gaps(base: Float[Tensor, "d_mlp feature"]) -> Float[Tensor, " d_mlp"]:
    """Return each neuron's distance to the nearest other one of its layer."""
    everyone, found = torch.arange(len(base)), []
    for start, squared in _distances(base, base, everyone, everyone):
        rows = torch.arange(len(squared))
        squared[rows, start + rows] = torch.inf
        found.append(squared.amin(dim=1))
    return torch.cat(found).clamp(min=0.0).sqrt()


def match_neurons(
    base: Float[Tensor, "d_mlp feature"],
    other: Float[Tensor, "d_mlp feature"],
    gap: Float[Tensor, " d_mlp"] | None = None,
) -> Int[Tensor, " d_mlp"]:
    """Return, for each of the base's neurons, the other's that it is matched with.

    Args:
        base, other: of `neuron_vectors`.
        gap: the base's `gaps`, computed here unless given.
    """
    match = torch.arange(len(base))
    if bool(((base - other).norm(dim=1) < (gaps(base) if gap is None else gap) / 2).all()):
        return match
    left_base = left_other = match.clone()
    while len(left_base):
        best = _nearest(base, other, left_base, left_other)
        mutual = best.of_other[best.of_base] == torch.arange(len(left_base))
        match[left_base[mutual]] = left_other[best.of_base[mutual]]
        taken = torch.zeros(len(left_other), dtype=torch.bool).index_fill(0, best.of_base[mutual], True)
        left_base, left_other = left_base[~mutual], left_other[~taken]
        if len(left_base) <= AT_ONCE or not bool(mutual.any()):
            break
    if len(left_base):
        costs = torch.cat([d for _, d in _distances(base, other, left_base, left_other)])
        rows, columns = linear_sum_assignment(costs.double().numpy())
        match[left_base[torch.from_numpy(rows)]] = left_other[torch.from_numpy(columns)]
    return match


class _Nearest(NamedTuple):
    of_base: Int[Tensor, " left"]
    of_other: Int[Tensor, " left"]


def _nearest(base: Tensor, other: Tensor, left_base: Tensor, left_other: Tensor) -> _Nearest:
    """Return each left neuron's nearest one of the other layer, as places among those left; the first of equals."""
    of_base, of_other = [], torch.zeros(len(left_other), dtype=torch.int64)
    smallest = torch.full((len(left_other),), torch.inf)
    for start, squared in _distances(base, other, left_base, left_other):
        of_base.append(squared.argmin(dim=1))
        least, row = squared.min(dim=0)
        nearer = least < smallest
        smallest[nearer], of_other[nearer] = least[nearer], start + row[nearer]
    return _Nearest(torch.cat(of_base), of_other)


def _distances(
    base: Tensor, other: Tensor, left_base: Tensor, left_other: Tensor
) -> Iterator[tuple[int, Float[Tensor, "row left"]]]:
    """Yield the first row and the squared distances of some rows at a time; a neuron's own is less by a tie's."""
    columns = other[left_other]
    sizes = columns.square().sum(dim=1)
    for start in range(0, len(left_base), ROWS):
        ids = left_base[start : start + ROWS]
        rows = base[ids]
        squared = rows.square().sum(dim=1)[:, None] + sizes - 2 * rows @ columns.T
        yield start, squared - TIE * (ids[:, None] == left_other)
