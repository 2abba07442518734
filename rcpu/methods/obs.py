"""What it costs to lose columns when those that stay make up for them: optimal brain surgeon for whole columns.

With H = G + λ·mean diag(G)·I and the columns R gone, the best weight for the others is W − W_R [(H⁻¹)_RR]⁻¹ (H⁻¹)_R:,
at a cost of tr(W_R [(H⁻¹)_RR]⁻¹ W_Rᵀ) in tr((W − V) H (W − V)ᵀ) (ZipLM, Kurtic et al. 2023; Hassibi & Stork 1993).
Errors in another metric Γ = FᵀF of the outputs: pass F W in the place of W, what is repaired does not depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rcpu.base.errors import RcpuError
from rcpu.statistics.decompose import working_dtype


@dataclass(frozen=True, eq=False)
class Greedy:
    """Units in the order in which they went, the mask of those that stay, and what each loss added to the error."""

    order: Tensor  # (removed,) stratum · units + unit
    keep: Tensor  # (strata, units) bool
    costs: Tensor  # (removed,) of tr((W − V) H (W − V)ᵀ), each given those before it
    scores: Tensor  # (d_in,) what each column would cost alone, as of one_shot


def damped(gram: Tensor, ridge: float) -> Tensor:
    """H = G + λ·mean diag(G)·I, (d_in, d_in), in the dtype that decompositions take."""
    h = gram.to(working_dtype(gram), copy=True)
    mean = h.diagonal().mean()
    h.diagonal().add_(torch.where(mean > 0, ridge * mean, 1.0))  # of dead inputs any may go
    return h


def factor(h: Tensor) -> Tensor:
    """The lower Cholesky factor of H.

    Raises:
        RcpuError: H is singular to rounding.
    """
    lower, failed = torch.linalg.cholesky_ex(h)
    if failed:
        raise RcpuError(
            f"the moments of {len(h)} inputs are singular: raise the ridge or the number of calibration windows"
        )
    return lower


def one_shot(weight: Tensor, gram: Tensor, ridge: float) -> Tensor:
    """‖W_j‖² / [H⁻¹]_jj of every column, (d_in,): its cost if it were the only one to go."""
    inverse = torch.cholesky_inverse(factor(damped(gram, ridge)))
    return weight.to(inverse.dtype).square().sum(0) / inverse.diagonal()


def greedy(weight: Tensor, gram: Tensor, layout: Tensor, gone: int, *, ridge: float, block: int = 1) -> Greedy:
    """Let ``gone`` units of every stratum go, always the cheapest next, with what stays repaired in between.

    ``layout`` (strata, units, columns) as in units.py; ``block`` units go a round, exactly but chosen at once.
    """
    inverse = torch.cholesky_inverse(factor(damped(gram, ridge)))
    weight, layout = weight.to(inverse.dtype), layout.to(weight.device)
    go = _columns if layout.shape[::2] == (1, 1) else _groups
    order, costs = go(weight, inverse, layout, gone, max(1, block))
    keep = torch.ones(layout.shape[0] * layout.shape[1], dtype=torch.bool, device=weight.device)
    keep[order] = False
    alone = weight.square().sum(0) / inverse.diagonal()
    return Greedy(order.cpu(), keep.view(layout.shape[:2]).cpu(), costs.cpu().double(), alone.cpu().double())


def _columns(w: Tensor, p: Tensor, layout: Tensor, count: int, block: int) -> tuple[Tensor, Tensor]:
    """Single columns: a left-looking pivoted Cholesky of P = H⁻¹, which leaves P and W as they are.

    After rows L (removed × d_in) and A (removed × d_out), H⁻¹ is P − LᵀL and the repaired weight W − AᵀL.
    O(count · d_in · (d_out + count)).
    """
    columns = layout.flatten()
    if not columns.equal(torch.arange(len(p), device=p.device)):
        w, p = w[:, columns], p[columns][:, columns]
    rows, turned = w.new_empty(count, len(p)), w.new_empty(count, len(w))  # L and A
    diagonal, norms = p.diagonal().clone(), w.square().sum(0)
    order = torch.empty(count, dtype=torch.long, device=w.device)
    for i in range(0, count, block):
        j = min(i + block, count)
        chosen = (norms / diagonal).topk(j - i, largest=False, sorted=True).indices
        ls, a = rows[:i], turned[:i]
        at = ls[:, chosen].mT
        ours = torch.addmm(p[chosen], at, ls, alpha=-1)
        lower = factor(ours[:, chosen])
        new_l = torch.linalg.solve_triangular(lower, ours, upper=False)
        new_a = torch.linalg.solve_triangular(lower, w[:, chosen].mT - at @ a, upper=False)
        along = new_a @ w - (new_a @ a.mT) @ ls
        norms -= ((2 * along - (new_a @ new_a.mT) @ new_l) * new_l).sum(0)
        diagonal -= new_l.square().sum(0)
        norms[chosen], diagonal[chosen] = torch.inf, 1.0
        rows[i:j], turned[i:j], order[i:j] = new_l, new_a, chosen
    return order, turned.square().sum(1)


def _groups(w: Tensor, p: Tensor, layout: Tensor, gone: int, block: int) -> tuple[Tensor, Tensor]:
    """Units of several columns, with the same number to go from every stratum; P and W are rewritten each round."""
    strata, units = layout.shape[:2]
    columns, w, p = layout.flatten(0, 1), w.clone(), p.clone()
    stratum = torch.arange(strata, device=w.device).repeat_interleave(units)
    open_ = torch.ones(len(columns), dtype=torch.bool, device=w.device)
    left, order, costs = [gone] * strata, [], []
    while any(left):
        own = p[columns[:, :, None], columns[:, None]]  # (units, columns, columns)
        own[~open_] = torch.eye(columns.shape[1]).to(own)
        theirs = w[:, columns].transpose(0, 1)  # (units, d_out, columns)
        scores = torch.linalg.solve_triangular(torch.linalg.cholesky(own), theirs.mT, upper=False).square().sum((1, 2))
        scores[~open_ | (torch.tensor(left, device=w.device) == 0)[stratum]] = torch.inf
        chosen = []
        for unit in scores.argsort()[:block].tolist():
            if scores[unit] < torch.inf and left[unit // units]:
                left[unit // units] -= 1
                chosen.append(unit)
        for unit in chosen:
            k = columns[unit]
            solved = torch.linalg.solve_triangular(factor(p[k][:, k]), torch.cat([p[k], w[:, k].mT], 1), upper=False)
            row, a = solved[:, : len(p)], solved[:, len(p) :]
            w -= a.mT @ row
            p -= row.mT @ row
            order.append(unit)
            costs.append(a.square().sum())
        open_[chosen] = False
    return torch.tensor(order, dtype=torch.long, device=w.device), torch.stack(costs) if costs else w.new_empty(0)
