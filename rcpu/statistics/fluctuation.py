"""FLAP's statistic as its authors' code has it, which is no variance: windows in order, a mean that still runs."""

from __future__ import annotations

import torch
from torch import Tensor


class Fluctuation:
    """f = Σ_{k≥2} (k − 1)/k · S_k / (n − 1) with S_k = Σ_tokens (x − m_k)², m_k the mean of windows 1 to k.

    The first window never counts, and S_k is a sum over a window's tokens: on our model up to 44 % off the population
    variance times that many. Also kept: Σ_t x² a window on average, of FLAP's WIFN and its Wanda-sp.
    """

    def __init__(self, d_in: int):
        self._mean = torch.zeros(d_in, dtype=torch.float64)
        self._sum, self._square = torch.zeros_like(self._mean), torch.zeros_like(self._mean)
        self.windows = 0

    def add(self, x: Tensor) -> None:  # (windows, tokens, d_in)
        """Take in windows, in the order they come in."""
        x = x.float()
        means = x.mean(1)
        own = (x - means[:, None]).square().sum(1).cpu().double()  # around each window's own mean, so nothing cancels
        for mean, around in zip(means.cpu().double(), own, strict=True):
            self.windows += 1
            self._mean += (mean - self._mean) / self.windows
            spread = around + x.shape[1] * (mean - self._mean) ** 2
            self._sum += (self.windows - 1) / self.windows * spread
            self._square += around + x.shape[1] * mean**2

    @property
    def fluctuation(self) -> Tensor:
        """f of every input, (d_in,) fp64; 0 with a single window."""
        return self._sum / max(1, self.windows - 1)

    @property
    def energy(self) -> Tensor:
        """Σ_t x² of a window on average, (d_in,) fp64."""
        return self._square / max(1, self.windows)
