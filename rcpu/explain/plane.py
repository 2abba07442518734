"""The orthogonal Procrustes problem in the plane, to be looked at: pairs of points, and one rotation or mirror."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rcpu.methods import procrustes


@dataclass(frozen=True, eq=False)
class Fit:
    """What the best orthogonal 2 × 2 matrix does to the points Z to bring them to their targets Y."""

    q: Tensor  # (2, 2)
    turned: Tensor  # (2, points) QZ
    determinant: int  # +1: a rotation; −1: a mirror
    angle: float  # degrees in (−180, 180]: of the rotation, counter-clockwise; of the mirror's axis, in (−90, 90]
    before: float  # ‖Y − Z‖_F / ‖Y‖_F
    after: float  # ‖Y − QZ‖_F / ‖Y‖_F
    free: float  # ‖Y − AZ‖_F / ‖Y‖_F with the best of all 2 × 2 matrices A
    singular_values: tuple[float, float]  # of M = Y Zᵀ


def fit(y: Tensor, z: Tensor, proper: bool = False) -> Fit:  # (2, points) each
    """Q = argmin ‖Y − QZ‖_F over QᵀQ = I, from M = Y Zᵀ (Schönemann 1966); ``proper`` allows rotations only.

    Raises:
        ValueError: the two sets are not of one shape (2, points), or not finite.
    """
    if y.shape != z.shape or y.ndim != 2 or len(y) != 2 or not y.shape[1]:
        raise ValueError(f"Y and Z must both be (2, points), got {tuple(y.shape)} and {tuple(z.shape)}")
    y, z = y.double(), z.double()
    found = procrustes.solve(y @ z.mT, proper=proper)
    q = found.q
    angle = math.degrees(math.atan2(q[1, 0], q[0, 0]))
    if found.determinant < 0:
        angle /= 2  # the mirror at the line through 0 at angle α is [[cos 2α, sin 2α], [sin 2α, −cos 2α]]
    energy = y.norm().item() or 1.0
    # Q is one of the matrices A, and lstsq is less exact than it where M is singular.
    free = (y - torch.linalg.lstsq(z.mT, y.mT, driver="gelsd").solution.mT @ z).norm().item()
    after = (y - q @ z).norm().item()
    return Fit(
        q=q,
        turned=q @ z,
        determinant=found.determinant,
        angle=angle,
        before=(y - z).norm().item() / energy,
        after=after / energy,
        free=min(free, after) / energy,
        singular_values=tuple(found.singular_values.tolist()),
    )
