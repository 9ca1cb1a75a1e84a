"""Angles against scipy, against an analytic value and against a brute-force assignment."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from lensdiff.analyses.mlp.subspaces import direction_angles, matched, principal_angles
from tests.analyses.mlp.concept_models import orthonormal


def turned(rows: torch.Tensor, i: int, j: int, angle: float) -> torch.Tensor:
    """The rows after a rotation in the plane of rows i and j."""
    out, (c, s) = rows.clone(), (np.cos(angle), np.sin(angle))
    out[i], out[j] = c * rows[i] + s * rows[j], c * rows[j] - s * rows[i]
    return out


def test_principal_angles_are_those_of_scipy_at_every_rank() -> None:
    a, b = orthonormal(8, 20, seed=1), orthonormal(8, 20, seed=2)
    found = principal_angles(a, b, [1, 3, 8])
    assert found.shape == (3, 8)
    for row, rank in zip(found, [1, 3, 8], strict=True):
        expected = np.sort(subspace_angles(a[:rank].T.numpy(), b[:rank].T.numpy()))
        np.testing.assert_allclose(row[:rank], expected, rtol=0, atol=1e-12)
        assert row[rank:].isnan().all()


@pytest.mark.parametrize("angle", [1e-9, 1e-5, 0.3, 0.785, 1.2, 1.5707])
def test_a_rotation_out_of_the_subspace_is_its_angle_and_one_inside_is_none(angle: float) -> None:
    rows = orthonormal(8, 16)
    out = principal_angles(rows, turned(rows, 1, 6, angle), [3, 7])
    np.testing.assert_allclose(out[0, :3], [0.0, 0.0, angle], rtol=0, atol=1e-14)
    np.testing.assert_allclose(out[1, :7], np.zeros(7), rtol=0, atol=1e-14)


def test_rounded_rows_have_no_angle_to_themselves_and_a_tiny_one_to_the_exact_ones() -> None:
    rows = orthonormal(50, 96)
    rounded = rows.float()
    assert principal_angles(rounded, rounded, [50]).max() < 1e-14
    assert principal_angles(rounded, rows, [50]).max() < 1e-6
    assert direction_angles(rounded, rounded).max() == 0.0


@pytest.mark.parametrize("angle", [0.0, 1e-9, 0.4, 1.5707])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_direction_angles_know_no_sign(angle: float, sign: float) -> None:
    rows = orthonormal(4, 8)
    found = direction_angles(rows, sign * turned(rows, 0, 2, angle))
    np.testing.assert_allclose(found, [angle, 0.0, angle, 0.0], rtol=0, atol=1e-15)


def test_opposite_and_orthogonal_directions() -> None:
    u = torch.tensor([[1.0, 0.0]])
    assert direction_angles(u, -u).item() == 0.0
    assert direction_angles(u, torch.tensor([[0.0, 3.0]])).item() == pytest.approx(np.pi / 2, abs=1e-15)


def test_the_matching_is_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(5)
    a, b = (torch.nn.functional.normalize(torch.randn(5, 6, generator=generator), dim=1) for _ in range(2))
    cosine = (a @ b.T).abs()
    best = max(permutations(range(5)), key=lambda order: float(cosine[range(5), list(order)].sum()))
    found = matched(a, b)
    assert tuple(found.index.tolist()) == best
    np.testing.assert_allclose(found.angle, cosine[range(5), list(best)].acos(), atol=1e-3)


def test_shuffled_and_flipped_rows_are_found_again() -> None:
    rows, order = orthonormal(6, 9), torch.tensor([3, 0, 5, 1, 2, 4])
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, 1.0])
    found = matched(rows, signs[:, None] * rows[order])
    assert order[found.index].tolist() == list(range(6))
    assert found.angle.max() < 1e-15
