"""Procrustes in the plane: known rotations and mirrors are found, and no angle on a fine grid is better."""

import math

import pytest
import torch

from rcpu.explain.plane import fit

Y = torch.tensor([[0.0, 2.0, 2.0, 0.5], [0.0, 0.0, 1.0, 2.0]], dtype=torch.float64)


def rotation(degrees: float) -> torch.Tensor:
    a = math.radians(degrees)
    return torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=torch.float64)


def mirror(degrees: float) -> torch.Tensor:
    a = math.radians(2 * degrees)
    return torch.tensor([[math.cos(a), math.sin(a)], [math.sin(a), -math.cos(a)]], dtype=torch.float64)


@pytest.mark.parametrize("angle", [-150, -30, 0, 40, 179])
def test_a_rotation_is_found(angle):
    found = fit(Y, rotation(-angle) @ Y)
    assert found.determinant == 1
    assert found.angle == pytest.approx(angle, abs=1e-6)
    assert found.after == pytest.approx(0, abs=1e-7)
    torch.testing.assert_close(found.turned, Y)


@pytest.mark.parametrize("axis", [-60, 0, 25, 90])
def test_a_mirror_is_found_and_refused(axis):
    found = fit(Y, mirror(axis) @ Y)
    assert found.determinant == -1
    assert abs(found.angle) == pytest.approx(abs(axis), abs=1e-6)
    assert found.after == pytest.approx(0, abs=1e-7)
    proper = fit(Y, mirror(axis) @ Y, proper=True)
    assert proper.determinant == 1
    assert proper.after > 0.1


def test_no_other_rotation_or_mirror_is_better_and_any_matrix_is_at_least_as_good():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        y, z = torch.randn(2, 2, 5, generator=generator, dtype=torch.float64)
        found = fit(y, z)
        grid = [make(a) for make in (rotation, mirror) for a in range(-180, 180)]
        assert found.after <= min(((y - q @ z).norm() / y.norm()).item() for q in grid) + 1e-9
        assert found.free <= found.after <= found.before + 1e-9
        assert found.singular_values[0] >= found.singular_values[1] >= 0


def test_points_at_the_origin_and_on_a_line_have_an_answer():
    nothing = torch.zeros(2, 3)
    assert fit(nothing, nothing).after == 0
    assert fit(Y, torch.zeros_like(Y)).after == pytest.approx(1)
    line = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    found = fit(rotation(30) @ line.double(), line)
    assert found.after == pytest.approx(0, abs=1e-7)
    assert found.determinant == 1


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="must both be"):
        fit(Y, Y[:, :2])
    with pytest.raises(ValueError, match="must both be"):
        fit(Y[:, :0], Y[:, :0])
