"""The orthogonal polar factor by matrix products alone, for GPUs: there a decomposition costs more than the forwards.

Knows one matrix. Gives the factor and no spectrum; procrustes.py has both, from a decomposition.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rcpu.statistics.precision import full_fp32

#: Odd quintics a x + b x³ + c x⁵ of the singular values. The first multiplies small ones by 3.4 and sends what is
#: above 0.3 to [0.68, 1.13] (Jordan et al. 2024, Muon): nothing large becomes small on the way, so that rounding counts
#: as a change of M by some 1e-7 σ₁ in fp32, no more than a decomposition's. The second draws them to 1, at third order.
LIFT = (3.4445, -4.7750, 2.0315)
DRAW = (15 / 8, -10 / 8, 3 / 8)
#: Steps of each: the singular values that grow to a half lie at 1e-7 σ₁ in fp32 and at 2e-11 σ₁ in fp64.
STEPS = {torch.float32: (11, 3), torch.float64: (18, 4)}
MOST = 40  # steps to an orthogonal matrix, from cosines


@full_fp32()
def polar_factor(m: Tensor) -> Tensor | None:  # (d, d) → (d, d)
    """Q of M = Q H, QᵀQ = I, completed nearest to the identity where M says nothing; None where that does not settle.

    With F = U f(S) Vᵀ, f near 1 for what M says and near 0 for rounding, Q is the polar factor of
    F + (I − F Fᵀ)(I − Fᵀ F): the second term is the part of the identity between both null spaces.
    """
    if not (size := _norm(m)) > 0:
        return torch.eye(len(m)).to(m)
    lifts, draws = STEPS[m.dtype]
    f = m / (1.1 * size)
    for quintic in (LIFT,) * lifts + (DRAW,) * draws:
        f = _step(f, quintic)
    one = torch.eye(len(m)).to(m)
    left, right = one - f @ f.mT, one - f.mT @ f
    return _orthogonal(f + left @ right, one)


def _orthogonal(q: Tensor, one: Tensor) -> Tensor | None:
    """The polar factor of a matrix that is no longer than 1 in any direction."""
    for _ in range(MOST):
        off = torch.linalg.matrix_norm(q.mT @ q - one).item()
        if off < 20 * torch.finfo(q.dtype).eps * len(q) ** 0.5:
            return q
        q = _step(q, DRAW)
    return None


def _step(x: Tensor, quintic: tuple[float, float, float]) -> Tensor:
    a, b, c = quintic
    g = x.mT @ x
    return torch.addmm(x, x, torch.addmm(g, g, g, beta=b, alpha=c), beta=a)


def _norm(m: Tensor) -> float:
    """σ₁ by power iteration, from below and within a few per cent."""
    v = torch.randn(len(m), 1, dtype=m.dtype, generator=torch.Generator().manual_seed(0)).to(m.device)
    for _ in range(24):
        v = m.mT @ (m @ v)
        v = v / v.norm().clamp_min(torch.finfo(m.dtype).tiny)
    return (m @ v).norm().item()
