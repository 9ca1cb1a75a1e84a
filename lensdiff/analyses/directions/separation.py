"""Kernels: a direction between two sets of streams, and how well it tells apart what it was not made of.

    v        mean of A's streams - mean of B's
    auroc    P(s_a > s_b) + P(s_a = s_b) / 2 over pairs of held-out a, b; s = h . v, v of the other folds; in [0, 1]

Pairs are those within a fold, which one v has scored; folds count by their pairs. Scores that differ by rounding are
ties, so that streams which are the same give 1/2.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

ROUNDING = 1e-12  # of a mean square of the streams


def mean_difference(
    streams: Float[Tensor, "text d_model"], is_a: Bool[Tensor, " text"], chosen: Bool[Tensor, " text"] | None = None
) -> Float[Tensor, " d_model"]:
    """Return the mean of A's streams less that of B's, of those that are chosen; 0 where that is rounding."""
    some = torch.ones_like(is_a) if chosen is None else chosen
    v = streams[some & is_a].mean(dim=0) - streams[some & ~is_a].mean(dim=0)
    return torch.where(v @ v <= ROUNDING**2 * streams.square().sum(dim=-1).mean(), torch.zeros_like(v), v)


def cosine(one: Float[Tensor, " d_model"], other: Float[Tensor, " d_model"]) -> float:
    """Return the cosine of two vectors: 1 where they are equal, 0 where one of them is 0."""
    if torch.equal(one, other):
        return 1.0
    size = float(one.norm() * other.norm())
    return 0.0 if size == 0 else max(-1.0, min(1.0, float(one @ other) / size))


def auroc(scores: Float[Tensor, " text"], is_a: Bool[Tensor, " text"], tie: float = 0.0) -> tuple[float, int]:
    """Return how many pairs are in order, ties counted half, and how many pairs there are."""
    apart = scores[is_a][:, None] - scores[~is_a][None]
    wins = (apart > tie).sum() + 0.5 * (apart.abs() <= tie).sum()
    return float(wins), apart.numel()


def held_out(
    train: Float[Tensor, "text d_model"],
    test: Float[Tensor, "text d_model"],
    labels: Bool[Tensor, "draw text"],
    folds: Int[Tensor, " text"],
) -> Float[np.ndarray, " draw"]:
    """Return the held-out AUROC for each labelling: v from `train` without a fold, scores of the fold's `test` streams.

    Args:
        train, test: streams of the same texts, of one model or of two.
        labels: whether a text is one of A.
        folds: which one each text is in.
    """
    tie = ROUNDING * float(train.norm(dim=-1).mean() * test.norm(dim=-1).mean())
    # neither mean changes a difference of scores, and both would cost digits
    products = (train - train.mean(dim=0)) @ (test - test.mean(dim=0)).T
    wins, pairs = torch.zeros(len(labels), dtype=torch.float64), torch.zeros(len(labels), dtype=torch.float64)
    for fold in folds.unique().tolist():
        out = folds == fold
        a, b = ((kind & ~out).double() for kind in (labels, ~labels))
        weights = a / a.sum(dim=1, keepdim=True).clamp(min=1) - b / b.sum(dim=1, keepdim=True).clamp(min=1)
        scores = weights @ products[:, out]
        apart = scores[:, :, None] - scores[:, None, :]
        counted = (labels[:, out][:, :, None] & ~labels[:, out][:, None, :]).double()
        in_order = (apart > tie).double() + 0.5 * (apart.abs() <= tie).double()
        wins += (in_order * counted).sum(dim=(1, 2))
        pairs += counted.sum(dim=(1, 2))
    return torch.where(pairs > 0, wins / pairs.clamp(min=1), 0.5).numpy()


def folds_of(n_a: int, n_b: int, n_folds: int, *, paired: bool, seed: int) -> Int[Tensor, " text"]:
    """Return a fold for each text, A's first: of pairs the same, each about as large as the others."""
    generator = np.random.default_rng(seed)
    n_folds = min(n_folds, n_a, n_b)

    def shuffled(n: int) -> np.ndarray:
        return generator.permutation(np.arange(n) % n_folds)

    first = shuffled(n_a)
    return torch.from_numpy(np.concatenate([first, first if paired else shuffled(n_b)]))


def labels_of(n_a: int, n_b: int) -> Bool[Tensor, " text"]:
    """Return which texts are A's, A's first."""
    return torch.arange(n_a + n_b) < n_a


def permuted_labels(n_a: int, n_b: int, draws: int, *, paired: bool, seed: int) -> Bool[Tensor, "draw text"]:
    """Return labels without meaning: of pairs exchanged within some of them, else permuted over all texts."""
    generator, own = np.random.default_rng([seed, 1]), labels_of(n_a, n_b).numpy()
    if paired:
        swapped = generator.random((draws, n_a)) < 0.5
        return torch.from_numpy(np.concatenate([~swapped, swapped], axis=1))
    return torch.from_numpy(np.stack([generator.permutation(own) for _ in range(draws)]))


def random_directions(draws: int, d_model: int, seed: int) -> Float[Tensor, "draw d_model"]:
    """Return vectors of length 1, uniform over the sphere."""
    found = np.random.default_rng([seed, 2]).normal(size=(draws, d_model))
    return torch.from_numpy(found / np.linalg.norm(found, axis=1, keepdims=True))


def length_auroc(lengths: Sequence[int], n_a: int) -> float:
    """Return how well the number of tokens alone tells A's texts from B's."""
    wins, pairs = auroc(torch.tensor(lengths, dtype=torch.float64), labels_of(n_a, len(lengths) - n_a))
    return wins / pairs
