"""Questions to the statistics of one projection on the dense path: what would go, and what would repair it.

Nothing here runs the model. Products that no answer changes are kept, so that a new ratio, scorer, unit or
compensator costs a decomposition at most.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rcpu import procrustes
from rcpu.collect import SiteData
from rcpu.compensation import COMPENSATORS, Outputs, Problem
from rcpu.masking import keep_units, kept_columns
from rcpu.precision import full_fp32
from rcpu.scoring import SCORERS, magnitude
from rcpu.statistics import Statistics

ANSWERS = 64  # decompositions that one projection remembers
#: What the RCPU score is made of; leaving one out gives an ablation.
FACTORS = {
    "weight": ("‖W_j‖₂", magnitude),
    "activation": ("mean|x_j|", lambda weight, x: x.mean_absolute),
    "variance": ("Var(x_j)", lambda weight, x: x.variance),
}


@dataclass(frozen=True, eq=False)
class Removal:
    """Which units stay at some ratio: scores of units, mask (strata, units), and the kept columns, ascending."""

    unit_scores: Tensor
    keep: Tensor
    columns: Tensor


@dataclass(frozen=True)
class Errors:
    """‖Y − Ŷ‖_F / ‖Y‖_F on the calibration windows, and on held-out ones if there are any."""

    calibration: float
    held_out: float | None


def factors(weight: Tensor, x: Statistics) -> dict[str, Tensor]:
    """The three factors of the RCPU score, (d_in,) fp64 each, by their key in FACTORS."""
    return {name: factor(weight, x) for name, (_, factor) in FACTORS.items()}


def without(parts: dict[str, Tensor], dropped: str | None) -> Tensor:
    """The product of the factors but one; all three make the RCPU score."""
    product = torch.ones_like(next(iter(parts.values())))
    for name, values in parts.items():
        if name != dropped:
            product = product * values
    return product


def overlap(a: Tensor, b: Tensor) -> float:
    """Share of the units that one mask removes which the other removes too; 1 if both remove none."""
    gone = int((~a).sum())
    return int((~a & ~b).sum()) / gone if gone else 1.0


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's ρ of two score vectors: Pearson's r of their ranks, ties by position; NaN for constant scores."""
    if a.unique().numel() < 2 or b.unique().numel() < 2:
        return float("nan")
    ranks = torch.stack([v.flatten().argsort(stable=True).argsort(stable=True).double() for v in (a, b)])
    return torch.corrcoef(ranks)[0, 1].item()


def turned(rotation: procrustes.Rotation, points: Tensor, t: float) -> Tensor:
    """exp(t log Q) applied to columns (d_out, n): t = 0 leaves them, t = 1 gives Q times them.

    With H = (Q + Qᵀ)/2 = V cos θ Vᵀ and K = (Q − Qᵀ)/2, Q^t = V cos tθ Vᵀ + K V (sin tθ / sin θ) Vᵀ. A reflected
    direction (eigenvalue −1) has no path of rotations: it shrinks through zero as cos πt.
    """
    v, cosines = rotation.eigen
    theta = cosines.clamp(-1, 1).arccos()
    sine = theta.sin()
    single = sine < 1e-7
    ratio = torch.where(
        single,
        torch.where(theta > 1, torch.zeros_like(theta), torch.full_like(theta, t)),
        (t * theta).sin() / torch.where(single, torch.ones_like(sine), sine),
    )
    inner = v.mT @ points.to(v.dtype)
    skew = (rotation.q - rotation.q.mT) / 2
    return v @ ((t * theta).cos()[:, None] * inner) + skew @ (v @ (ratio[:, None] * inner))


class Projection:
    """One projection W (d_out × d_in) with the sums of its inputs; answers are kept, safe to ask from many threads."""

    @full_fp32()
    def __init__(self, weight: Tensor, data: SiteData, *, layer: int, site: str):
        home = weight.device if weight.device.type == "cuda" else torch.device("cpu")
        self.weight = weight.detach().to(home, torch.float32)
        self.x = data.calibration.to(home)
        self.outputs = Outputs(self.weight, self.x)
        self.held_out = Outputs(self.weight, data.held_out.to(home)) if data.held_out else None
        self.sample, self.layer, self.site = data.sample, layer, site
        for outputs in filter(None, (self.outputs, self.held_out)):
            _ = outputs.product, outputs.energy
        self._answers: OrderedDict[tuple, Any] = OrderedDict()

    def _remember(self, key: tuple, answer: Callable[[], Any]) -> Any:
        if key in self._answers:
            return self._answers[key]
        found = answer()
        self._answers[key] = found
        while len(self._answers) > ANSWERS:
            self._answers.popitem(last=False)
        return found

    def scores(self, scorer: str, seed: int = 0) -> Tensor:
        """Importance of every input column, (d_in,) fp64."""
        seed = ((seed * 10_007 + self.layer) * 2 + (self.site == "down_proj")) % 2**63
        return self._remember(
            ("scores", scorer, seed),
            lambda: SCORERS[scorer](self.weight, self.x, attention=self.site == "o_proj", seed=seed),
        )

    def removal(self, scores: Tensor, layout: Tensor, ratio: float) -> Removal:
        """Which units of a layout (see masking.py) stay by these scores."""
        unit_scores, keep = keep_units(scores, layout, ratio)
        return Removal(unit_scores, keep, kept_columns(layout, keep))

    @full_fp32()
    def cross_products(self, columns: Tensor) -> Tensor:
        """M = Y Zᵀ for these kept columns, (d_out, d_out)."""
        return self.outputs.cross_products(columns.to(self.weight.device))

    def singular_values(self, columns: Tensor) -> Tensor:
        """Of M = Y Zᵀ, descending, (d_out,) fp64; cheaper than the whole rotation."""
        key = _key(columns)
        for proper in (False, True):
            if ("rotation", key, proper) in self._answers:
                return self._answers["rotation", key, proper].singular_values
        return self._remember(("spectrum", key), lambda: procrustes.singular_values(self.cross_products(columns)))

    def rotation(self, columns: Tensor, proper: bool = False) -> procrustes.Rotation:
        """The best rotation for these kept columns."""
        rank = min(len(columns), self.x.tokens, len(self.weight))
        return self._remember(
            ("rotation", _key(columns), proper),
            lambda: procrustes.solve(self.cross_products(columns), rank=rank, proper=proper),
        )

    def errors(self, columns: Tensor, ridge: float | None = 1e-2, proper: bool = False) -> dict[str, Errors]:
        """Relative errors of every compensator for these kept columns, by its key in COMPENSATORS.

        Raises:
            RcpuError: least squares has no solution at this λ, or λ is to be chosen without held-out windows.
        """
        return self._remember(
            ("errors", _key(columns), ridge, proper),
            lambda: self._errors(columns.to(self.weight.device), ridge, proper),
        )

    @full_fp32()
    def _errors(self, k: Tensor, ridge: float | None, proper: bool) -> dict[str, Errors]:
        held = self.held_out
        with ThreadPoolExecutor(1) as pool:  # the two decompositions at once: each keeps one core busy
            rotating = pool.submit(self.rotation, k.cpu(), proper)
            problem = Problem(self.weight, self.x, k, None, ridge=ridge, held_out=held and held.x)
            squares = COMPENSATORS["least_squares"](problem)
            rotation = rotating.result()
        plain = self.weight[:, k]
        turned_weight = rotation.q.to(self.weight.dtype) @ plain
        shift = COMPENSATORS["bias"](problem)
        found: dict[str, list[float | None]] = {name: [] for name in COMPENSATORS}
        scale = None
        for y in (self.outputs, held):
            if y is None:
                for values in found.values():
                    values.append(None)
                continue
            kept_energy = self._kept_energy(y, k)
            aligned = (rotation.q.to(plain.dtype) * y.cross_products(k)).sum(dtype=torch.float64).item()
            error = {
                "none": y.squared_error(k, plain),
                "rotation": y.squared_error(k, turned_weight),
                "least_squares": y.squared_error(k, squares.weight),
                "bias": y.squared_error(k, plain, shift.bias),
            }
            # ‖Y − sQZ‖² from ‖Y − QZ‖²: the best scale is that of the calibration windows.
            scale = (aligned / kept_energy if kept_energy > 0 else 1.0) if scale is None else scale
            error["rotation_scale"] = error["rotation"] + (scale**2 - 1) * kept_energy - 2 * (scale - 1) * aligned
            for name, squared in error.items():
                found[name].append((max(squared, 0.0) / (y.energy or 1.0)) ** 0.5)
        return {name: Errors(*values) for name, values in found.items()}

    def _kept_energy(self, y: Outputs, k: Tensor) -> float:
        """‖Z‖²_F = ‖Y − W_R X_R‖²."""
        removed = torch.ones(self.weight.shape[1], dtype=torch.bool, device=k.device)
        removed[k] = False
        gone = self.weight[:, removed]
        crossed = (y.product[:, removed] * gone).sum(dtype=torch.float64).item()
        return y.energy - 2 * crossed + y.squared_error(k, self.weight[:, k])


def _key(columns: Tensor) -> bytes:
    return columns.cpu().numpy().tobytes()
