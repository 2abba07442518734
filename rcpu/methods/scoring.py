"""Importance of every input column of a projection. One function and one line in SCORERS for each method.

A scorer sees the weight W (d_out × d_in) and the statistics of its inputs X, and returns one non-negative number
a column, (d_in,) fp64. Knows nothing of heads, layers or ratios: units.py turns scores into kept units.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rcpu.base.options import Part
from rcpu.statistics.sums import Statistics


def rcpu(weight: Tensor, x: Statistics, **_) -> Tensor:
    """‖W_j‖₂ · mean_t|x_j| · Var_t(x_j), RCPU's variance-aware score (arXiv 2510.07782)."""
    return magnitude(weight, x) * x.mean_absolute * x.variance


def wanda_sp(weight: Tensor, x: Statistics, **_) -> Tensor:
    """Σ_i|W_ij| · mean_t|x_j|, Wanda summed over a column as RCPU's baseline does."""
    return weight.abs().sum(0).cpu().double() * x.mean_absolute


def flap(weight: Tensor, x: Statistics, *, attention: bool, **_) -> Tensor:
    """Var_t(x_j) · Σ_i W_ij², FLAP's WIFV (An et al., AAAI 2024); squared once more for attention outputs."""
    score = x.variance * magnitude(weight, x) ** 2
    return score**2 if attention else score


def magnitude(weight: Tensor, x: Statistics, **_) -> Tensor:
    """‖W_j‖₂: the weight alone, no data."""
    return weight.norm(dim=0).cpu().double()


def random(weight: Tensor, x: Statistics, *, seed: int, **_) -> Tensor:
    """Uniform in [0, 1), the same for the same seed: the floor that a method must beat."""
    return torch.rand(weight.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def column_scores(weight: Tensor, x: Statistics, scorer: str, *, layer: int, site: str, seed: int = 0) -> Tensor:
    """Importance of every input column of one projection, (d_in,) fp64; ``x`` needs no Gram matrix.

    The seed of a random score is mixed with layer and site, so that no two projections share their numbers.
    """
    mixed = ((seed * 10_007 + layer) * 2 + (site == "down_proj")) % 2**63
    return SCORERS[scorer](weight, x, attention=site == "o_proj", seed=mixed)


SCORERS = {
    "rcpu": Part(rcpu, "RCPU: ‖Wⱼ‖ · mean|xⱼ| · Var(xⱼ)", source="arXiv 2510.07782"),
    "wanda_sp": Part(wanda_sp, "WANDA-sp: Σ|Wᵢⱼ| · mean|xⱼ|", source="arXiv 2510.07782"),
    "flap": Part(flap, "FLAP: Var(xⱼ) · ‖Wⱼ‖²", source="An et al., AAAI 2024"),
    "magnitude": Part(magnitude, "Magnitude: ‖Wⱼ‖"),
    "random": Part(random, "Random"),
}
