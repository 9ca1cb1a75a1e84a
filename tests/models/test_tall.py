"""Norms and singular values of a change that is read some rows at a time; the oracle is numpy on the whole matrix."""

import numpy as np
import pandas as pd
import pytest
import torch

from lensdiff import load_pair, weight_shift
from lensdiff.models import change as changes
from lensdiff.models import spectrum, tall
from lensdiff.models.inside.parts import Weight
from tests.checkpoints import save_checkpoint


@pytest.mark.parametrize("shape", [(70, 8), (8, 70), (20, 20), (33, 8)])
@pytest.mark.parametrize("gained", [False, True])
@pytest.mark.parametrize("decomposed", [False, True])
def test_the_moments_are_those_of_the_whole_matrix(shape, gained, decomposed, monkeypatch):
    monkeypatch.setattr(tall, "LARGE", 96)
    if decomposed:  # whatever the product tells
        monkeypatch.setattr(spectrum, "ERROR", 0.0)
    generator = torch.Generator().manual_seed(0)
    base, tuned = (torch.randn(shape, generator=generator) for _ in range(2))
    one, other = (torch.randn(shape[0], generator=generator) for _ in range(2))
    gains = (one, other) if gained else (None, None)
    found = tall.moments(base, tuned, gains, eps=0.0)
    a, b = (
        x.double().numpy() * (1.0 if gain is None else gain.double().numpy()[:, None])
        for x, gain in zip((base, tuned), gains, strict=True)
    )
    assert found.base == pytest.approx(np.linalg.norm(a), rel=1e-12)
    assert found.tuned == pytest.approx(np.linalg.norm(b), rel=1e-12)
    assert found.change == pytest.approx(np.linalg.norm(b - a), rel=1e-12)
    assert found.product == pytest.approx((a * b).sum(), rel=1e-10)
    values = np.linalg.svd(b - a, compute_uv=False)
    # of a product each value may be off by what `spectrum` says, of a decomposition by rounding alone
    error = 0.0 if decomposed else sum(shape) * spectrum.EPS * values[0] ** 2 / values
    assert (np.abs(found.values.numpy() - values) <= 1e-10 * values + error).all()
    assert not found.equal


@pytest.mark.parametrize("shape", [(70, 8), (8, 70), (20, 20), (33, 8)])
def test_a_change_that_its_product_does_not_tell_is_read_once_more(shape, monkeypatch):
    monkeypatch.setattr(tall, "LARGE", 96)
    generator = torch.Generator().manual_seed(0)
    base = torch.zeros(shape, dtype=torch.float64)
    sizes = torch.logspace(0, -12, min(shape), dtype=torch.float64)
    left, right = (
        torch.linalg.qr(torch.randn(side, len(sizes), generator=generator, dtype=torch.float64)).Q for side in shape
    )
    gain = 1 + torch.rand(shape[0], generator=generator, dtype=torch.float64)
    tuned = (left * sizes) @ right.T / gain[:, None]
    found = tall.moments(base, tuned, (gain, gain), eps=0.0)
    np.testing.assert_allclose(found.values.numpy(), sizes.numpy(), rtol=1e-2)  # the product is off by 1e-8


def test_no_change_is_none(monkeypatch):
    monkeypatch.setattr(tall, "LARGE", 16)
    matrix = torch.randn(40, 8)
    found = tall.moments(matrix, matrix.clone(), eps=1e-7)
    assert found.equal
    assert (found.change, len(found.values)) == (0.0, 0)


def test_a_change_in_the_last_rows_alone_is_seen(monkeypatch):
    monkeypatch.setattr(tall, "LARGE", 16)
    base = torch.randn(40, 8)
    tuned = base.clone()
    tuned[-1, 2] += 3
    found = tall.moments(base, tuned, eps=1e-9)
    assert found.change == pytest.approx(3, rel=1e-6)
    assert found.values.tolist() == pytest.approx([3], rel=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_large_weights_are_measured_as_small_ones_are(tied, tmp_path, monkeypatch):
    folders = [save_checkpoint("llama", tmp_path / str(seed), seed=seed, tie_word_embeddings=tied) for seed in range(2)]
    whole = weight_shift(load_pair(*folders, device="cpu")).to_df()
    pair = load_pair(*folders, device="cpu")
    expected = load_pair(*folders, device="cpu").change().singular_values(Weight("W_out", 1))
    monkeypatch.setattr(tall, "LARGE", 256)
    seen = []
    monkeypatch.setattr(
        changes, "moments", lambda *given, eps: seen.append(given[0].shape) or tall.moments(*given, eps=eps)
    )
    pd.testing.assert_frame_equal(weight_shift(pair).to_df(), whole, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(pair.change().singular_values(Weight("W_out", 1)), expected, rtol=1e-9, atol=1e-9)
    assert len(seen) == 2 * 7 + 2, "each of the matrices, its heads side by side, is decomposed once"
