"""What an order of removal costs at every count when what stays is refitted, and how narrow values could be.

Questions to the statistics of one projection; the metric is H = G + λ·mean diag(G)·I of methods/obs.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rcpu.explain.whatif import Projection
from rcpu.methods.obs import damped, factor, greedy, one_shot
from rcpu.models.families import Heads
from rcpu.statistics.decompose import eigh

MOST = 0.7  # share of units that a greedy path lets go


@dataclass(frozen=True, eq=False)
class Paths:
    """Relative error ‖Y − Ŷ‖ ÷ ‖Y‖ in the metric H after 0, 1, … units of every stratum went, what stays refitted."""

    greedy: Tensor  # (most + 1,) always the cheapest next, given those before it
    one_shot: Tensor  # (most + 1,) in the order of costs known at the start
    scored: Tensor  # (most + 1,) in the order of the chosen score
    plain: Tensor  # (most + 1,) in that order, nothing refitted
    order: Tensor  # (removed,) units as they went in the greedy path: stratum · units + unit


def refit_path(weight: Tensor, h: Tensor, order: Tensor) -> Tensor:
    """Relative squared error with the first k columns of ``order`` kept and refitted, (len(order) + 1,), k from 0.

    With H = A Aᵀ in that order the columns kept first explain ‖A⁻¹ H Wᵀ‖² row by row: one factor serves every k.
    """
    h, w = h[order][:, order], weight[:, order].to(h)
    rows = torch.linalg.solve_triangular(factor(h), h @ w.mT, upper=False).square().sum(1)
    return 1 - torch.cat([rows.new_zeros(1), rows.cumsum(0)]) / rows.sum()


def plain_path(weight: Tensor, h: Tensor, order: Tensor) -> Tensor:
    """As :func:`refit_path` with nothing refitted: tr(W_R H_RR W_Rᵀ) ÷ tr(W H Wᵀ)."""
    h, w = h[order][:, order], weight[:, order].to(h)
    own = (w.mT @ w) * h
    lost = own.flip(0, 1).cumsum(0).cumsum(1).diagonal().flip(0)  # of columns k and those after it
    return torch.cat([lost, lost.new_zeros(1)]) / own.sum()


def paths(projection: Projection, layout: Tensor, scores: Tensor, *, ridge: float = 1e-2) -> Paths:
    """Greedy removal beside orders that are fixed at the start; ``scores`` (d_in,) are those of the chosen scorer."""
    w, gram, layout = projection.weight, projection.x.gram, layout.to(projection.weight.device)
    strata, units, each = layout.shape
    most = max(1, int(MOST * units))
    h = damped(gram, ridge)
    gone = greedy(w, gram, layout, most, ridge=ridge, block=max(1, units // 256))
    rank = torch.arange(len(gone.order), 0, -1, dtype=torch.double)  # the later a unit goes, the lower
    late = torch.zeros(strata * units, dtype=torch.double).index_put_((gone.order,), -rank)

    def after(unit_scores: Tensor, path) -> Tensor:  # (strata, units) → (most + 1,)
        order = unit_scores.to(layout.device).argsort(dim=1, descending=True, stable=True)
        columns = layout.gather(1, order[..., None].expand(layout.shape)).transpose(0, 1).flatten()
        kept = torch.arange(units, units - most - 1, -1) * strata * each
        return path(w, h, columns)[kept.to(w.device)].clamp_min(0).sqrt().cpu()

    own = scores.to(layout.device)[layout].sum(-1)
    return Paths(
        greedy=after(late.view(strata, units), refit_path),
        one_shot=after(one_shot(w, gram, ridge)[layout].sum(-1), refit_path),
        scored=after(own, refit_path),
        plain=after(own, plain_path),
        order=gone.order,
    )


@dataclass(frozen=True, eq=False)
class ValueSpectrum:
    """How much of one KV head's output what is kept of its values can carry, for 0 to dim dimensions."""

    subspace: Tensor  # (dim + 1,) the best directions
    channels: Tensor  # (dim + 1,) channels, always the cheapest gone, the others refitted


def value_spectra(weight: Tensor, gram: Tensor, heads: Heads, ridge: float = 1e-2) -> list[ValueSpectrum]:
    """One spectrum a KV head, as if heads were uncorrelated: eigenvalues of C^½ (Σ_h W_hᵀ W_h) C^½.

    C is the mean second moment of the values over the query heads that share them; see methods/subspace.py.
    """
    h, found = damped(gram, ridge), []
    group, dim = heads.query // heads.kv, heads.dim
    own = h.view(heads.query, dim, heads.query, dim).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    moments = own.reshape(heads.kv, group, dim, dim).mean(1)
    for c, w in zip(moments, weight.to(h).view(-1, heads.kv, group, dim).unbind(1), strict=True):
        values, vectors = eigh(c)
        half = (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
        seen = w.flatten(0, 1)
        energies = eigh(half @ (seen.mT @ seen) @ half)[0].flip(0).clamp_min(0)
        carried = torch.cat([energies.new_zeros(1), energies.cumsum(0)]) / energies.sum()
        layout = torch.arange(dim, device=c.device).view(1, dim, 1)
        last = greedy(seen, c, layout, dim - 1, ridge=0).order.to(c.device)
        rest = torch.tensor([i for i in range(dim) if i not in set(last.tolist())], device=c.device)
        order = torch.cat([rest, last.flip(0)])
        found.append(ValueSpectrum(carried.cpu(), 1 - refit_path(seen, c, order).cpu()))
    return found
