"""Importance of every input column of a projection. One function and one line in SCORERS for each method.

A scorer sees the weight W (d_out × d_in) and the statistics of its inputs X, and returns one non-negative number
a column, (d_in,) fp64. Knows nothing of heads, layers or ratios: units.py turns scores into kept units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rcpu.base.options import Part, option
from rcpu.methods.obs import one_shot
from rcpu.statistics.fluctuation import Fluctuation
from rcpu.statistics.sums import Statistics


def rcpu(weight: Tensor, x: Statistics, **_) -> Tensor:
    """‖W_j‖₂ · mean_t|x_j| · Var_t(x_j), RCPU's variance-aware score (arXiv 2510.07782)."""
    return magnitude(weight, x) * x.mean_absolute * x.variance


def mean_absolute(weight: Tensor, x: Statistics, **_) -> Tensor:
    """mean_t|x_j|, one factor of RCPU's score."""
    return x.mean_absolute


def variance(weight: Tensor, x: Statistics, **_) -> Tensor:
    """Var_t(x_j), one factor of RCPU's score."""
    return x.variance


def norm_mean(weight: Tensor, x: Statistics, **_) -> Tensor:
    """‖W_j‖₂ · mean_t|x_j|, RCPU's score without the variance."""
    return magnitude(weight, x) * x.mean_absolute


def norm_variance(weight: Tensor, x: Statistics, **_) -> Tensor:
    """‖W_j‖₂ · Var_t(x_j), RCPU's score without the mean."""
    return magnitude(weight, x) * x.variance


def mean_variance(weight: Tensor, x: Statistics, **_) -> Tensor:
    """mean_t|x_j| · Var_t(x_j), RCPU's score without the weight."""
    return x.mean_absolute * x.variance


def wanda_sp(weight: Tensor, x: Statistics, **_) -> Tensor:
    """Σ_i|W_ij| · mean_t|x_j|, Wanda summed over a column as RCPU's baseline does."""
    return weight.abs().sum(0).cpu().double() * x.mean_absolute


def flap(weight: Tensor, x: Statistics, *, attention: bool, **_) -> Tensor:
    """Var_t(x_j) · Σ_i W_ij², FLAP's WIFV (An et al., AAAI 2024); squared once more for attention outputs."""
    score = x.variance * magnitude(weight, x) ** 2
    return score**2 if attention else score


def wifv(weight: Tensor, x: Statistics, *, attention: bool, windows: Fluctuation, **_) -> Tensor:
    """fluctuation(x_j) · Σ_i W_ij², WIFV as FLAP's code has it: no variance, see fluctuation.py; squared for o_proj."""
    score = windows.fluctuation * magnitude(weight, x) ** 2
    return score**2 if attention else score


def ifv(weight: Tensor, x: Statistics, *, attention: bool, windows: Fluctuation, **_) -> Tensor:
    """fluctuation(x_j) alone, FLAP's IFV; squared for o_proj."""
    return windows.fluctuation**2 if attention else windows.fluctuation


def wifn(weight: Tensor, x: Statistics, *, attention: bool, **_) -> Tensor:
    """mean_i |W_ij| · √Σ_t x_j², FLAP's WIFN; squared for o_proj."""
    score = wanda_sp_l2(weight, x) / len(weight)
    return score**2 if attention else score


def wanda_sp_l2(weight: Tensor, x: Statistics, **_) -> Tensor:
    """Σ_i|W_ij| · √Σ_t x_j², Wanda-sp as FLAP's repository has it; RCPU's baseline takes the mean of |x_j|."""
    return weight.abs().sum(0).cpu().double() * x.square.sqrt()


def obs(weight: Tensor, x: Statistics, *, damping: float = 0.01, **_) -> Tensor:
    """‖W_j‖² / [H⁻¹]_jj, the cost of losing a column that all others make up for (optimal brain surgeon)."""
    return one_shot(weight, x.gram, damping).cpu().double()


def magnitude(weight: Tensor, x: Statistics, **_) -> Tensor:
    """‖W_j‖₂: the weight alone, no data."""
    return weight.norm(dim=0).cpu().double()


def random(weight: Tensor, x: Statistics, *, seed: int, **_) -> Tensor:
    """Uniform in [0, 1), the same for the same seed: the floor that a method must beat."""
    return torch.rand(weight.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def column_scores(
    weight: Tensor, x: Statistics, scorer: str, *, layer: int, site: str, seed: int = 0, **more: object
) -> Tensor:
    """Importance of every input column of one projection, (d_in,) fp64; only those of FROM_GRAM need a Gram matrix.

    The seed of a random score is mixed with layer and site, so that no two projections share their numbers.
    """
    mixed = ((seed * 10_007 + layer) * 2 + (site == "down_proj")) % 2**63
    return SCORERS[scorer](weight, x, attention=site == "o_proj", seed=mixed, **more)


@dataclass(frozen=True)
class Repaired:
    """Options of scores that count on a repair."""

    damping: float = option(
        0.01, "Damping to choose by", "λ in H = G + λ·mean diag(G)·I when units are chosen.", low=0, high=1e6
    )


@dataclass(frozen=True)
class Rounds(Repaired):
    """Options of greedy removal."""

    block: int = option(8, "Units a round", "As many go at once before scores are worked out anew.", low=1, high=4096)


SCORERS = {
    "rcpu": Part(rcpu, "RCPU: ‖Wⱼ‖ · mean|xⱼ| · Var(xⱼ)", source="arXiv 2510.07782"),
    "wanda_sp": Part(wanda_sp, "WANDA-sp: Σ|Wᵢⱼ| · mean|xⱼ|", source="arXiv 2510.07782"),
    "flap": Part(flap, "FLAP: Var(xⱼ) · ‖Wⱼ‖²", source="An et al., AAAI 2024"),
    "wifv": Part(wifv, "FLAP's code: fluctuation(xⱼ) · ‖Wⱼ‖²", source="An et al., AAAI 2024"),
    "ifv": Part(ifv, "FLAP's code: fluctuation(xⱼ)", source="An et al., AAAI 2024"),
    "wifn": Part(wifn, "FLAP's code: mean|Wᵢⱼ| · ‖xⱼ‖", source="An et al., AAAI 2024"),
    "wanda_sp_l2": Part(wanda_sp_l2, "Wanda-sp of FLAP's code: Σ|Wᵢⱼ| · ‖xⱼ‖", source="An et al., AAAI 2024"),
    "obs": Part(obs, "Repaired loss in one shot: ‖Wⱼ‖² ÷ [H⁻¹]ⱼⱼ", Repaired, "Hassibi and Stork 1993"),
    "greedy": Part(obs, "Repaired loss, greedily (OBC)", Rounds, "ZipLM, Kurtic et al. 2023"),
    "magnitude": Part(magnitude, "Magnitude: ‖Wⱼ‖"),
    "random": Part(random, "Random"),
    "mean_absolute": Part(mean_absolute, "One factor of RCPU's: mean|xⱼ|"),
    "variance": Part(variance, "One factor of RCPU's: Var(xⱼ)"),
    "norm_mean": Part(norm_mean, "Two factors of RCPU's: ‖Wⱼ‖ · mean|xⱼ|"),
    "norm_variance": Part(norm_variance, "Two factors of RCPU's: ‖Wⱼ‖ · Var(xⱼ)"),
    "mean_variance": Part(mean_variance, "Two factors of RCPU's: mean|xⱼ| · Var(xⱼ)"),
}

#: Scores that need sums of products of inputs; ``greedy`` shows the one-shot score that its first round goes by.
FROM_GRAM = frozenset({"obs", "greedy"})
#: Scores that need the order of windows.
FROM_WINDOWS = frozenset({"wifv", "ifv"})
#: RCPU's score with factors left out, to see what each does; ``magnitude`` is the third of those that stand alone.
FACTORS = frozenset({"mean_absolute", "variance", "norm_mean", "norm_variance", "mean_variance"})
#: Scores that sums over single inputs give at once, without another look at the windows.
AT_ONCE = tuple(name for name in SCORERS if name not in FROM_GRAM | FROM_WINDOWS | FACTORS)
