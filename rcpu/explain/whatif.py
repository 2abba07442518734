"""Questions to the statistics of one projection on the dense path: what would go, and what would repair it.

Nothing here runs the model. Products that no answer changes are kept, so that a new ratio, scorer, unit or
compensator costs a decomposition at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rcpu.base.answers import Answers
from rcpu.methods import procrustes
from rcpu.methods.compensation import COMPENSATORS, Outputs, Problem, quadratic
from rcpu.methods.scoring import column_scores, magnitude
from rcpu.statistics.kept import SiteData
from rcpu.statistics.precision import full_fp32
from rcpu.statistics.sums import Statistics

ANSWERS = 128  # that one projection remembers, about half of them decompositions
#: What the RCPU score is made of; leaving one out gives an ablation.
FACTORS = {
    "weight": ("‖W_j‖₂", magnitude),
    "activation": ("mean|x_j|", lambda weight, x: x.mean_absolute),
    "variance": ("Var(x_j)", lambda weight, x: x.variance),
}


@dataclass(frozen=True)
class Errors:
    """‖Y − Ŷ‖_F / ‖Y‖_F on the calibration windows, and on held-out ones if there are any."""

    calibration: float
    held_out: float | None


def factors(weight: Tensor, x: Statistics) -> dict[str, Tensor]:
    """The three factors of the RCPU score, (d_in,) fp64 each, by their key in FACTORS."""
    return {name: factor(weight, x) for name, (_, factor) in FACTORS.items()}


def shares(parts: dict[str, Tensor]) -> dict[str, float]:
    """How much of the order each factor sets: cov(ln f, ln Πf) / var(ln Πf), which add up to 1.

    A share below 0 works against the order. Columns with a factor of 0 are left out; NaN where fewer than two scores
    differ.
    """
    logs = {name: values.log() for name, values in parts.items()}
    product = sum(logs.values())
    whole = product.isfinite()
    spread = product[whole] - product[whole].mean() if whole.any() else product[whole]
    power = (spread**2).sum().item()
    return {
        name: (values[whole] * spread).sum().item() / power if power > 0 else float("nan")
        for name, values in logs.items()
    }


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


def rank_correlations(many: Sequence[Tensor]) -> Tensor:
    """Spearman's ρ of every two score vectors, (n, n): r of their ranks, ties by position; NaN for constant scores."""
    flat = [v.flatten() for v in many]
    rho = torch.corrcoef(torch.stack([v.argsort(stable=True).argsort(stable=True).double() for v in flat]))
    constant = torch.tensor([bool(v.min() == v.max()) for v in flat])
    return rho.masked_fill(constant | constant[:, None], float("nan"))


def turned(rotation: procrustes.Rotation, points: Tensor, t: float) -> Tensor:
    """exp(t log Q) applied to columns (d_out, n): t = 0 leaves them, t = 1 gives Q times them.

    With H = (Q + Qᵀ)/2 = V cos θ Vᵀ and K = (Q − Qᵀ)/2, Q^t = V cos tθ Vᵀ + K V (sin tθ / sin θ) Vᵀ. A reflected
    direction (eigenvalue −1) has no path of rotations: it shrinks through zero as cos πt.
    """
    v, cosines = rotation.eigen
    even, odd = powers(cosines, t)
    inner = v.mT @ points.to(v.dtype)
    skew = (rotation.q - rotation.q.mT) / 2
    return v @ (even[:, None] * inner) + skew @ (v @ (odd[:, None] * inner))


def powers(cosines: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
    """cos tθ and sin tθ / sin θ of eigen-angles θ given by their cosines; 0 in place of the latter at θ = π.

    With ``t`` as a column (n, 1) both are (n, d).
    """
    theta = cosines.clamp(-1, 1).arccos()
    sine = theta.sin()
    single = sine < 1e-7
    limit = torch.where(theta > 1, 0.0, 1.0).to(theta) * t
    return (t * theta).cos(), torch.where(single, limit, (t * theta).sin() / torch.where(single, 1.0, sine))


#: Repairs of which the error is known without waiting; both turns of ``two_sided`` take a decomposition each round.
INSTANT = frozenset({"none", "rotation", "rotation_scale", "least_squares", "bias"})


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
        _ = self.outputs.product, self.outputs.energy  # those of the held-out windows when errors are asked for
        self._answers = Answers(ANSWERS)

    @property
    def bytes(self) -> int:
        """What it holds in memory, about: weight, products, and a few decompositions."""
        d_out, d_in = self.weight.shape
        return 4 * d_out * d_in * (2 + bool(self.held_out)) + 8 * d_out**2 * 6

    def remember(self, key: tuple, answer: Callable[[], Any]) -> Any:
        """The kept answer, or a new one, see :meth:`rcpu.base.answers.Answers.ask`."""
        return self._answers.ask(key, answer)

    def scores(self, scorer: str, seed: int = 0) -> Tensor:
        """Importance of every input column, (d_in,) fp64."""
        return self.remember(
            ("scores", scorer, seed),
            lambda: column_scores(self.weight, self.x, scorer, layer=self.layer, site=self.site, seed=seed),
        )

    @full_fp32()
    def cross_products(self, columns: Tensor) -> Tensor:
        """M = Y Zᵀ for these kept columns, (d_out, d_out)."""
        return self.outputs.cross_products(columns.to(self.weight.device))

    def singular_values(self, columns: Tensor) -> Tensor:
        """Of M = Y Zᵀ, descending, (d_out,) fp64; cheaper than the whole rotation."""
        key = key_of(columns)
        for proper in (False, True):
            if rotation := self._answers.known(("rotation", key, proper)):
                return rotation.singular_values
        return self.remember(("spectrum", key), lambda: procrustes.singular_values(self.cross_products(columns)))

    def rotation(self, columns: Tensor, proper: bool = False) -> procrustes.Rotation:
        """The best rotation for these kept columns."""
        rank = min(len(columns), self.x.tokens, len(self.weight))
        return self.remember(
            ("rotation", key_of(columns), proper),
            lambda: procrustes.solve(self.cross_products(columns), rank=rank, proper=proper),
        )

    @full_fp32()
    def plain_error(self, columns: Tensor) -> Errors:
        """Relative error of keeping these columns and repairing nothing; needs no decomposition."""
        k = columns.to(self.weight.device)

        def relative(y: Outputs) -> float:
            return (y.lost(k) / (y.energy or 1.0)) ** 0.5

        return self.remember(
            ("plain", key_of(columns)),
            lambda: Errors(relative(self.outputs), relative(self.held_out) if self.held_out else None),
        )

    def errors(self, columns: Tensor, ridge: float | None = 1e-2, proper: bool = False) -> dict[str, Errors]:
        """Relative errors of every compensator that is worked out at once, by its key in COMPENSATORS.

        Raises:
            RcpuError: least squares has no solution at this λ, or λ is to be chosen without held-out windows.
        """
        return self.remember(
            ("errors", key_of(columns), ridge, proper),
            lambda: self._errors(columns.to(self.weight.device), ridge, proper),
        )

    @full_fp32()
    def _errors(self, k: Tensor, ridge: float | None, proper: bool) -> dict[str, Errors]:
        """From ‖Y − Z‖² = tr(W_R G_RR W_Rᵀ), which only the removed columns R enter, and from small sums beside it."""
        held = self.held_out
        problem = Problem(self.weight, self.x, k, None, ridge=ridge, held_out=held and held.x)
        plain, gone = problem.kept, self.weight[:, problem.removed]
        with ThreadPoolExecutor(1) as pool:  # two chains at once: no decomposition keeps all cores busy
            squaring = pool.submit(self._least_squares_gain, problem)
            rotation = self.rotation(k.cpu(), proper)
            shift = COMPENSATORS["bias"](problem).bias.cpu().double()
            turn = (rotation.q - torch.eye(len(rotation.q)).to(rotation.q)).to(plain.dtype) @ plain  # (Q − I) W_K
            scale, known = 1.0, []
            for y in filter(None, (self.outputs, held)):
                lost = y.lost(k)
                crossed = y.product[:, k]
                trace, gain = ((side * crossed).sum(dtype=torch.float64).item() for side in (plain, turn))
                kept = lost + 2 * trace - y.energy  # ‖Z‖² = ‖Y − Z‖² + 2 tr(YZᵀ) − ‖Y‖²
                if y is self.outputs and kept > 0:  # the best scale is that of the calibration windows
                    scale = (trace + gain) / kept
                turned = lost - 2 * gain
                total = y.x.total[problem.removed.cpu()]
                known.append(
                    {
                        "none": lost,
                        "rotation": turned,
                        "rotation_scale": turned + (scale**2 - 1) * kept - 2 * (scale - 1) * (trace + gain),
                        "bias": lost + (y.x.tokens * shift @ shift - 2 * shift @ (gone.cpu().double() @ total)).item(),
                    }
                )
            gains = squaring.result()
        found: dict[str, list[float | None]] = {name: [] for name in COMPENSATORS if name in INSTANT}
        for y, squared, gain in zip((self.outputs, held), known, gains, strict=False):
            squared["least_squares"] = squared["none"] - gain
            for name in found:
                found[name].append((max(squared[name], 0.0) / (y.energy or 1.0)) ** 0.5)
        return {name: Errors(values[0], values[1] if held else None) for name, values in found.items()}

    @full_fp32()
    def _least_squares_gain(self, p: Problem) -> list[float]:
        """How much less than ‖Y − Z‖² least squares leaves, on the calibration and then on the held-out windows.

        With C = W_R G_RK and Δ = W' − W_K it is 2⟨C, Δ⟩ − tr(Δ G_KK Δᵀ), on the calibration windows
        ⟨C, Δ⟩ + λ‖Δ‖² because there Δ (G_KK + λI) = C.
        """
        solved = COMPENSATORS["least_squares"](p)
        change, k, gone = solved.weight - p.kept, p.columns, p.removed

        def bracket(x: Statistics) -> float:
            return ((p.weight[:, gone] @ x.gram[gone][:, k]) * change).sum(dtype=torch.float64).item()

        damping = solved.ridge * p.x.gram.diagonal()[k].mean().item()
        gains = [bracket(p.x) + damping * change.square().sum(dtype=torch.float64).item()]
        if p.held_out is not None:
            gains.append(2 * bracket(p.held_out) - quadratic(change, p.held_out.gram[k][:, k]))
        return gains


def key_of(columns: Tensor) -> bytes:
    """What names a set of kept columns among the answers of a projection."""
    return columns.cpu().numpy().tobytes()


def spectra(projection: Projection, many: Sequence[Tensor]) -> list[Tensor]:
    """Singular values of M for several sets of kept columns, two decompositions at once."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(projection.singular_values, many))


def effective_rank(singular_values: Tensor) -> float:
    """exp of the entropy of the singular values as shares of their sum (Roy and Vetterli, EUSIPCO 2007); 0 for none."""
    total = singular_values.sum()
    if total <= 0:
        return 0.0
    part = singular_values / total
    return (-torch.special.xlogy(part, part).sum()).exp().item()


def carried(singular_values: Tensor) -> Tensor:
    """Share of Σσ that the largest i values carry, (d_out,): of M = YZᵀ, σ are energies, and tr QᵀM = Σσ at best."""
    total = singular_values.sum()
    return singular_values.cumsum(0) / (total if total > 0 else 1.0)


def values_for(singular_values: Tensor, share: float = 0.99) -> int:
    """How many of the largest singular values carry this share of their sum."""
    if singular_values.sum() <= 0:
        return 0
    return min(int((carried(singular_values) < share - 1e-12).sum()) + 1, len(singular_values))


def numerical_rank(singular_values: Tensor, bound: int, dtype: torch.dtype = torch.float32) -> int:
    """How many singular values stand above the rounding of sums in ``dtype``, at most ``bound``."""
    if singular_values[0] <= 0:
        return 0
    return min(int((singular_values > procrustes.TOLERANCE[dtype] * singular_values[0]).sum()), bound)
