"""The orthogonal Procrustes problem from M = Y Zᵀ: its solution, spectrum and angles.

Knows one matrix. Decompositions run in fp64 on the CPU, and on a GPU in fp64 up to 1024 columns and fp32 above.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rcpu.methods.polar import polar_factor
from rcpu.statistics import decompose
from rcpu.statistics.decompose import complement, eigenvalues, eigh, svd, svd_of_sums, working_dtype

#: Singular values below this share of the largest are rounding, not signal, by the precision of the sums in M. With
#: fp32 sums of a real model Q agrees with that of fp64 sums down to 1e-7 and starts to differ at 1e-8.
TOLERANCE = {torch.float32: 1e-7, torch.float64: 1e-12}
#: Cosine between null spaces below which a basis of U_⊥ is worked out: rounding grows as its inverse square.
SKEW = {torch.float32: 0.3, torch.float64: 1e-2}


@dataclass(frozen=True, eq=False)
class Rotation:
    """Q = argmin ‖Y − QZ‖_F over QᵀQ = I, with what one wants to know of it. Angles in degrees, fp64, on the CPU."""

    q: Tensor  # (d_out, d_out), on M's device
    singular_values: Tensor | None  # (d_out,) of M, descending; None where Q alone was asked for
    principal_angles: Tensor | None  # (rank,) between range(Z) and range(QZ), ascending; likewise
    alignment: float  # tr(Qᵀ M) = tr S, or less where a reflection was refused: ‖Y − QZ‖² = ‖Y‖² + ‖Z‖² − 2 tr(Qᵀ M)
    rank: int  # of M

    @cached_property
    def determinant(self) -> int:
        """+1 for a rotation, −1 where Q also mirrors: det Q is the product of its eigenvalues.

        They come as pairs of one cosine, and what is left over are a −1 if there is an odd number of them, and a +1.
        Taken with alternating signs the ascending cosines add up to −1 or 1 in odd dimensions, to 0 or 2 in even ones.
        """
        steps = (self._cosines[1::2].sum() - self._cosines[::2].sum()).item()
        return round(1 - steps - len(self.q) % 2)

    @cached_property
    def angles(self) -> Tensor:
        """Phases of Q's eigenvalues in [0, 180], ascending, (d_out,); each plane of rotation counts twice."""
        return _degrees(self._cosines.flip(0))

    @cached_property
    def _cosines(self) -> Tensor:
        return self.eigen[1] if "eigen" in self.__dict__ else eigenvalues((self.q + self.q.mT) / 2)

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvectors V (d_out, d_out) and eigenvalues cos θ (d_out,), ascending, of (Q + Qᵀ)/2."""
        cosines, vectors = eigh((self.q + self.q.mT) / 2)
        return vectors, cosines

    @property
    def channel_angles(self) -> Tensor:
        """How far Q turns each output channel, arccos Q_ii, (d_out,)."""
        return _degrees(self.q.diagonal())


def solve(m: Tensor, rank: int | None = None, proper: bool = False, spectrum: bool = True) -> Rotation:
    """The orthogonal polar factor of M (d_out × d_out), completed nearest to the identity where M says nothing.

    With M = U S Vᵀ of rank r (fp32 or fp64), Q = U_r V_rᵀ + U_⊥ R V_⊥ᵀ; R, the polar factor of U_⊥ᵀ V_⊥, maximises
    tr Q, so Q does not depend on which null-space basis the SVD routine returned; U_⊥ R is the polar factor of
    V_⊥ − U_r U_rᵀ V_⊥. ``rank`` bounds r when it is known from the construction; ``proper`` asks for det Q = +1
    (Kabsch 1976), turned where it costs least. Without ``spectrum`` a large Q on a GPU is found by products alone.

    Raises:
        ValueError: M is not square or not finite.
    """
    if m.ndim != 2 or m.shape[0] != m.shape[1]:
        raise ValueError(f"M = Y Zᵀ must be square, got {tuple(m.shape)}")
    if not m.isfinite().all():
        raise ValueError("M = Y Zᵀ has NaN or Inf entries")
    if not (spectrum or proper) and by_products(m) and (q := polar_factor(m)) is not None:
        most = len(m) if rank is None else min(rank, len(m))
        return Rotation(q, None, None, (q * m).sum(dtype=torch.float64).item(), most)
    tolerance, rounded, m, d = TOLERANCE[m.dtype], m.dtype == torch.float32, m.to(working_dtype(m)), len(m)
    most = d if rank is None else min(rank, d)
    u, s, vh = svd_of_sums(m, most) if rounded else svd(m)
    r = int((s[:most] > tolerance * s[0]).sum())
    u, v, null = u[:, :r], vh[:r].mT, vh[r:].mT
    q, cosines = u @ v.mT, torch.ones(r, dtype=m.dtype, device=m.device)
    least = u[:, -1:], v[:, -1:]
    if r < d:
        turned, c, least = _completed(u, null)
        q.addmm_(turned, null.mT)
        shared = min(r, d - r)  # the pair (range, range) has the angles of the pair (null space, null space)
        cosines[r - shared :] = c[len(c) - shared :]
    if proper and torch.linalg.slogdet(q).sign < 0:
        # Reflect the last direction, which costs least: the least aligned one of the null space, else the smallest σ.
        q = q - 2 * least[0] @ least[1].mT
    return Rotation(
        q=q,
        singular_values=s.cpu().double().sort(descending=True).values,
        principal_angles=_degrees(cosines),
        alignment=(q * m).sum(dtype=torch.float64).item(),
        rank=r,
    )


def by_blocks(m: Tensor, width: int, rank: int | None = None, proper: bool = False) -> Rotation:
    """The best block-diagonal Q, blocks ``width`` wide: each is the polar factor of its block of M.

    What is told of it is of all blocks together; M beside the blocks has no say.
    """
    parts = [solve(m[i : i + width, i : i + width], rank, proper) for i in range(0, len(m), width)]
    return Rotation(
        q=torch.block_diag(*(p.q for p in parts)),
        singular_values=torch.cat([p.singular_values for p in parts]).sort(descending=True).values,
        principal_angles=torch.cat([p.principal_angles for p in parts]).sort().values,
        alignment=sum(p.alignment for p in parts),
        rank=sum(p.rank for p in parts),
    )


def by_products(m: Tensor) -> bool:
    """Whether a decomposition of M costs more than products do: on a GPU, where it is large."""
    return m.device.type == "cuda" and len(m) > decompose.SMALL


def singular_values(m: Tensor) -> Tensor:
    """Singular values of M alone, descending, (d_out,) fp64 on the CPU."""
    return decompose.singular_values(m.to(working_dtype(m))).cpu().double()


def _completed(u: Tensor, null: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """The polar factor P of X = U_⊥ U_⊥ᵀ V_⊥, cosines of null spaces, descending, and the least aligned pair, if any.

    With B = Uᵀ V_⊥ it is XᵀX = I − BᵀB, and with BᵀB = W S² Wᵀ cosines are √(1 − S²) and P = X W (1 − S²)^−½ Wᵀ: that
    needs no decomposition but one as small as the null space.
    """
    b = u.mT @ null
    squared_sines, w = eigh(b.mT @ b)
    c = (1 - squared_sines).clamp_min(0).sqrt()
    if c.numel() and c[-1] < SKEW[u.dtype]:  # rounding would leave P with parts of U
        basis = complement(u)
        a, c, bh = svd(basis.mT @ null)
        return basis @ (a @ bh), c, (basis @ a[:, -1:], null @ bh[-1:].mT)
    x = torch.addmm(null, u, b, alpha=-1)
    turned = x.addmm_((x @ w).mul_(1 / c - 1), w.mT)
    return turned, c, (turned @ w[:, -1:], null @ w[:, -1:])


def _degrees(cosines: Tensor) -> Tensor:
    return cosines.cpu().double().clamp(-1, 1).arccos().rad2deg()
