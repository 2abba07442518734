"""One step along the loss's natural gradient on the calibration text, before anything leaves.

By K-FAC (Martens & Grosse 2015) the loss at W + D is L + ⟨S, D⟩ + ½ tr(Γ D C Dᵀ), with S = mean g xᵀ the gradient a
token and Γ and C of statistics/curvature.py. D goes along −(Γ + δI)⁻¹ S (C + δI)⁻¹, all sites together as far as
½ tr(Γ D C Dᵀ) allows: a trust region in nats a token, the natural gradient's own length (Amari 1998). OBS (Hassibi &
Stork 1993) takes S for 0, which a model is on no text but its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from rcpu.methods.obs import damped, factor
from rcpu.methods.prices import price
from rcpu.statistics.curvature import Curvature

#: δ, relative to the mean of the diagonal. Heavy: of so few tokens little more than the gradient's own direction lasts.
DAMPING = 10.0


def direction(seen: Curvature) -> tuple[Tensor, float]:
    """−(Γ + δI)⁻¹ S (C + δI)⁻¹, (d_out, d_in), and what this whole step is priced at, in nats a token."""
    left, right = (factor(damped(m, DAMPING)) for m in (seen.output, seen.gram))
    found = -seen.slope.to(left).cholesky_solve(left).mT.to(right).cholesky_solve(right).mT  # large ones in fp32
    found = found.to(seen.slope)
    return found, price(found, seen.gram, seen.output)


def length(prices: Iterable[float], nats: float) -> float:
    """η, by which every site's direction is multiplied to be priced at ``nats`` all together; 0 if nothing moves."""
    whole = sum(prices)
    return (nats / whole) ** 0.5 if whole > 0 else 0.0
