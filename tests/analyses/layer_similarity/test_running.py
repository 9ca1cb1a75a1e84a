"""The running sums against everything held at once, by hand and by another formula."""

import numpy as np
import pytest
import torch

from lensdiff.analyses.layer_similarity.passes import change
from lensdiff.analyses.layer_similarity.running import Products
from tests.analyses.layer_similarity.planted import plainly, rotation


def drawn(n: int = 40, d: int = 6, mean: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.arange(1, d + 1) + mean
    return x, x @ torch.randn(d, d, generator=generator, dtype=torch.float64) + mean


def run(x: torch.Tensor, y: torch.Tensor, *sizes: int) -> Products:
    found = Products.none(x.shape[1])
    for one, other in zip(x.split(list(sizes)), y.split(list(sizes)), strict=True):
        found.add(one, other)
    return found


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_sums_in_blocks_are_those_of_everything(mean: float):
    x, y = drawn(mean=mean)
    found = run(x, y, 1, 0, 30, 9)
    centred = [part - part.mean(dim=0) for part in (x, y)]
    for name, one, other in (("xx", 0, 0), ("xy", 0, 1), ("yy", 1, 1)):
        assert found.other is not None
        held = found.xx if name == "xx" else getattr(found.other, name)
        torch.testing.assert_close(held, centred[one].T @ centred[other], rtol=1e-9, atol=1e-6)
    assert found.cka() == pytest.approx(plainly(x[None].numpy(), y[None].numpy())["cka"][0], abs=1e-9)
    apart = run(x[:25], y[:25], 20, 5) + run(x[25:], y[25:], 15)
    assert apart.cka() == pytest.approx(found.cka(), abs=1e-12)
    assert apart.n == found.n == 40


def test_cka_by_hand():
    # x varies along one axis by 1, 0, -1; y along two: by the same, and by 1, -2, 1
    x = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([[1.0, 1.0], [0.0, -2.0], [-1.0, 1.0]], dtype=torch.float64)
    # |xy|^2 = 2^2, |xx| = 2, |yy| = sqrt(2^2 + 6^2)
    assert run(x, y, 3).cka() == pytest.approx(4 / (2 * np.sqrt(40)))


def test_cka_sees_no_rotation_shift_or_scale():
    x, _ = drawn()
    assert run(x, 3.0 * x @ rotation(6) + 7.0, 40).cka() == pytest.approx(1.0, abs=1e-12)


def test_streams_that_are_equal_in_every_bit_have_one_exactly():
    x, y = drawn(mean=1e3)
    found = run(x, x.clone(), 13, 27)
    assert found.other is None
    assert found.cka() == 1.0
    later = run(torch.cat([x, x]), torch.cat([x, y]), 40, 40)
    assert later.other is not None
    plain = plainly(torch.cat([x, x])[None].numpy(), torch.cat([x, y])[None].numpy())["cka"][0]
    assert later.cka() == pytest.approx(plain, abs=1e-9)
    assert (run(x, x, 40) + run(x, y, 40)).cka() == pytest.approx(plain, abs=1e-9)


def test_where_a_stream_does_not_vary_there_is_no_cka():
    x, y = drawn()
    assert np.isnan(run(x[:1], y[:1], 1).cka())
    assert np.isnan(run(x[:1].expand(5, -1) * 1.1, y[:5], 5).cka())
    assert np.isnan(run(x[:5], y[:1].expand(5, -1) * 1.1, 5).cka())
    assert run(x[:1], x[:1], 1).cka() == 1.0, "nothing changed"


def test_what_becomes_of_a_stream_by_hand():
    x = torch.tensor([[[3.0, 4.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [2.0, 2.0]]], dtype=torch.float64)
    y = torch.tensor([[[3.0, -4.0], [0.0, 2.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    found = change(x, y)
    torch.testing.assert_close(found.relative, torch.tensor([[8 / 5, 5**0.5, 0, 1, 1]], dtype=torch.float64))
    torch.testing.assert_close(found.cosine, torch.tensor([[-7 / 25, 0, 1, 0, 0]], dtype=torch.float64))
    torch.testing.assert_close(found.distance, torch.tensor([[8, 5**0.5, 0, 1, 8**0.5]], dtype=torch.float64))
    assert change(x, x).cosine.tolist() == [[1.0] * 5]
