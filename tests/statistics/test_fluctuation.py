"""FLAP's running statistic against its published steps, one window at a time."""

import pytest
import torch

from rcpu.statistics.fluctuation import Fluctuation


def plain(windows):
    """Baseline and fluctuation as FLAP's add_batch updates them."""
    mean, found, energy = torch.zeros(windows.shape[2], dtype=torch.float64), 0.0, 0.0
    for n, x in enumerate(windows.double()):
        mean = mean * n / (n + 1) + x.mean(0) / (n + 1)
        if n:
            found = found * (n - 1) / n + ((x - mean) * (x - mean)).sum(0) / (n + 1)
        energy = energy * n / (n + 1) + x.norm(dim=0) ** 2 / (n + 1)
    return found, energy


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_windows_in_order_whatever_the_batch(batch):
    g = torch.Generator().manual_seed(0)
    windows = torch.randn(7, 11, 5, generator=g) * torch.rand(5, generator=g) + torch.linspace(-3, 3, 5)
    seen = Fluctuation(5)
    for i in range(0, 7, batch):
        seen.add(windows[i : i + batch])
    found, energy = plain(windows)
    torch.testing.assert_close(seen.fluctuation, found)
    torch.testing.assert_close(seen.energy, energy)
    population = 11 * windows.double().flatten(0, 1).var(0, correction=0)
    assert not torch.allclose(seen.fluctuation, population, rtol=0.01)


def test_one_window_says_nothing():
    seen = Fluctuation(3)
    seen.add(torch.ones(1, 4, 3))
    assert seen.fluctuation.tolist() == [0, 0, 0]
