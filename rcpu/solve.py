"""One site from end to end: scores → kept units → new weight → errors, spectrum and angles.

Pure tensors and statistics: no model, no forward pass, so that a page can ask "what if" as often as it likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields

from torch import Tensor

from rcpu import procrustes
from rcpu.compensation import COMPENSATORS, Outputs, Problem, turned_error
from rcpu.config import PruneConfig
from rcpu.direct import DirectOutputs
from rcpu.masking import Removal, remove
from rcpu.precision import full_fp32
from rcpu.scoring import column_scores
from rcpu.statistics import Statistics

#: A decomposition keeps one core busy, what else a site needs the others. These threads stay: each new one would leave
#: behind memory of its own.
_beside = ThreadPoolExecutor(2, "decomposition")


@dataclass(frozen=True, eq=False)
class SiteResult:
    """What was decided and found at one projection of one layer. Errors are ‖Y − Ŷ‖_F / ‖Y‖_F; angles in degrees."""

    layer: int
    site: str
    unit: str
    scores: Tensor  # (d_in,) importance of every column, fp64
    unit_scores: Tensor  # (strata, units) their sum over each unit
    keep: Tensor  # (strata, units) bool
    columns: Tensor  # (kept,) kept columns, ascending
    weight: Tensor  # (d_out, kept) new weight
    bias: Tensor | None  # (d_out,) what compensation adds to the output
    tokens: int  # calibration tokens behind it
    error_none: float
    error_compensated: float
    error_none_held_out: float | None
    error_compensated_held_out: float | None
    singular_values: Tensor  # (d_out,) of M = Y Zᵀ
    rank: int
    _angles: Future[Tensor]  # see angles
    channel_angles: Tensor  # (d_out,)
    principal_angles: Tensor  # (rank,)
    determinant: int
    scale: float | None
    ridge: float | None

    @property
    def angles(self) -> Tensor:
        """Eigen-angles of Q, (d_out,); worked out while the caller goes on, so they may have to be waited for."""
        return self._angles.result()

    @property
    def kept(self) -> int:
        """Units that stay."""
        return int(self.keep.sum())

    @property
    def units(self) -> int:
        """Units there were."""
        return self.keep.numel()

    def summary(self) -> dict:
        """The scalars, for tables and JSON; ``kept`` and ``units`` count units, ``kept_columns`` input columns."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("bias", "_angles")}
        return {
            **{k: v for k, v in values.items() if not isinstance(v, Tensor)},
            "kept": self.kept,
            "units": self.units,
            "kept_columns": len(self.columns),
            "columns": len(self.scores),
            "mean_angle": self.angles.mean().item(),
        }


def select(
    weight: Tensor, calibration: Statistics, layout: Tensor, config: PruneConfig, *, layer: int, site: str
) -> tuple[Tensor, Removal]:
    """Scores of one projection's columns, (d_in,), and what goes as ``config`` says; no Gram matrix is needed."""
    scores = column_scores(weight, calibration, config.scorer, layer=layer, site=site, seed=config.seed)
    return scores, remove(scores, layout, config.ratio_of(layer))


@full_fp32()
def solve_site(
    weight: Tensor,  # (d_out, d_in)
    calibration: Statistics,
    held_out: Statistics | None,
    layout: Tensor,  # (strata, units, columns), see masking.py
    config: PruneConfig,
    *,
    layer: int,
    site: str,
    unit: str,
    direct: tuple[DirectOutputs, DirectOutputs | None] | None = None,
) -> SiteResult:
    """Score, mask and compensate one projection as ``config`` says, from the sums of its inputs.

    With the outputs of calibration and held-out windows in ``direct``, the sums need no Gram matrix.

    Raises:
        RcpuError: least squares has no solution at the given λ.
        ValueError: M = Y Zᵀ is not finite.
    """
    home, dtype = weight.device, weight.dtype
    if home.type == "mps":  # no fp64 there
        weight, calibration, held_out = weight.cpu(), calibration.to("cpu"), held_out and held_out.to("cpu")
    w = weight.to(calibration.gram.dtype)
    scores, removal = select(w, calibration, layout, config, layer=layer, site=site)
    k = removal.columns.to(w.device)

    outputs, checked = direct or (Outputs(w, calibration), held_out and Outputs(w, held_out))
    rank = min(len(k), calibration.tokens, len(w))
    known = [outputs, checked] if checked else [outputs]
    m = [outputs.cross_products(k)]
    turning = _beside.submit(procrustes.solve, m[0], rank=rank, proper=config.proper)
    m += [y.cross_products(k) for y in known[1:]]
    lost = [y.lost(k) for y in known]
    error_none, error_none_held_out = _errors(known, lost)
    rotation = turning.result()
    angles = _beside.submit(lambda: rotation.angles)
    new = COMPENSATORS[config.compensation](Problem(w, calibration, k, rotation, ridge=config.ridge, held_out=held_out))
    for y in filter(None, direct or ()):
        y.repair(new)
    if config.compensation == "none":
        left = lost
    elif new.turn is not None:
        left = [turned_error(*pair, new.turn) for pair in zip(lost, m, strict=True)]
    else:
        left = [y.squared_error(k, new) for y in known]
    error_compensated, error_compensated_held_out = _errors(known, left)
    return SiteResult(
        layer=layer,
        site=site,
        unit=unit,
        scores=scores,
        unit_scores=removal.unit_scores,
        keep=removal.keep,
        columns=removal.columns,
        weight=new.weight.to(home, dtype),
        bias=None if new.bias is None else new.bias.to(home, dtype),
        tokens=calibration.tokens,
        error_none=error_none,
        error_compensated=error_compensated,
        error_none_held_out=error_none_held_out,
        error_compensated_held_out=error_compensated_held_out,
        singular_values=rotation.singular_values,
        rank=rotation.rank,
        _angles=angles,
        channel_angles=rotation.channel_angles,
        principal_angles=rotation.principal_angles,
        determinant=rotation.determinant,
        scale=new.scale,
        ridge=new.ridge,
    )


def _errors(known: Sequence[Outputs | DirectOutputs], squared: Sequence[float]) -> tuple[float, float | None]:
    """Errors over ‖Y‖_F on the calibration windows and on those held out, if any are."""
    found = [(error / (y.energy or 1.0)) ** 0.5 for y, error in zip(known, squared, strict=True)]
    return found[0], found[1] if len(found) > 1 else None
