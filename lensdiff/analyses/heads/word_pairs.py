"""The kernels behind `heads`: from words and weights to the pairs of words that a dimension relates.

Reference: Wu et al., NAACL 2024, section 5 and appendix; doi 10.18653/v1/2024.naacl-long.130; the formulas are in
    `heads`.
"""

from typing import NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.models.inside.precision import as_double


class Candidates(NamedTuple):
    """The words with the largest activation of each dimension, and the dimension's energy."""

    words: Int[Tensor, "head_index d_head k"]
    values: Float[Tensor, "head_index d_head k"]
    energy: Float[Tensor, "head_index d_head"]


class Pairs(NamedTuple):
    """Kept pairs, one dimension after the other, best first: dimension i has the entries starts[i] to starts[i+1]."""

    starts: Int[Tensor, " dims_plus_one"]
    key: Int[Tensor, " pair"]
    query: Int[Tensor, " pair"]
    cosine: Float[Tensor, " pair"]


def unit_vectors(vectors: Float[Tensor, "word dim"]) -> Float[Tensor, "word dim"]:
    """Return the vectors with length 1; a zero vector stays zero."""
    lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return torch.where(lengths > 0, vectors / lengths, torch.zeros_like(vectors))


def cosine_thresholds(
    unit: Float[Tensor, "word dim"], *, threshold_words: int, threshold_std: float
) -> Float[Tensor, " word"]:
    """Return theta(w) = mean + threshold_std * std of the cosines between w and the first words of the list.

    Mean and population variance come from the mean and covariance of those words' unit vectors, in float64, without the
    cosines themselves: w . mean and w^T Cov w.
    """
    every = as_double(unit)
    background = every[:threshold_words]
    mean = background.mean(dim=0)
    centred = background - mean
    covariance = centred.T @ centred / len(background)
    variance = ((every @ covariance) * every).sum(dim=1).clamp_min(0)
    return (every @ mean + threshold_std * variance.sqrt()).to(unit.dtype).to(unit.device)


def head_activations(
    words: Float[Tensor, "word d_model"], W: Float[Tensor, "head_index d_model d_head"]
) -> Float[Tensor, "head_index d_head word"]:
    """Return every word's activation of every dimension; words last, so that a dimension lies in one piece."""
    return einsum(W, words, "head_index d_model d_head, word d_model -> head_index d_head word")


def candidates(
    words: Float[Tensor, "word d_model"], W: Float[Tensor, "head_index d_model d_head"], *, top_k: int
) -> Candidates:
    """Return each dimension's `top_k` words by |activation|, their activations, and its sum of squares over words."""
    activations = head_activations(words, W)
    energy = activations.square().sum(dim=-1)
    index = activations.abs().topk(min(top_k, len(words)), dim=-1, sorted=False).indices
    return Candidates(index, activations.gather(-1, index), energy)


def related_pairs(
    query: Candidates, key: Candidates, unit: Float[Tensor, "word dim"], thresholds: Float[Tensor, " word"]
) -> Pairs:
    """Return the related pairs of candidates whose activations agree in sign, by head, dimension and cosine."""
    q_words, q_values = (rearrange(x, "head dim k -> (head dim) k") for x in query[:2])
    k_words, k_values = (rearrange(x, "head dim k -> (head dim) k") for x in key[:2])
    cosine = torch.bmm(unit[k_words], unit[q_words].mT)  # only K x K cosines per dimension matter
    least = torch.maximum(thresholds[k_words][:, :, None], thresholds[q_words][:, None, :]).clamp_min_(0)
    keep = cosine > least
    keep &= k_values.sign()[:, :, None] * q_values.sign()[:, None, :] > 0  # of the signs, so that none underflows
    keep &= k_words[:, :, None] != q_words[:, None, :]
    dims, i, j = keep.nonzero(as_tuple=True)
    kept = cosine[dims, i, j]
    # dims * 2 - cosine is exact in float64, so one sort orders by dimension and then by cosine
    order = (2.0 * as_double(dims) - as_double(kept)).argsort(stable=True).to(kept.device)
    starts = torch.cat([dims.new_zeros(1), dims.bincount(minlength=len(q_words)).cumsum(0)])
    return Pairs(starts, k_words[dims, i][order].int(), q_words[dims, j][order].int(), kept[order])
