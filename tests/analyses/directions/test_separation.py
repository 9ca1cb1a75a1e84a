"""Kernels of directions: AUROC against scikit-learn, cross-validation against a loop, labels that mean nothing."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from lensdiff.analyses.directions.separation import (
    auroc,
    cosine,
    folds_of,
    held_out,
    labels_of,
    length_auroc,
    mean_difference,
    permuted_labels,
    random_directions,
)

N, D = 9, 5


def drawn(apart: float = 1.0, n_b: int = N, seed: int = 0) -> torch.Tensor:
    found = np.random.default_rng(seed).normal(size=(N + n_b, D)) + 20.0
    found[:N, 0] += apart
    return torch.from_numpy(found)


def test_auroc_is_scikit_learns_ties_counted_half():
    rng = np.random.default_rng(0)
    for scores in (rng.normal(size=20), rng.integers(0, 3, size=20).astype(float), np.ones(20)):
        is_a = labels_of(8, 12)
        wins, pairs = auroc(torch.from_numpy(scores), is_a)
        assert pairs == 8 * 12
        assert wins / pairs == pytest.approx(roc_auc_score(is_a.numpy(), scores))


@pytest.mark.parametrize("n_b", [N, 6])
def test_held_out_scores_are_those_of_a_loop(n_b: int):
    base, tuned = drawn(n_b=n_b), drawn(n_b=n_b, seed=1)
    folds, is_a = folds_of(N, n_b, 3, paired=n_b == N, seed=4), labels_of(N, n_b)
    for train, test in ((base, base), (base, tuned), (tuned, base)):
        wins, pairs = 0.0, 0
        for fold in range(3):
            out = (folds == fold).numpy()
            own, labels = train.numpy(), is_a.numpy()
            v = own[~out & labels].mean(axis=0) - own[~out & ~labels].mean(axis=0)
            n = (out & labels).sum() * (out & ~labels).sum()
            wins += n * float(roc_auc_score(labels[out], test.numpy()[out] @ v))
            pairs += n
        assert held_out(train, test, is_a[None], folds)[0] == pytest.approx(wins / pairs)


def test_streams_that_do_not_tell_sets_apart_give_a_half():
    row = torch.randn(1, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    streams = row.expand(2 * N, -1) * 1e3
    folds = folds_of(N, N, 3, paired=True, seed=0)
    assert held_out(streams, streams, labels_of(N, N)[None], folds).tolist() == [0.5]
    assert not bool(mean_difference(streams, labels_of(N, N)).any())
    twice = torch.cat([drawn()[:N]] * 2)  # a text and itself
    assert held_out(twice, twice, labels_of(N, N)[None], folds).tolist() == [0.5]


def test_sets_far_apart_are_told_apart_and_permuted_labels_are_not():
    streams, folds = drawn(50.0), folds_of(N, N, 3, paired=True, seed=0)
    assert held_out(streams, streams, labels_of(N, N)[None], folds).tolist() == [1.0]
    permuted = held_out(streams, streams, permuted_labels(N, N, 200, paired=True, seed=0), folds)
    assert abs(permuted.mean() - 0.5) < 0.1
    assert permuted.min() < 0.35


def test_folds_are_even_and_keep_a_prompt_together():
    paired = folds_of(7, 7, 3, paired=True, seed=1)
    assert torch.equal(paired[:7], paired[7:])
    assert sorted(paired[:7].bincount().tolist()) == [2, 2, 3]
    apart = folds_of(7, 4, 9, paired=False, seed=1)
    assert apart[:7].unique().tolist() == apart[7:].unique().tolist() == [0, 1, 2, 3], "as many as the smaller set"
    assert torch.equal(paired, folds_of(7, 7, 3, paired=True, seed=1))


def test_labels_without_meaning_keep_what_they_have_to():
    pairs = permuted_labels(6, 6, 50, paired=True, seed=0)
    assert bool((pairs[:, :6] != pairs[:, 6:]).all()), "of each pair one"
    assert 0.3 < float(pairs[:, :6].double().mean()) < 0.7
    free = permuted_labels(6, 3, 50, paired=False, seed=0)
    assert set(free.sum(dim=1).tolist()) == {6}
    assert len({tuple(row) for row in free.tolist()}) > 20


def test_directions_by_hand():
    streams = torch.tensor([[1.0, 2.0], [3.0, 2.0], [0.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    assert mean_difference(streams, labels_of(2, 2)).tolist() == [2.0, 1.0]
    some = torch.tensor([True, False, True, True])
    assert mean_difference(streams, labels_of(2, 2), some).tolist() == [1.0, 1.0]
    one, other = torch.tensor([3.0, 0.0]).double(), torch.tensor([1.0, 1.0]).double()
    assert cosine(one, other) == pytest.approx(0.5**0.5)
    assert cosine(other / 7, other / 7) == 1.0
    assert (cosine(one, 0 * one), cosine(0 * one, 0 * one)) == (0.0, 1.0)


def test_random_directions_have_length_one():
    found = random_directions(50, 8, 3)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(50, dtype=torch.float64))
    assert float(found.mean(dim=0).norm()) < 0.4
    assert not torch.equal(found, random_directions(50, 8, 4))


def test_lengths_alone_tell_sets_apart():
    assert length_auroc([5, 6, 3, 5], 2) == 3.5 / 4
