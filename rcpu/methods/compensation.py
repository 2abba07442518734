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
from rcpu.methods import procrustes, ridge, twosided
from rcpu.methods.subspace import narrow, widen
from rcpu.statistics.sums import Statistics, blocks

#: Where λ comes from when it is not given.
CHOICES = {"held_out": "Held-out windows", "gcv": "Generalised cross-validation"}
PULLS = {"weight": "Toward the kept weight", "zero": "Toward zero (GRAIL)"}


@dataclass(frozen=True, eq=False)
class Shift:
    """What the target has beyond Y: α times what the residual stream lacks against the dense model's, δ a token."""

    cross: Tensor  # (d_out, d_in) α Σ δ xᵀ
    total: Tensor  # (d_out,) α Σ δ, fp64, on the CPU


@dataclass(frozen=True, eq=False)
class Problem:
    """What a compensator may look at. The target is Y, or Y + αδ with a ``shift``; the start is W_K, or W Ēᵀ."""

    weight: Tensor  # (d_out, d_in) W
    x: Statistics  # of the calibration inputs
    columns: Tensor  # what stays: indices (kept,) ascending, or encoders (kv, rank, dim) with orthonormal rows
    rotation: procrustes.Rotation | None = None  # for methods that rotate
    ridge: float | None = None  # λ relative to the mean diagonal; None has it chosen
    held_out: Statistics | None = None
    pull: str = "weight"
    choose: str = "held_out"
    centred: bool = False  # moments about the mean, and a bias that carries the means
    shift: Shift | None = None
    held_out_shift: Shift | None = None

    @cached_property
    def kept(self) -> Tensor:
        """W_K, (d_out, kept)."""
        return narrow(self.weight, self.columns)

    @property
    def removed(self) -> Tensor:
        """Indices of the columns that go, ascending."""
        return removed(self.columns, self.weight.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """Of normal equations: fp64 on the CPU."""
        return torch.float64 if self.weight.device.type == "cpu" else self.weight.dtype

    @cached_property
    def mean_lost(self) -> Tensor:
        """Mean of target − W_K X_K over tokens, (d_out,) fp64 on the CPU."""
        lost = left_out(self.weight, self.columns).cpu().double() @ self.x.mean
        return lost if self.shift is None else lost + self.shift.total / self.x.tokens

    @cached_property
    def mean_kept(self) -> Tensor:
        """Mean of the inputs that stay, (kept,) fp64 on the CPU."""
        return narrow(self.x.mean, self.columns.cpu())

    @cached_property
    def inside(self) -> Tensor:
        """X̂ X̂ᵀ of the inputs that stay, (kept, kept)."""
        found = narrow(narrow(self.x.gram, self.columns).mT, self.columns).to(self.dtype)
        if self.centred:
            mean = self.mean_kept.to(found)
            found.addr_(mean, mean, alpha=-self.x.tokens)
        return found

    @cached_property
    def bracket(self) -> Tensor:
        """(target − W_K X̂) X̂ᵀ, (d_out, kept): what is left to explain, without the rounding of what is explained."""
        if self.columns.ndim == 1:
            gone = self.removed
            found = self.weight[:, gone] @ self.x.gram[gone][:, self.columns]
        else:
            found = narrow(left_out(self.weight, self.columns) @ self.x.gram, self.columns)
        if self.shift is not None:
            found = found + narrow(self.shift.cross, self.columns)
        found = found.to(self.dtype)
        return found - self.x.tokens * torch.outer(self.mean_lost, self.mean_kept).to(found) if self.centred else found

    @property
    def across(self) -> Tensor:
        """target X̂ᵀ, (d_out, kept)."""
        return self.bracket + self.kept.to(self.dtype) @ self.inside

    def turned_products(self, m: Tensor) -> Tensor:
        """M of target and Z about what this problem is: Y Zᵀ is ``m``, (d_out, d_out)."""
        kept = self.kept
        if self.shift is not None:
            m = m + narrow(self.shift.cross, self.columns) @ kept.mT
        if self.centred:
            z = kept.cpu().double() @ self.mean_kept
            m = m - self.x.tokens * torch.outer(self.mean_lost + z, z).to(m)
        return m

    @property
    def lost(self) -> float:
        """‖Y − W_K X̂‖²; a shift's own energy is not known and left out."""
        return Outputs(self.weight, self.x).lost(self.columns) - self._means(self.mean_lost)

    @property
    def energy(self) -> float:
        """‖Y‖²."""
        mean = self.weight.cpu().double() @ self.x.mean
        return Outputs(self.weight, self.x).energy - self._means(mean)

    def _means(self, mean: Tensor) -> float:
        return self.x.tokens * (mean @ mean).item() if self.centred else 0.0

    def solved(self, weight: Tensor, **found) -> Compensated:
        """The answer with this weight, and where moments are centred with the bias that belongs to it."""
        weight = weight.to(self.weight.dtype)
        if not self.centred:
            return Compensated(weight, **found)
        moved = (weight - self.kept).cpu().double() @ self.mean_kept
        return Compensated(weight, bias=(self.mean_lost - moved).to(weight), **found)


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
    """Y = W X of one projection, known through the sums of its inputs alone; what stays is as in :class:`Problem`."""

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
        return narrow(self.product, columns) @ narrow(self.weight, columns).mT

    def cross_products_once(self, columns: Tensor) -> Tensor:
        """The same where no other columns will be asked for: W G, as large as W, serves for ‖Y‖² yet and is let go."""
        _ = self.product, self.energy
        product = narrow(vars(self).pop("product"), columns)
        return product @ narrow(self.weight, columns).mT

    def lost(self, columns: Tensor) -> float:
        """‖Y − Z‖²_F = tr(W_R G_RR W_Rᵀ) with R the columns that go: what removal costs while nothing is repaired."""
        if columns.ndim > 1:
            return max(quadratic(left_out(self.weight, columns), self.x.gram), 0.0)
        gone = removed(columns, self.weight.shape[1])
        gram = self.x.gram.index_select(0, gone).index_select(1, gone)
        return max(quadratic(self.weight.index_select(1, gone), gram), 0.0)

    def squared_error(self, columns: Tensor, new: Compensated) -> float:
        """‖Y − W' X_K − b 1ᵀ‖²_F: with E = W − W' on the kept columns it is tr(E G Eᵀ) − 2 bᵀEΣx + n‖b‖²."""
        error = self.weight - widen(new.weight, columns, self.weight.shape[1])
        squared = quadratic(error, self.x.gram)
        if new.bias is not None:
            b, total = new.bias.cpu().double(), error.cpu().double() @ self.x.total
            squared += (self.x.tokens * b @ b - 2 * b @ total).item()
        return max(squared, 0.0)

    def shifted_error(self, columns: Tensor, new: Compensated, shift: Shift) -> float:
        """The same against Y + αδ, but for ‖αδ‖², which is the same for every weight."""
        error = self.weight - widen(new.weight, columns, self.weight.shape[1])
        more = 2 * (error * shift.cross).sum(dtype=torch.float64).item()
        if new.bias is not None:
            more -= 2 * (new.bias.cpu().double() @ shift.total).item()
        return self.squared_error(columns, new) + more


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


def left_out(weight: Tensor, columns: Tensor) -> Tensor:
    """W − W_K on its own columns, or W − W ĒᵀĒ: what is lost while nothing is repaired, (d_out, d_in)."""
    return weight - widen(narrow(weight, columns), columns, weight.shape[1])


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
    return p.solved(q @ p.kept, turn=q)


def rotation_scale(p: Problem) -> Compensated:
    """s Q W_K with s = tr(Qᵀ M) / ‖Z‖²_F, the best scalar for that Q; tr(S) / ‖Z‖²_F in RCPU, where Q may reflect."""
    kept = p.kept.to(p.dtype)
    energy = ((kept @ p.inside) * kept).sum(dtype=torch.float64).item()
    scale = p.rotation.alignment / energy if energy > 0 else 1.0
    return p.solved(scale * (p.rotation.q.to(p.weight.dtype) @ p.kept), scale=scale)


def least_squares(p: Problem) -> Compensated:
    """Ridge regression pulled toward W_K: W_K + (Y X_Kᵀ − W_K X_K X_Kᵀ)(X_K X_Kᵀ + λI)⁻¹, or toward 0 (GRAIL).

    The bracket is W_R G[R,K], with R the removed columns. λ is relative to the mean of diag(X_K X_Kᵀ); without one,
    the candidate of RIDGES that is best on the held-out inputs or by cross-validation is taken.

    Where all kept inputs are 0 throughout, nothing can be fitted and W_K stays.

    Raises:
        RcpuError: the normal equations are singular at this λ, or λ is to be chosen without held-out inputs.
    """
    if p.ridge is not None:
        return _ridge(p, p.ridge)
    if p.choose == "gcv":
        pulled = p.pull == "weight"
        left, lost = (p.bracket, p.lost) if pulled else (p.across, p.energy)
        found = ridge.cross_validation(p.inside, left, lost, p.x.tokens, ridge.RIDGES)
        return _ridge(p, ridge.RIDGES[found.index(min(found))])
    if p.held_out is None:
        raise RcpuError("choosing λ needs held-out windows: ask for at least one, or give λ as a number")
    candidates, checked = [_ridge(p, strength) for strength in ridge.RIDGES], Outputs(p.weight, p.held_out)
    if p.held_out_shift is not None:
        return min(candidates, key=lambda c: checked.shifted_error(p.columns, c, p.held_out_shift))
    return min(candidates, key=lambda c: checked.squared_error(p.columns, c))


def _ridge(p: Problem, strength: float) -> Compensated:
    pulled = p.pull == "weight" or not p.inside.any()
    found = ridge.ridge(p.inside, p.bracket if pulled else p.across, strength, tokens=p.x.tokens).to(p.weight.dtype)
    return p.solved(p.kept + found if pulled else found, ridge=strength)


def two_sided(p: Problem) -> Compensated:
    """Q_L W_K Q_R with singular values rescaled, after COEC (arXiv 2608.21142), see twosided.py."""
    found = twosided.solve(p.kept.to(p.dtype), p.inside, p.across, p.energy, p.x.tokens)
    return p.solved(found.weight, ridge=found.ridge)


def bias(p: Problem) -> Compensated:
    """W_K with the mean of what was lost added to the output, W_R mean(x_R): FLAP (An et al., AAAI 2024)."""
    return Compensated(p.kept, bias=p.mean_lost.to(p.weight))


@dataclass(frozen=True)
class Turn:
    """Options of rotations."""

    proper: bool = option(False, "Proper rotation (det Q = +1)", "No reflection is part of Q.")
    by_head: bool = option(
        False, "Q block by block", "Q is block-diagonal, each block as wide as a head: fewer numbers to fit."
    )


@dataclass(frozen=True)
class Ridge:
    """Options of least squares."""

    ridge: float | None = option(
        1e-2,
        "Ridge λ ÷ mean diagonal",
        "Relative to the mean of the diagonal of X_K X_Kᵀ; auto chooses among five.",
        low=0,
        auto=True,
    )
    choose: str = option("held_out", "λ auto by", "What says which λ is best where it is auto.", choices=CHOICES)
    pull: str = option("weight", "Ridge pulls", "What a strong λ leaves.", choices=PULLS)


COMPENSATORS = {
    "none": Part(none, "None"),
    "rotation": Part(rotation, "Rotation (RCPU)", Turn, "arXiv 2510.07782"),
    "rotation_scale": Part(rotation_scale, "Rotation and scale", Turn, "arXiv 2510.07782"),
    "least_squares": Part(least_squares, "Least squares with ridge", Ridge),
    "two_sided": Part(two_sided, "Turned on both sides", source="after COEC, arXiv 2608.21142, as far as public"),
    "bias": Part(bias, "Bias (FLAP)", source="An et al., AAAI 2024"),
}
