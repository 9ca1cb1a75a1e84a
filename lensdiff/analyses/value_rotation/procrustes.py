"""How much of a change one orthogonal map explains, and the map that two models' unembeddings share.

    R     = argmin over O(d_model) of ||A R - B|| = P V^T,  with the singular value decomposition A^T B = P S V^T
    share = 1 - ||A R - B||^2 / ||A - B||^2                in [0, 1]; 0 for no change

Vectors are rows and are not centred: a map of the stream turns it about its origin.

Reference: Schönemann, Psychometrika 31, 1966 (the orthogonal Procrustes problem).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.models import ModelView

ROWS = 4096  # unembedding rows in float64 at a time


def best_map(product: Float[Tensor, "d_model d_model"]) -> Float[Tensor, "d_model d_model"]:
    """Return the orthogonal R that brings A R nearest to B, from the product A^T B."""
    left, _, right = torch.linalg.svd(product)
    return left @ right


def explained_share(base: Float[Tensor, "row d_model"], tuned: Float[Tensor, "row d_model"]) -> float:
    """Return the share of the squared change from base to tuned that one orthogonal map explains; 0 for no change."""
    change = float((tuned - base).norm())
    if change == 0:
        return 0.0
    # the residual itself, not a difference of norms and traces: a small change would drown in rounding
    left = float((base @ best_map(base.T @ tuned) - tuned).norm())
    return max(0.0, 1.0 - (left / change) ** 2)  # no map at all explains 0, so less is rounding


def shared_map(
    base: ModelView, other: ModelView, ids: tuple[Int[Tensor, " shared"], Int[Tensor, " shared"]]
) -> Float[Tensor, "d_model d_model"] | None:
    """Return the orthogonal map Q that brings the base's unembedding nearest to the other's, U Q ~ U'.

    U are the columns of W_U as rows, of the tokens `ids` (in the base, in the other), times the final norm's gain.
    None where the unembeddings are equal, or turned by no more than rounding to their dtype.
    """
    if torch.equal(base.weights.W_U, other.weights.W_U):
        return None
    product = torch.zeros(base.d_model, base.d_model, dtype=torch.float64)
    for mine, theirs in zip(*(side.split(ROWS) for side in ids), strict=True):
        product += _unembedding(base, mine).T @ _unembedding(other, theirs)
    found = best_map(product)
    eps = max(torch.finfo(view.dtype).eps for view in (base, other))
    away = float((found - torch.eye(base.d_model, dtype=torch.float64)).norm())
    return None if away <= eps * base.d_model**0.5 else found


def _unembedding(view: ModelView, ids: Int[Tensor, " token"]) -> Float[Tensor, "token d_model"]:
    rows, gain = view.weights.W_U[:, ids.to(view.device)].T.cpu().double(), view.weights.gain("final")
    return rows if gain is None else rows * gain.cpu().double()
