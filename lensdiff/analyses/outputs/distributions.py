"""How two next-token distributions differ: Kullback-Leibler and Jensen-Shannon, ranks, agreement of the most probable.

All take log-probabilities and compute in float64; equal distributions give exactly 0 (and agreement 1).
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def kl_divergence(
    tuned: Float[Tensor, "*batch d_vocab"], base: Float[Tensor, "*batch d_vocab"]
) -> Float[Tensor, "*batch"]:
    """Return KL(tuned || base) in nats of log-probabilities, at least 0; tokens that tuned never says add nothing."""
    p, q = tuned.double(), base.double()
    terms = torch.where(p == -math.inf, 0.0, p.exp() * (p - q))
    return terms.sum(dim=-1).clamp(min=0)


def js_distance(
    tuned: Float[Tensor, "*batch d_vocab"], base: Float[Tensor, "*batch d_vocab"]
) -> Float[Tensor, "*batch"]:
    """Return the Jensen-Shannon distance (log base 2, in [0, 1]) of log-probabilities."""
    p, q = tuned.double().exp(), base.double().exp()
    mean = (p + q) / 2
    # where the mean is 0 so are both, and 0 log(0 / 1) is 0
    divisor = torch.where(mean == 0, 1.0, mean)
    divergence = sum((torch.xlogy(side, side / divisor).sum(dim=-1) for side in (p, q)), torch.zeros(())) / 2
    return (divergence / math.log(2)).clamp(min=0, max=1).sqrt()


def ranks(log_probs: Float[Tensor, "out_pos d_vocab"], ids: Int[Tensor, " out_pos"]) -> Int[Tensor, " out_pos"]:
    """Return each token's rank, from 1; a tie counts for the token."""
    mine = log_probs.gather(-1, ids[:, None])
    # ones and zeros of a float: several times faster than of a bool, and exact up to 2^24 tokens
    above = torch.gt(log_probs, mine, out=torch.empty_like(log_probs))
    return 1 + above.sum(dim=-1, dtype=torch.promote_types(log_probs.dtype, torch.float32)).long()


def likeliest(
    log_probs: Float[Tensor, "out_pos d_vocab"], k: int
) -> tuple[Float[Tensor, "out_pos k"], Int[Tensor, "out_pos k"]]:
    """Return the k largest log-probabilities, or all where there are fewer, and their tokens, best first.

    The k groups of tokens with the largest maxima hold the k largest tokens, so that only these groups are sorted: a
    third of the time of `topk` for 49,152 tokens.
    """
    n_tokens = log_probs.shape[-1]
    k = min(k, n_tokens)
    width = max(1, math.isqrt(n_tokens // max(k, 1)))
    inside = n_tokens // width * width
    groups = log_probs[:, :inside].unflatten(1, (-1, width))
    best = groups.amax(dim=-1).topk(k, dim=-1).indices[:, :, None]
    tokens = (best * width + torch.arange(width, device=best.device)).flatten(1)
    rest = torch.arange(inside, n_tokens, device=best.device).expand(len(log_probs), -1)
    tokens = torch.cat([tokens, rest], dim=1)
    found = log_probs.gather(1, tokens).topk(k, dim=-1)
    return found.values, tokens.gather(1, found.indices)


def top_k_agreement(
    tuned: Float[Tensor, "out_pos d_vocab"], base: Float[Tensor, "out_pos d_vocab"], *, k: int
) -> Float[Tensor, " out_pos"]:
    """Return the share of the k most probable tokens that both have among theirs, in [0, 1]."""
    mine, theirs = (side.topk(k, dim=-1).indices for side in (tuned, base))
    return (mine[:, :, None] == theirs[:, None, :]).any(dim=-1).double().mean(dim=-1)
