"""Singular values from a product; the oracle is the decomposition of the matrix itself."""

import pytest
import torch
from torch import Tensor

from lensdiff.analyses.weights.weight_shift import effective_rank, top_share
from lensdiff.models import spectrum
from lensdiff.models.spectrum import above_rounding, add_product, singular_values, values_of_product

SHAPES = [(60, 60), (200, 40), (40, 200), (90, 1), (1, 90)]
KINDS = ("full", "low", "low and noise", "graded", "ones", "few rows")
TINY = 1e-7  # of the base: below half precision's rounding a change is a few entries


def change_of(kind: str, shape: tuple[int, int], relative: float, dtype: torch.dtype) -> tuple[Tensor, float]:
    """Return the change of a weight that was rounded to its dtype, and the norm that rounding can have put into it."""
    generator = torch.Generator().manual_seed(7)

    def drawn(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, dtype=torch.float64)

    base, change = drawn(*shape), drawn(*shape)
    if kind.startswith("low"):
        change = drawn(shape[0], 3) @ drawn(3, shape[1]) + (1e-4 * change if kind == "low and noise" else 0.0)
    elif kind == "graded":
        change = change * torch.logspace(0, -12, shape[1], dtype=torch.float64)
    elif kind == "ones":
        change = 1 + 1e-5 * change
    elif kind == "few rows":
        change = change * (torch.arange(shape[0]) < 2)[:, None]
    base = base.to(dtype).double()
    tuned = (base + relative * base.norm() / change.norm() * change).to(dtype).double()
    return tuned - base, torch.finfo(dtype).eps / 2 * float(tuned.norm())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("relative", [1.0, 1e-2, 1e-4, TINY])
def test_rank_and_measures_are_those_of_a_decomposition(shape, kind, dtype, relative):
    change, rounding = change_of(kind, shape, relative, dtype)
    found = singular_values(change, rounding=rounding)
    if not change.any():
        assert len(found) == 0
        return
    exact = above_rounding(torch.linalg.svdvals(change), rounding)
    assert len(found) == len(exact)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-8 * float(exact[0]))
    assert float(found.sum()) == pytest.approx(float(exact.sum()), rel=1e-9)
    assert effective_rank(found) == pytest.approx(effective_rank(exact), rel=1e-8)
    for directions in (1, 8):
        assert top_share(found, directions=directions) == pytest.approx(top_share(exact, directions=directions), 1e-12)


@pytest.mark.parametrize("scale", [1e-140, 1e-38, 1.0, 1e38, 1e140])
def test_changes_of_any_size_have_their_values(scale):
    change = torch.randn(30, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * scale
    found, exact = singular_values(change), torch.linalg.svdvals(change)
    torch.testing.assert_close(found / exact, torch.ones(20, dtype=torch.float64), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("sizes", "rounding", "decomposed"),
    [
        ([3.0, 2.0, 1.0], 0.0, False),
        ([3.0, 2.0, 1e-9], 0.0, True),  # the product does not know the last one, and all are wanted
        ([3.0, 2.0, 1e-9], 1e-4, False),  # it is dropped in any case
        ([3.0, 2.0, 1e-9], 2e-9, True),  # dropped, and the product cannot tell that
        ([3.0, 2.0, 1e-4], 1e-4 * (1 - 1e-9), True),  # too near to what is dropped
        ([3.0, 2.0, 1e-4], 1e-5, False),
        ([1e-140, 1e-141, 1e-142], 0.0, True),
    ],
)
def test_a_matrix_is_decomposed_where_its_product_does_not_tell(sizes, rounding, decomposed):
    generator, values = torch.Generator().manual_seed(2), torch.tensor(sizes, dtype=torch.float64)
    left, right = (torch.linalg.qr(torch.randn(side, 3, dtype=torch.float64, generator=generator)).Q for side in (9, 3))
    change, asked = (left * values) @ right.T, []
    product = torch.zeros(3, 3, dtype=torch.float64)
    add_product(product, change)

    def exact() -> Tensor:
        asked.append(1)
        return torch.linalg.svdvals(change)

    found = values_of_product(product, 9, rounding, exact)
    assert bool(asked) is decomposed
    kept = int((values.flip(0).square().cumsum(0).flip(0).sqrt() > rounding).sum())
    torch.testing.assert_close(found, values[:kept], rtol=1e-6, atol=0)


def test_a_matrix_is_decomposed_where_small_errors_add_up():
    # each of the small values stands out of the product's error, and all of them together are off by 2e-6 of the sum
    generator, values = torch.Generator().manual_seed(3), torch.full((40,), 4e-7, dtype=torch.float64)
    values[0] = 1.0
    left, right = (
        torch.linalg.qr(torch.randn(side, 40, dtype=torch.float64, generator=generator)).Q for side in (60, 40)
    )
    torch.testing.assert_close(singular_values((left * values) @ right.T), values, rtol=1e-8, atol=0)


def test_the_product_is_that_of_all_rows(monkeypatch):
    monkeypatch.setattr(spectrum, "BLOCK", 3)
    rows = torch.randn(12, 8, dtype=torch.float64)
    found = torch.zeros(8, 8, dtype=torch.float64)
    for part in rows.split(5):
        add_product(found, part)
    torch.testing.assert_close(found.triu(), (rows.T @ rows).triu())


def test_errors_of_the_product_are_below_what_is_assumed_of_them():
    for shape in SHAPES[:3]:
        for kind in KINDS:
            change, _ = change_of(kind, shape, 0.1, torch.float32)
            rows = change if shape[0] >= shape[1] else change.T
            product = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
            add_product(product, rows)
            squares = torch.linalg.svdvals(change).square()
            error = (torch.linalg.eigvalsh(product, UPLO="U").flip(0) - squares).abs().max()
            assert float(error) <= sum(shape) * spectrum.EPS * float(squares[0]) / 4
