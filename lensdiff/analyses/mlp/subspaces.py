"""Angles between directions and between subspaces, accurate also where they are tiny.

    principal angles   theta_i in [0, pi/2] between span(A) and span(B): cos theta_i = singular values of A B^T,
                       sin theta_i = singular values of B - B A^T A; the sine is used below 45 degrees, the cosine above
    of directions      2 asin(|u - v| / 2), v turned to the side of u: [0, pi/2]
    matching           the assignment of rows to rows with the largest sum of |u . v|

An arccosine alone would turn rounding errors into angles: 1e-3 in float32, 1e-8 in float64.
Reference: Bjorck and Golub, Math. Comput. 27, 1973; Knyazev and Argentati, SIAM J. Sci. Comput. 23, 2002.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor


class Matching(NamedTuple):
    """For each row of the first set the row of the second that it is matched with, and the angle between them."""

    index: Int[Tensor, " row"]
    angle: Float[Tensor, " row"]


def principal_angles(
    base: Float[Tensor, "row d_model"], other: Float[Tensor, "row d_model"], ranks: Sequence[int]
) -> Float[Tensor, "rank angle"]:
    """Return, for each rank r, the r angles between the spans of the first r rows in radians, smallest first, then NaN.

    Rows need not be exactly orthonormal, but independent; the second axis has the largest rank's length.
    """
    most = max(ranks)
    a, b = (torch.linalg.qr(rows[:most].double().T).Q.T for rows in (base, other))
    angles = torch.full((len(ranks), most), torch.nan, dtype=torch.float64, device=base.device)
    for i, rank in enumerate(ranks):
        inner = b[:rank] @ a[:rank].T
        cosine = torch.linalg.svdvals(inner).clamp(max=1.0)
        sine = torch.linalg.svdvals(b[:rank] - inner @ a[:rank]).flip(0).clamp(max=1.0)
        angles[i, :rank] = torch.where(cosine**2 >= 0.5, sine.asin(), cosine.acos())
    return angles


def direction_angles(base: Float[Tensor, "row d_model"], other: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
    """Return the angle between each row of the one and of the other in radians, whichever way they point."""
    u, v = (torch.nn.functional.normalize(rows.double(), dim=1) for rows in (base, other))
    nearer = torch.minimum((u - v).norm(dim=1), (u + v).norm(dim=1))
    return 2 * (nearer / 2).asin()


def matched(base: Float[Tensor, "row d_model"], other: Float[Tensor, "row d_model"]) -> Matching:
    """Match every row of the base with another row of the other, so that the sum of |cosine| is largest."""
    cosine = (base.double() @ other.double().T).abs()
    index = torch.from_numpy(linear_sum_assignment(cosine.cpu().numpy(), maximize=True)[1]).to(base.device)
    return Matching(index, direction_angles(base, other[index]))
