"""Least squares for what stays, from moments alone: damped, pulled toward a start, λ given or chosen.

``inside`` is X̂ X̂ᵀ of the inputs that stay (kept × kept), ``across`` is Y X̂ᵀ (d_out × kept), ``start`` the weight that
λ pulls toward: W_K, or 0 for none. All are of one kind: sums or means, about zero or about the mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rcpu.base.errors import RcpuError
from rcpu.statistics.decompose import eigh

#: λ that are tried when none is given, relative to the mean of the diagonal of X̂ X̂ᵀ.
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
#: The same where few windows may ask for more: so strong a pull leaves the start as it is.
WIDE_RIDGES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0, 100.0)


def ridge(inside: Tensor, across: Tensor, strength: float, start: Tensor | None = None, tokens: int = 0) -> Tensor:
    """argmin ‖Y − V X̂‖² + λ‖V − start‖² = start + (Y X̂ᵀ − start X̂ X̂ᵀ)(X̂ X̂ᵀ + λI)⁻¹, (d_out, kept).

    λ = ``strength`` · mean of the diagonal of X̂ X̂ᵀ; ``tokens`` are told where there were too few.

    Raises:
        RcpuError: the normal equations are singular at this λ.
    """
    if not inside.any():  # dead inputs: nothing can be fitted
        return torch.zeros_like(across) if start is None else start.clone()
    h = inside.clone()
    h.diagonal().add_(strength * h.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(h)
    if failed:
        raise RcpuError(
            f"least squares is singular at λ = {strength:g}: {tokens} calibration tokens for {len(h)} kept "
            "inputs; raise the ridge or the number of samples"
        )
    bracket = across if start is None else across - start @ inside
    change = torch.cholesky_solve(bracket.mT, factor).mT
    return change if start is None else start + change


def error(inside: Tensor, across: Tensor, energy: float, v: Tensor) -> float:
    """‖Y − V X̂‖² with ‖Y‖² = ``energy``."""
    return max(energy + ((v @ inside - 2 * across) * v).sum().item(), 0.0)


def cross_validation(
    inside: Tensor,
    across: Tensor,
    lost: float,
    count: int,
    strengths: Sequence[float],
    start: Tensor | None = None,
) -> list[float]:
    """Generalised cross-validation, (RSS/n) / (1 − dof/n)², at each λ: the smallest predicts best (Golub et al. 1979).

    ``lost`` is ‖Y − start X̂‖², ``count`` the tokens n behind sums; one eigendecomposition serves all λ. Tokens of a
    window are no independent samples, so held-out windows say more where there are some.
    """
    values, vectors = eigh(inside)
    values = values.clamp_min(0)
    bracket = (across if start is None else across - start @ inside) @ vectors
    gains, mean = bracket.square().sum(0), inside.diagonal().mean()
    found = []
    for strength in strengths:
        shifted = values + strength * mean
        rss = lost - (gains * (shifted + strength * mean) / shifted**2).sum().item()
        freedom = (values / shifted).sum().item() / count
        found.append(max(rss, 0.0) / count / (1 - freedom) ** 2 if freedom < 1 else float("inf"))
    return found
