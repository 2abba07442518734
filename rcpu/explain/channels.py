"""What the inputs of a projection look like: ranks of channels, outliers, a unit's activations and its tokens.

Knows tensors and sums only. How far calibration data reach for the number of inputs is reckoned here too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rcpu.methods.units import removed_count
from rcpu.statistics.sums import Statistics

OUTLIER = 20.0  # times the median of its layer: a channel that alone decides what a norm or a quantiser sees
ROWS = 96  # of a heat map
#: What can be looked at over layers and channels.
QUANTITIES = {
    "mean_absolute": lambda x: x.mean_absolute,
    "variance": lambda x: x.variance,
    "relative": lambda x: relative(x.mean_absolute),
}


@dataclass(frozen=True)
class Outlier:
    """A channel that is far larger than those beside it."""

    channel: int
    mean_absolute: float
    times: float  # the median of its layer


@dataclass(frozen=True)
class Excitement:
    """A token that a unit reacts to: where it stands in the sampled windows, and the activation there."""

    window: int
    position: int
    value: float


def relative(values: Tensor) -> Tensor:
    """Values as multiples of their median, (n,); infinite or NaN where that is 0."""
    return values / values.quantile(0.5)


def ranks(count: int, rows: int = ROWS, geometric: bool = False) -> Tensor:
    """At most ``rows`` different ranks from 0 to ``count`` − 1, both included, (rows,) int64 ascending.

    Evenly spaced, or dense at the top and ever wider below, where only the first few matter.
    """
    if geometric:
        return (torch.logspace(0, math.log10(count), rows, dtype=torch.float64).round().long() - 1).unique()
    return torch.linspace(0, count - 1, min(count, rows), dtype=torch.float64).round().long()


def ranked(unit_scores: Tensor) -> Tensor:  # (strata, units)
    """Scores sorted within each stratum, as units compete, and the mean of those of one rank, (units,) descending."""
    return unit_scores.sort(dim=1, descending=True).values.mean(0)


def outliers(x: Statistics, times: float = OUTLIER) -> list[Outlier]:
    """Channels whose mean|x| exceeds ``times`` the median of their layer, largest first."""
    factor = relative(x.mean_absolute)
    found = (factor > times).nonzero().flatten()
    found = found[factor[found].argsort(descending=True)]
    return [Outlier(j, x.mean_absolute[j].item(), factor[j].item()) for j in found.tolist()]


def activations(sample: Tensor, columns: Tensor) -> Tensor:  # (windows, window, d_in), (columns,)
    """A unit at every sampled token, (windows, window) fp32: its one input with its sign, or the norm of several."""
    values = sample[..., columns].float()
    return values[..., 0] if len(columns) == 1 else values.norm(dim=-1)


def exciting(values: Tensor, count: int = 8, apart: int = 6) -> list[Excitement]:
    """Tokens of the largest |activation|, largest first; none within ``apart`` tokens of another one."""
    rest = values.abs()
    rest = torch.where(rest.isfinite(), rest, torch.zeros_like(rest))
    found: list[Excitement] = []
    while len(found) < count and rest.numel() and rest.max() > 0:
        window, position = divmod(int(rest.argmax()), values.shape[1])
        found.append(Excitement(window, position, values[window, position].item()))
        rest[window, max(0, position - apart) : position + apart + 1] = 0
    return found


def kept_inputs(layout: Tensor, ratio: float) -> int:
    """How many input columns of a layout (strata, units, columns) stay at a ratio."""
    strata, units, columns = layout.shape
    return strata * (units - removed_count(units, ratio)) * columns


def inflation(tokens: int, unknowns: int) -> float:
    """Error on new tokens ÷ error on the calibration tokens that plain least squares is bound to have.

    For n independent tokens of k Gaussian inputs the squared errors stand as n (n − 1) : (n − k)(n − k − 1), from
    E[(XXᵀ)⁻¹] = 1 / (n − k − 1) of a Wishart matrix. Infinite where the calibration data can be fitted exactly.
    """
    n, k = tokens, unknowns
    return math.sqrt(n / (n - k) * (n - 1) / (n - k - 1)) if n > k + 1 else float("inf")
