"""Levels, density and the instruction score of a 3 x 2 map, computed by hand."""

import math

import pytest
import torch

from lensdiff.analyses.attribute import density

# three prompt tokens, two response tokens; column maxima 2 and 4
SCORES = torch.tensor([[2.0, 1.0], [1.7, 4.0], [-3.0, 0.2]])
TINY = 1e-12


def test_levels_are_the_share_of_the_column_maximum_rounded_up():
    expected = torch.tensor([[10, 3], [9, 10], [0, 1]])  # 2/2, 1/4, 1.7/2 = .85, 4/4, negative, .2/4 = .05
    assert torch.equal(density.importance_levels(SCORES, eps=1e-7), expected)


def test_the_division_comes_first_so_no_level_exceeds_the_number_of_levels():
    scores = torch.rand(50, 400, generator=torch.Generator().manual_seed(0)) * 1e-3
    found = density.importance_levels(scores, eps=0.0)
    assert int(found.max()) == 10
    assert torch.equal(found.amax(dim=0), torch.full((400,), 10))


def test_the_number_of_levels_is_an_option():
    assert density.importance_levels(SCORES, levels=4, eps=1e-7).tolist() == [[4, 1], [4, 4], [0, 1]]


@pytest.mark.parametrize(("b", "kept"), [(0, [[10, 3], [9, 10], [0, 1]]), (7, [[10, 0], [9, 10], [0, 0]])])
def test_sparsify_keeps_levels_above_b(b, kept):
    assert density.sparsify(torch.tensor([[10, 3], [9, 10], [0, 1]]), b=b).tolist() == kept


@pytest.mark.parametrize("p", [2.0, 4.0])
def test_density_is_the_ratio_of_norms(p):
    levels = torch.tensor([[10, 3], [9, 10], [0, 1]])
    expected = [1.0, 19 / (9**p + 10**p) ** (1 / p), 0.0]  # b = 7 leaves (10, 0), (9, 10), (0, 0)
    torch.testing.assert_close(
        density.importance_density(levels, p=p, eps=TINY), torch.tensor(expected, dtype=torch.float64)
    )


def test_density_of_an_even_row_is_its_upper_bound():
    row = torch.full((1, 16), 10)
    assert float(density.importance_density(row, p=4.0, eps=TINY)) == pytest.approx(16 ** (1 - 1 / 4))


def test_score_sums_normalised_density_over_the_instruction():
    a, mask = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), torch.tensor([True, False, True])
    assert density.instruction_score(a, mask, eps=TINY) == pytest.approx((0.5 + 0.25) / math.log2(4))
    assert density.instruction_score(a, mask, normalise=False) == pytest.approx(1.5 / 2)


def test_an_empty_response_or_instruction_scores_zero():
    empty = density.importance_density(density.importance_levels(torch.zeros(3, 0)))
    assert density.instruction_score(empty, torch.tensor([True, True, False])) == 0.0
    assert density.instruction_score(torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.bool)) == 0.0


def test_columns_below_the_epsilon_vanish_and_are_counted():
    scores = torch.tensor([[1e-8, 1.0, -1.0], [2e-8, 0.0, -2.0]])
    assert density.vanished_columns(scores) == 1, "the negative column has no importance to lose"
    assert density.vanished_columns(scores, eps=1e-12) == 0


def test_a_level_of_exactly_b_is_set_to_zero():
    levels = torch.tensor([[7, 8], [0, 7]])
    assert density.sparsify(levels, b=7).tolist() == [[0, 8], [0, 0]]
    assert density.importance_density(levels, b=7, p=1.0, eps=0.0)[0] == 1.0
