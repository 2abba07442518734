"""New weights for the kept columns of a projection. One function and one line in COMPENSATORS for each method.

With W (d_out × d_in), Gram matrix G = Σ x xᵀ and kept columns K: Y = W X, Z = W_K X_K, and M = Y Zᵀ = W G[:,K] W_Kᵀ,
so neither X nor Y nor Z is needed. Weights, statistics and results live on one device in one floating dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rcpu.base.errors import RcpuError
from rcpu.base.options import Part, option
from rcpu.methods import procrustes
from rcpu.statistics.sums import Statistics, blocks

#: λ that ``auto`` tries, relative to the mean of the diagonal of X_K X_Kᵀ.
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True, eq=False)
class Problem:
    """What a compensator may look at."""

    weight: Tensor  # (d_out, d_in) W
    x: Statistics  # of the calibration inputs
    columns: Tensor  # (kept,) K, ascending
    rotation: procrustes.Rotation | None  # solved for every site of a run; methods that do not rotate need none
    ridge: float | None = None  # λ relative to the mean diagonal; None tries RIDGES on the held-out inputs
    held_out: Statistics | None = None

    @property
    def kept(self) -> Tensor:
        """W_K, (d_out, kept)."""
        return self.weight.index_select(1, self.columns)

    @property
    def removed(self) -> Tensor:
        """Indices of the columns that go, ascending."""
        return removed(self.columns, self.weight.shape[1])


@dataclass(frozen=True, eq=False)
class Compensated:
    """Weight for the kept columns, what to add to the output, and the scalar that was chosen, if any."""

    weight: Tensor  # (d_out, kept)
    bias: Tensor | None = None  # (d_out,) added to whatever bias the projection has
    scale: float | None = None
    ridge: float | None = None
    turn: Tensor | None = None  # (d_out, d_out) A, where the weight is A W_K


@dataclass(frozen=True, eq=False)
class Outputs:
    """Y = W X of one projection, known through the sums of its inputs alone."""

    weight: Tensor  # (d_out, d_in) W
    x: Statistics

    @cached_property
    def product(self) -> Tensor:
        """W G = Y Xᵀ, (d_out, d_in): serves every set of kept columns."""
        return self.weight @ self.x.gram

    @cached_property
    def energy(self) -> float:
        """‖Y‖²_F = tr(W G Wᵀ)."""
        if "product" in self.__dict__:
            return (self.product * self.weight).sum(dtype=torch.float64).item()
        return quadratic(self.weight, self.x.gram)

    def cross_products(self, columns: Tensor) -> Tensor:
        """M = Y Zᵀ = W G[:,K] W_Kᵀ, (d_out, d_out)."""
        return self.product.index_select(1, columns) @ self.weight.index_select(1, columns).mT

    def lost(self, columns: Tensor) -> float:
        """‖Y − Z‖²_F = tr(W_R G_RR W_Rᵀ) with R the columns that go: what removal costs while nothing is repaired."""
        gone = removed(columns, self.weight.shape[1])
        gram = self.x.gram.index_select(0, gone).index_select(1, gone)
        return max(quadratic(self.weight.index_select(1, gone), gram), 0.0)

    def squared_error(self, columns: Tensor, new: Compensated) -> float:
        """‖Y − W' X_K − b 1ᵀ‖²_F: with E = W − W' on the kept columns it is tr(E G Eᵀ) − 2 bᵀEΣx + n‖b‖²."""
        error = self.weight.clone()
        error[:, columns] -= new.weight
        squared = quadratic(error, self.x.gram)
        if new.bias is not None:
            b, total = new.bias.cpu().double(), error.cpu().double() @ self.x.total
            squared += (self.x.tokens * b @ b - 2 * b @ total).item()
        return max(squared, 0.0)


def turned_error(lost: float, m: Tensor, turn: Tensor) -> float:
    """‖Y − AZ‖²_F for an orthogonal A, from ‖Y − Z‖²_F and M = Y Zᵀ: ‖Y − Z‖² − 2 tr((A − I)ᵀ M).

    ‖AZ‖ = ‖Z‖, so nothing large cancels where A is close to I.
    """
    gain = ((turn - torch.eye(len(m)).to(turn)) * m).sum(dtype=torch.float64).item()
    return max(lost - 2 * gain, 0.0)


def removed(columns: Tensor, count: int) -> Tensor:
    """Those of ``count`` columns that are not among ``columns``, ascending."""
    gone = torch.ones(count, dtype=torch.bool, device=columns.device)
    gone[columns] = False
    return gone.nonzero().flatten()


def quadratic(e: Tensor, gram: Tensor) -> float:
    """tr(E G Eᵀ) for a symmetric G: its blocks above the diagonal count twice, those below are left out."""
    total = 0.0
    for i, j in blocks(len(gram)):
        part = (e[:, i:j] @ gram[i:j, i:]).mul_(e[:, i:])
        total += (2 * part.sum(dtype=torch.float64) - part[:, : j - i].sum(dtype=torch.float64)).item()
    return total


def none(p: Problem) -> Compensated:
    """W_K as it is."""
    return Compensated(p.kept)


def rotation(p: Problem) -> Compensated:
    """Q W_K with Q = argmin ‖Y − QZ‖_F, QᵀQ = I: RCPU (arXiv 2510.07782)."""
    q = p.rotation.q.to(p.weight.dtype)
    return Compensated(q @ p.kept, turn=q)


def rotation_scale(p: Problem) -> Compensated:
    """s Q W_K with s = tr(Qᵀ M) / ‖Z‖²_F, the best scalar for that Q; tr(S) / ‖Z‖²_F in RCPU, where Q may reflect."""
    kept = p.kept
    energy = ((kept @ p.x.gram[p.columns][:, p.columns]) * kept).sum(dtype=torch.float64).item()
    scale = p.rotation.alignment / energy if energy > 0 else 1.0
    return Compensated(scale * rotation(p).weight, scale=scale)


def least_squares(p: Problem) -> Compensated:
    """Ridge regression pulled toward W_K: W_K + (Y X_Kᵀ − W_K X_K X_Kᵀ)(X_K X_Kᵀ + λI)⁻¹.

    The bracket is W_R G[R,K], with R the removed columns. λ is relative to the mean of diag(X_K X_Kᵀ); without one,
    the candidate of RIDGES with the smallest error on the held-out inputs is taken.

    Where all kept inputs are 0 throughout, nothing can be fitted and W_K stays.

    Raises:
        RcpuError: the normal equations are singular at this λ, or λ is to be chosen without held-out inputs.
    """
    if p.ridge is not None:
        return _ridge(p, p.ridge)
    if p.held_out is None:
        raise RcpuError("choosing λ needs held-out windows: ask for at least one, or give λ as a number")
    candidates = [_ridge(p, ridge) for ridge in RIDGES]
    checked = Outputs(p.weight, p.held_out)
    return min(candidates, key=lambda c: checked.squared_error(p.columns, c))


def _ridge(p: Problem, ridge: float) -> Compensated:
    dtype = torch.float64 if p.weight.device.type == "cpu" else p.weight.dtype
    gram = p.x.gram[p.columns][:, p.columns].to(dtype)
    bracket = (p.weight[:, p.removed] @ p.x.gram[p.removed][:, p.columns]).to(dtype)
    if not gram.any():  # a dead layer: whatever the weight, the output is 0
        return Compensated(p.kept, ridge=ridge)
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed:
        raise RcpuError(
            f"least squares is singular at λ = {ridge:g}: {p.x.tokens} calibration tokens for {len(p.columns)} kept "
            "inputs; raise the ridge or the number of samples"
        )
    change = torch.cholesky_solve(bracket.mT, factor).mT
    return Compensated(p.kept + change.to(p.weight.dtype), ridge=ridge)


def bias(p: Problem) -> Compensated:
    """W_K with the mean of what was lost added to the output, W_R mean(x_R): FLAP (An et al., AAAI 2024)."""
    mean = p.x.mean.to(p.weight.device, p.weight.dtype)
    return Compensated(p.kept, bias=p.weight[:, p.removed] @ mean[p.removed])


@dataclass(frozen=True)
class Turn:
    """Options of rotations."""

    proper: bool = option(False, "Proper rotation (det Q = +1)", "No reflection is part of Q.")


@dataclass(frozen=True)
class Ridge:
    """Options of least squares."""

    ridge: float | None = option(
        1e-2,
        "Ridge λ ÷ mean diagonal",
        "Relative to the mean of the diagonal of X_K X_Kᵀ; auto chooses on the held-out windows.",
        low=0,
        auto=True,
    )


COMPENSATORS = {
    "none": Part(none, "None"),
    "rotation": Part(rotation, "Rotation (RCPU)", Turn, "arXiv 2510.07782"),
    "rotation_scale": Part(rotation_scale, "Rotation and scale", Turn, "arXiv 2510.07782"),
    "least_squares": Part(least_squares, "Least squares with ridge", Ridge),
    "bias": Part(bias, "Bias (FLAP)", source="An et al., AAAI 2024"),
}
