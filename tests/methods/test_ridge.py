"""Ridge regression against augmented least squares, cross-validation against leaving out one token at a time."""

import pytest
import torch

from rcpu import RcpuError
from rcpu.methods.ridge import cross_validation, error, ridge


@pytest.fixture
def problem():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(6, 50, generator=g, dtype=torch.float64)
    y = torch.randn(4, 6, generator=g, dtype=torch.float64) @ x + torch.randn(4, 50, generator=g, dtype=torch.float64)
    return x, y, torch.randn(4, 6, generator=g, dtype=torch.float64)


def augmented(x, y, strength, start):
    """Rows √λ that want V = start."""
    root = (strength * (x @ x.mT).diagonal().mean()).sqrt() * torch.eye(len(x), dtype=x.dtype)
    return torch.linalg.lstsq(torch.cat([x, root], 1).mT, torch.cat([y, start @ root], 1).mT).solution.mT


@pytest.mark.parametrize("strength", [1e-3, 0.3, 10])
@pytest.mark.parametrize("pulled", [True, False])
def test_ridge_is_augmented_least_squares(problem, strength, pulled):
    x, y, start = problem
    v = ridge(x @ x.mT, y @ x.mT, strength, start if pulled else None)
    torch.testing.assert_close(v, augmented(x, y, strength, start if pulled else 0 * start))
    assert error(x @ x.mT, y @ x.mT, y.square().sum().item(), v) == pytest.approx((y - v @ x).square().sum().item())


def test_a_strong_pull_leaves_the_start(problem):
    x, y, start = problem
    torch.testing.assert_close(ridge(x @ x.mT, y @ x.mT, 1e9, start), start, rtol=1e-6, atol=1e-6)


def test_singular_equations_are_said_to_be():
    with pytest.raises(RcpuError, match="raise the ridge"):
        ridge(torch.ones(3, 3), torch.zeros(2, 3), 0.0)


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_dead_inputs_leave_the_start_as_it_is(strength):
    start = torch.rand(2, 3)
    assert ridge(torch.zeros(3, 3), torch.zeros(2, 3), strength, start).equal(start)
    assert not ridge(torch.zeros(3, 3), torch.zeros(2, 3), strength).any()


@pytest.mark.parametrize("pulled", [True, False])
def test_cross_validation_is_its_definition(problem, pulled):
    x, y, start = problem
    start = start if pulled else 0 * start
    lost, n = (y - start @ x).square().sum().item(), x.shape[1]
    strengths = [1e-3, 0.1, 1.0]
    found = cross_validation(x @ x.mT, y @ x.mT, lost, n, strengths, start if pulled else None)
    for value, strength in zip(found, strengths, strict=True):
        v = augmented(x, y, strength, start)
        lam = strength * (x @ x.mT).diagonal().mean()
        hat = x.mT @ torch.linalg.inv(x @ x.mT + lam * torch.eye(6, dtype=x.dtype)) @ x
        assert value == pytest.approx(((y - v @ x).square().sum() / n / (1 - hat.trace() / n) ** 2).item())


def test_cross_validation_picks_what_leaving_out_picks():
    """Nine noisy tokens of six inputs: less than some damping would follow the noise."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(6, 9, generator=g, dtype=torch.float64)
    y = 0.2 * torch.randn(1, 6, generator=g, dtype=torch.float64) @ x + torch.randn(
        1, 9, generator=g, dtype=torch.float64
    )
    strengths = [1e-4, 1e-1, 1.0, 100.0]
    found = cross_validation(x @ x.mT, y @ x.mT, y.square().sum().item(), 9, strengths)
    left_out = []
    for strength in strengths:
        lam = strength * (x @ x.mT).diagonal().mean() * torch.eye(6, dtype=x.dtype)
        total = 0.0
        for i in range(9):
            a, b = x[:, [j for j in range(9) if j != i]], y[:, [j for j in range(9) if j != i]]
            total += (y[:, i] - b @ a.mT @ torch.linalg.inv(a @ a.mT + lam) @ x[:, i]).square().sum().item()
        left_out.append(total)
    assert found.index(min(found)) == left_out.index(min(left_out)) != 0
