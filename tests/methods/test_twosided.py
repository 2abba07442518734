"""Both turns against their definitions: orthonormal, never worse than before, exact where there is an exact answer."""

import torch

from rcpu.methods import twosided


def problem(seed=0, noise=0.3):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(7, 7, generator=g, dtype=torch.float64) @ torch.randn(7, 200, generator=g, dtype=torch.float64)
    kept = torch.randn(5, 7, generator=g, dtype=torch.float64)
    lost = noise * torch.randn(5, 7, generator=g, dtype=torch.float64) @ x
    return kept, x, kept @ x + lost


def error(weight, x, y):
    return (y - weight @ x).square().sum().item()


def solve(kept, x, y, rounds):
    return twosided.solve(kept, x @ x.mT, y @ x.mT, y.square().sum().item(), x.shape[1], rounds)


def test_more_rounds_never_raise_the_error_and_factors_stay_orthonormal():
    kept, x, y = problem()
    errors = []
    for rounds in range(5):
        found = solve(kept, x, y, rounds)
        errors.append(error((found.left * found.before) @ found.right.mT, x, y))
        for factor in (found.left, found.right):
            torch.testing.assert_close(factor.mT @ factor, torch.eye(5, dtype=torch.float64))
        torch.testing.assert_close(found.weight, (found.left * found.values) @ found.right.mT)
    assert errors[0] == error(kept, x, y) or abs(errors[0] / error(kept, x, y) - 1) < 1e-9
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.95 * errors[0]


def test_singular_values_are_regressions_of_their_own():
    kept, x, y = problem(seed=1)
    found = solve(kept, x, y, 2)
    z, target = found.right.mT @ x, found.left.mT @ y
    strength = found.ridge * z.square().sum(1).mean()
    expected = ((z * target).sum(1) + strength * found.before) / (z.square().sum(1) + strength)
    torch.testing.assert_close(found.values, expected)
    assert error(found.weight, x, y) < error((found.left * found.before) @ found.right.mT, x, y)


def test_nothing_lost_is_nothing_turned():
    kept, x, y = problem(noise=0)
    torch.testing.assert_close(solve(kept, x, y, 3).weight, kept)


def test_polar_is_that_of_an_svd():
    a = torch.randn(6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    u, _, vh = torch.linalg.svd(a, full_matrices=False)
    torch.testing.assert_close(twosided.polar(a), u @ vh)
