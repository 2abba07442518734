"""The path exp(t log Q) Z from the pruned outputs to the rotated ones, seen in three directions and by its error.

Also what a picture of all layers needs of one projection. Everything is remembered by the projection (see whatif.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from rcpu.explain.whatif import Errors, Projection, key_of, powers
from rcpu.methods.procrustes import Rotation
from rcpu.statistics.decompose import eigh, working_dtype
from rcpu.statistics.precision import full_fp32

POINTS = 160  # tokens that are drawn
FLIPPED = -1 + 1e-9  # cosines of eigen-angles below it belong to a reflected direction


@dataclass(frozen=True, eq=False)
class Directions:
    """The main directions of Y = WX, and where sampled tokens lie in them."""

    vectors: Tensor  # (d_out, 3) orthonormal, fp64
    shares: tuple[float, ...]  # of ‖Y‖²_F, by direction
    tokens: Tensor  # (n,) places of the drawn tokens in the flattened sample
    y: Tensor  # (n, 3) fp64


@dataclass(frozen=True, eq=False)
class Turning:
    """exp(t log Q) Z for every t, after one decomposition: see :func:`rcpu.explain.whatif.turned` for the formula."""

    directions: Directions
    rotation: Rotation
    _inner: Tensor  # (d_out, n) VᵀZ of the drawn tokens
    _even: Tensor  # (3, d_out) the directions in V
    _odd: Tensor  # (3, d_out) the directions in KV, K the skew part of Q
    _aligned: Tensor  # (2, d_out) diagonals of VᵀMV and (KV)ᵀMV
    _lost: float  # ‖Y − Z‖²
    _trace: float  # tr M
    _energy: float  # ‖Y‖²
    _flipped: float  # ‖Z‖² in the directions that Q reflects

    def at(self, t: float) -> Tensor:
        """Coordinates of exp(t log Q) Z in the three directions, (n, 3)."""
        even, odd = powers(self.rotation.eigen[1], t)
        return ((self._even * even + self._odd * odd) @ self._inner).mT.cpu()

    def errors(self, ts: Sequence[float]) -> list[float]:
        """‖Y − exp(t log Q) Z‖_F / ‖Y‖_F at each t, over all calibration tokens and all directions."""
        cosines = self.rotation.eigen[1]
        t = torch.tensor(ts).to(cosines)[:, None]
        even, odd = powers(cosines, t)
        aligned = even @ self._aligned[0] + odd @ self._aligned[1]
        # ‖Z‖² shrinks where a reflected direction goes through zero; elsewhere a rotation keeps it.
        shrunk = self._flipped * (torch.pi * t[:, 0]).sin() ** 2
        squared = self._lost - 2 * (aligned - self._trace) - shrunk
        return (squared.clamp_min(0) / (self._energy or 1.0)).sqrt().tolist()

    def error(self, t: float) -> float:
        """The same at one t."""
        return self.errors([t])[0]


@dataclass(frozen=True, eq=False)
class Overview:
    """One projection in a picture of all layers."""

    layer: int
    kept: int  # columns
    singular_values: Tensor  # (d_out,) of M
    angles: Tensor  # (d_out,) eigen-angles of Q in degrees, ascending
    channel_angles: Tensor  # (d_out,) degrees
    determinant: int
    rank: int
    errors: dict[str, Errors]


def directions(projection: Projection) -> Directions:
    """The three main directions of Y, from W G Wᵀ, and the drawn tokens in them."""
    return projection.remember(("directions",), lambda: _directions(projection))


def turning(projection: Projection, columns: Tensor, proper: bool = False) -> Turning:
    """The path for these kept columns."""
    key = ("turning", key_of(columns), proper)
    return projection.remember(key, lambda: _turning(projection, columns, proper))


def overview(projection: Projection, columns: Tensor, ridge: float | None = 1e-2, proper: bool = False) -> Overview:
    """What a picture of all layers shows of this projection; raises ``RcpuError`` as ``Projection.errors`` does."""
    errors, rotation = projection.errors(columns, ridge, proper), projection.rotation(columns, proper)
    return Overview(
        projection.layer,
        len(columns),
        rotation.singular_values,
        rotation.angles,
        rotation.channel_angles,
        rotation.determinant,
        rotation.rank,
        errors,
    )


@full_fp32()
def _directions(projection: Projection) -> Directions:
    weight = projection.weight
    outer = projection.outputs.product @ weight.mT
    outer = outer.to(working_dtype(outer))
    energies, vectors = eigh((outer + outer.mT) / 2)
    vectors = vectors[:, -3:].flip(1)
    # An eigenvector's sign is arbitrary: let its largest entry be positive, so that every machine shows one picture.
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    vectors = vectors * largest.sign()
    x = projection.sample.flatten(0, 1)
    tokens = torch.linspace(0, len(x) - 1, min(POINTS, len(x))).round().long()
    y = (x[tokens].to(weight) @ weight.mT).to(vectors.dtype) @ vectors
    total = energies.clamp_min(0).sum().item() or 1.0
    return Directions(vectors, tuple(max(e, 0.0) / total for e in energies[-3:].flip(0).tolist()), tokens, y.cpu())


@full_fp32()
def _turning(projection: Projection, columns: Tensor, proper: bool) -> Turning:
    k = columns.to(projection.weight.device)
    kept = projection.weight[:, k]
    with ThreadPoolExecutor(1) as pool:  # beside the decomposition: what needs no Q
        beside = pool.submit(_beside, projection, k)
        rotation = projection.rotation(columns, proper)
        v, cosines = rotation.eigen
        seen, z, m, lost = beside.result()
    q = rotation.q
    kv = q @ v - v * cosines  # Q = H + K and H V = V cos θ
    mv = m.to(v.dtype) @ v
    flipped = v[:, cosines < FLIPPED]
    back = (flipped.mT @ kept.to(v.dtype)).to(kept.dtype)  # Zᵀv = X_Kᵀ (W_Kᵀ v)
    gram = projection.x.gram
    through = ((back @ gram[k][:, k]) * back).sum(dtype=torch.float64).item() if len(back) else 0.0
    return Turning(
        directions=seen,
        rotation=rotation,
        _inner=v.mT @ z.mT.to(v.dtype),
        _even=seen.vectors.mT.to(v) @ v,
        _odd=seen.vectors.mT.to(v) @ kv,
        _aligned=torch.stack([(v * mv).sum(0), (kv * mv).sum(0)]),
        _lost=lost,
        _trace=m.diagonal().sum(dtype=torch.float64).item(),
        _energy=projection.outputs.energy,
        _flipped=through,
    )


@full_fp32()
def _beside(projection: Projection, k: Tensor) -> tuple[Directions, Tensor, Tensor, float]:
    kept = projection.weight[:, k]
    seen = directions(projection)
    x = projection.sample.flatten(0, 1)[seen.tokens].to(kept)
    m = projection.outputs.cross_products(k)
    return seen, x[:, k] @ kept.mT, m, projection.outputs.lost(k)
