"""What it costs a projection to lose columns, in nats a token, at several removal levels: the curves of ``prices``.

By K-FAC V in the place of W costs ½ tr(Γ (W − V) C (W − V)ᵀ), with Γ and C of statistics/curvature.py and V the
ridge repair of what a one-shot score leaves. Levels are nested, so that one Cholesky factor serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import floor

import torch
from torch import Tensor

from rcpu.methods.obs import damped, factor, one_shot
from rcpu.methods.subspace import begin, decoder, widen
from rcpu.models.families import Heads

#: Shares of a site's units at which its price is worked out; no site loses more than the last.
LEVELS = (0.0, 0.05, 0.1, 0.18, 0.28, 0.4, 0.54, 0.7)


def counts(units: int, levels: Sequence[float] = LEVELS) -> tuple[int, ...]:
    """Whole units at these levels, each once."""
    return tuple(sorted({floor(level * units + 1e-9) for level in levels}))


def price(error: Tensor, c: Tensor, output: Tensor | None = None) -> float:
    """½ tr(Γ E C Eᵀ) of E (d_out, d_in); without Γ, ½ tr(E C Eᵀ)."""
    error = error.to(c.dtype)
    seen = error if output is None else output.to(error) @ error
    return 0.5 * ((error @ c) * seen).sum(dtype=torch.float64).item()


def of_columns(
    weight: Tensor,
    gram: Tensor,
    layout: Tensor,  # (strata, units, columns), see units.py
    gone: Sequence[int],
    cost: Callable[[Tensor], float],  # of W − V, (d_out, d_in)
    *,
    damping: float,
    ridge: float,
) -> list[float]:
    """Costs after this many units of every stratum, the cheapest by their one-shot scores.

    Columns that stay longest come first in H = A Aᵀ, so H_KK at every level is the product of a leading block of A.
    """
    rank = one_shot(weight, gram, damping)[layout].sum(-1).argsort(dim=1, descending=True)  # (strata, units)
    ordered = layout.to(rank.device).gather(1, rank[..., None].expand(layout.shape)).transpose(0, 1).flatten()
    h = damped(gram[ordered][:, ordered], ridge)
    half = h @ weight.to(h)[:, ordered].mT
    a = factor(h)
    del h  # of a large projection each such matrix counts
    half = torch.linalg.solve_triangular(a, half, upper=False)  # A⁻¹ H Wᵀ
    a, half, w = a.to(weight.dtype), half.to(weight.dtype), weight  # prices need no more
    each = layout.shape[0] * layout.shape[2]
    found = []
    for n in gone:
        kept = len(ordered) - n * each
        left = w.clone()
        v = torch.linalg.solve_triangular(a[:kept, :kept].mT, half[:kept], upper=True).mT
        left[:, ordered[:kept]] -= v
        found.append(cost(left) if n else 0.0)
    return found


def of_subspace(
    weight: Tensor,
    gram: Tensor,
    heads: Heads,
    gone: Sequence[int],
    cost: Callable[[Tensor], float],
    *,
    damping: float,
    ridge: float,
    seen: Tensor | None = None,  # F W, to choose the subspace by
) -> list[float]:
    """Costs after the values of every KV head became this much narrower."""
    h, wide = damped(gram, damping), damped(gram, ridge)
    found = []
    for n in gone:
        encoder = begin(weight if seen is None else seen, h, heads, heads.dim - n)
        v = decoder(weight, wide, encoder)
        found.append(cost(weight.to(v) - widen(v, encoder)) if n else 0.0)
    return found
