"""W_K turned on both sides, L diag(s) Rᵀ: orthonormal L (d_out × r) and R (kept × r) in the place of W_K's own.

The idea of COEC (arXiv 2608.21142) as far as it is public: Q_L W_K Q_R with Q_L by Procrustes, Q_R on a reduced Stiefel
manifold, singular values rescaled with λ by generalised cross-validation. Its exact equations were not at hand; these
are ours, each step a descent of ‖Y − L diag(s) Rᵀ X̂‖².
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rcpu.methods.ridge import WIDE_RIDGES
from rcpu.statistics.decompose import eigh, svd

ROUNDS = 4  # of both turns; more lower the error on our model by less than 1 %


@dataclass(frozen=True, eq=False)
class TwoSided:
    """The weight L diag(s) Rᵀ, its factors, the singular values before, and the λ chosen for them."""

    weight: Tensor  # (d_out, kept)
    left: Tensor  # (d_out, r)
    right: Tensor  # (kept, r)
    before: Tensor  # (r,) of W_K
    values: Tensor  # (r,)
    ridge: float


def polar(a: Tensor) -> Tensor:
    """The matrix with orthonormal columns nearest to A (rows × columns, no more columns than rows)."""
    values, vectors = eigh(a.mT @ a)
    return a @ (vectors / values.clamp_min(values[-1] * 1e-14).sqrt()) @ vectors.mT


def solve(kept: Tensor, inside: Tensor, across: Tensor, energy: float, tokens: int, rounds: int = ROUNDS) -> TwoSided:
    """Turn W_K = U S Vᵀ: first L and R for its own singular values, then these, each on its own.

    L is the polar factor of Y X̂ᵀ R S. R has no closed form, for inputs are correlated: its step is the polar factor of
    μ R S² − X̂X̂ᵀ R S² + X̂Yᵀ L S with μ the largest eigenvalue of X̂ X̂ᵀ, which never raises the error. Given both, a
    singular value is a regression of Lᵢᵀ Y on Rᵢᵀ X̂, pulled toward its old value by λ from cross-validation.
    """
    left, before, right = svd(kept)
    if not inside.any():  # dead inputs: nothing can be fitted
        return TwoSided(kept, left, right.mT, before, before, WIDE_RIDGES[-1])
    right = right.mT
    largest = eigh(inside)[0][-1]
    for _ in range(rounds):
        left = polar(across @ (right * before))
        right = polar((largest * right - inside @ right) * before**2 + (across.mT @ left) * before)
    explained = (left * (across @ right)).sum(0)  # Lᵢᵀ Y X̂ᵀ Rᵢ
    own = (right * (inside @ right)).sum(0).clamp_min(0)  # ‖Rᵢᵀ X̂‖²
    mean = own.mean()

    def rescaled(strength: float) -> Tensor:
        return (explained + strength * mean * before) / (own + strength * mean)

    def criterion(strength: float) -> float:
        s = rescaled(strength)
        rss = energy - 2 * (explained * s).sum().item() + (own * s**2).sum().item()
        freedom = (own / (own + strength * mean)).sum().item() / tokens
        return max(rss, 0.0) / (1 - freedom) ** 2 if freedom < 1 else float("inf")

    ridge = min(WIDE_RIDGES, key=criterion)
    values = rescaled(ridge)
    return TwoSided((left * values) @ right.mT, left, right, before, values, ridge)
