"""Raw sums over the inputs X of a projection, from which every score, rotation and error is derived.

Knows tensors only: not where X comes from, nor what is done with the sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil

import torch
from torch import Tensor

BLOCK = 256  # columns at most


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over ``tokens`` columns of X (d_in × tokens); ``a + b`` is the statistics of both sets of tokens."""

    gram: Tensor  # (d_in, d_in) Σ x xᵀ, fp32 or better, on the model's device; (0, 0) where it was not asked for
    total: Tensor  # (d_in,) Σ x, fp64, on the CPU
    absolute: Tensor  # (d_in,) Σ |x|, fp64, on the CPU
    square: Tensor  # (d_in,) Σ x², fp64: the Gram diagonal without its rounding, so that variances do not cancel
    tokens: int

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            self.gram + other.gram,
            self.total + other.total,
            self.absolute + other.absolute,
            self.square + other.square,
            self.tokens + other.tokens,
        )

    @property
    def mean(self) -> Tensor:
        """Mean activation of each input, (d_in,) fp64."""
        return self.total / self.tokens

    @property
    def mean_absolute(self) -> Tensor:
        """mean_t |x_j|, (d_in,) fp64."""
        return self.absolute / self.tokens

    @property
    def variance(self) -> Tensor:
        """Population variance of each input over tokens, (d_in,) fp64."""
        return (self.square / self.tokens - self.mean**2).clamp_min(0)

    def to(self, device: torch.device | str) -> Statistics:
        """The same sums with the Gram matrix on another device."""
        return replace(self, gram=self.gram.to(device))


class Accumulator:
    """Adds up batches of activations into one :class:`Statistics`, keeping none of them.

    Each batch goes in as fp32 whatever the model's dtype; vector sums add up in fp64.
    """

    def __init__(
        self, d_in: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, gram: bool = True
    ):
        size = d_in if gram else 0
        self._gram = torch.zeros(size, size, dtype=dtype, device=device)
        self._sums = torch.zeros(3, d_in, dtype=torch.float64)
        self.tokens = 0

    def add(self, x: Tensor) -> None:  # (..., d_in)
        """Take in one batch of activations."""
        x = x.reshape(-1, x.shape[-1]).to(self._gram.dtype)
        n = len(x)
        for i, j in blocks(len(self._gram)):
            self._gram[i:j, i:].addmm_(x[:, i:j].T, x[:, i:])
        # Σx² is rebuilt from the variance: with Σx it cancels exactly, which a plain fp32 sum of squares would not.
        mean, variance, absolute = (v.cpu().double() for v in (*_moments(x), x.abs().sum(0)))
        self._sums += torch.stack([n * mean, absolute, n * (variance + mean**2)])
        self.tokens += n

    def result(self) -> Statistics:
        """The sums so far; raises ``RuntimeError`` if no batch was added."""
        if not self.tokens:
            raise RuntimeError("no activations were added")
        gram = self._gram.clone()
        for i, j in blocks(len(gram)):
            gram[j:, i:j] = gram[i:j, j:].T
            gram[i:j, i:j] = gram[i:j, i:j].triu() + gram[i:j, i:j].triu(1).T
        return Statistics(gram, *self._sums.clone(), self.tokens)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:  # (rows, columns)
    """Mean and population variance of each column, both (columns,)."""
    if x.device.type != "cpu":
        return torch.var_mean(x, 0, correction=0)[::-1]
    # Rows as the pixels of one image, last in memory the channels: takes a twentieth of var_mean's time on a CPU.
    return torch.batch_norm_update_stats(x.mT[None, ..., None], None, None, 0.0)


def blocks(d: int) -> Iterator[tuple[int, int]]:
    """Equal ranges that cover d columns: of a symmetric matrix only blocks on and above the diagonal are computed."""
    count = ceil(d / BLOCK)
    return pairwise(i * d // (count or 1) for i in range(count + 1))
