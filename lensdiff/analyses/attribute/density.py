"""Importance levels, importance density and the instruction score of an attribution map.

With I[n,m] the importance of prompt token n for response token m, e = `eps`:

    normalise   Q[n,m] = ceil( L * ( relu(I[n,m]) / (max_n' relu(I[n',m]) + e) ) )     integers 0..L
    sparsify    S[n,m] = Q[n,m] if Q[n,m] > b else 0
    density     a[n]   = ||S[n,:]||_1 / ( ||S[n,:]||_p + e )                           in [1, M^(1-1/p)] for S[n,:] != 0
    per prompt  a^[n]  = a[n] / (max_n a[n] + e)
    score       s      = sum over n in the instruction of a^[n] / log2(2 + number of instruction tokens)

At equal total, a[n] grows as the importance of token n spreads over more response tokens. Because of e, a response
token whose largest score is below about L * e / (L - b) has no level above b: such columns vanish, and
`vanished_columns` counts them.

Reference: Wu et al., NAACL 2024, section 4; doi 10.18653/v1/2024.naacl-long.130.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LEVELS = 10  # L
SPARSITY = 7  # b, for numbers; pictures use 0
NORM = 4.0  # p
EPS = 1e-7  # e, for scores computed here; files released with the paper are read with 1e-9


def importance_levels(
    scores: Float[Tensor, "in_pos out_pos"], *, levels: int = LEVELS, eps: float = EPS
) -> Int[Tensor, "in_pos out_pos"]:
    """Return each output token's scores as integer levels: Q = ceil(L * (relu(I) / (max_n relu(I) + e))), 0..L.

    Only positive importance counts; the division comes first, since the other order can reach level L + 1.
    """
    positive = scores.relu()
    top = positive.amax(dim=0, keepdim=True) if scores.shape[0] else positive.new_zeros(1, scores.shape[1])
    return torch.ceil(levels * (positive / (top + eps))).to(torch.int64)


def sparsify(levels: Int[Tensor, "in_pos out_pos"], *, b: int = SPARSITY) -> Int[Tensor, "in_pos out_pos"]:
    """Return the levels with those of at most b set to zero."""
    return torch.where(levels > b, levels, torch.zeros_like(levels))


def importance_density(
    levels: Int[Tensor, "in_pos out_pos"], *, b: int = SPARSITY, p: float = NORM, eps: float = EPS
) -> Float[Tensor, " in_pos"]:
    """Return a[n] = ||S[n,:]||_1 / (||S[n,:]||_p + e) of levels 0..L, zero for a token without any level above b."""
    kept = sparsify(levels, b=b).to(torch.float64)
    return kept.sum(dim=1) / (torch.linalg.vector_norm(kept, ord=p, dim=1) + eps)


def normalised_density(density: Float[Tensor, " in_pos"], *, eps: float = EPS) -> Float[Tensor, " in_pos"]:
    """Return a^[n] = a[n] / (max_n a[n] + e), between 0 and 1; without this step longer responses score higher."""
    return density / (density.max() + eps) if density.numel() else density


def instruction_score(
    density: Float[Tensor, " in_pos"], instruction: Bool[Tensor, " in_pos"], *, eps: float = EPS, normalise: bool = True
) -> float:
    """Return s = sum over instruction tokens of a^[n] / log2(2 + their number); 0 where either side is empty."""
    weights = normalised_density(density, eps=eps) if normalise else density
    return float(weights[instruction].sum()) / math.log2(2 + int(instruction.sum()))


def vanished_columns(scores: Float[Tensor, "in_pos out_pos"], *, b: int = SPARSITY, eps: float = EPS) -> int:
    """Return how many output tokens have some positive importance but no level above b, because of e."""
    levels = importance_levels(scores, eps=eps)
    return int(((scores > 0).any(dim=0) & ~(levels > b).any(dim=0)).sum())
