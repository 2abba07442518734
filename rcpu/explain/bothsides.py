"""The two-sided turn of one projection, to look at: singular values before and after, and how far each side turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from rcpu.base.errors import Cancelled
from rcpu.explain.whatif import Errors, Projection
from rcpu.methods import twosided
from rcpu.methods.compensation import Compensated, Problem
from rcpu.statistics.decompose import svd
from rcpu.statistics.precision import full_fp32


@dataclass(frozen=True, eq=False)
class TwoSides:
    """W' = L diag(s) Rᵀ beside W_K = U diag(σ) Vᵀ. Angles in degrees, between each pair of singular vectors."""

    before: Tensor  # (r,) σ, descending
    after: Tensor  # (r,) s
    left: Tensor  # (r,) angle between u_i and l_i: outputs
    right: Tensor  # (r,) between v_i and r_i: inputs
    ridge: float  # λ of the singular values, by cross-validation
    errors: dict[str, Errors]  # by repair, "two_sided" among them


@full_fp32()
def two_sides(projection: Projection, columns: Tensor, cancelled: Callable[[], bool] = lambda: False) -> TwoSides:
    """Turn W_K on both sides as repair ``two_sided`` does; takes a few decompositions a round.

    Raises:
        Cancelled: ``cancelled()`` was true between two steps.
    """
    problem = Problem(projection.weight, projection.x, columns.to(projection.weight.device))
    u, _, vh = svd(problem.kept.to(problem.dtype))
    if cancelled():
        raise Cancelled("cancelled")
    found = twosided.solve(
        problem.kept.to(problem.dtype), problem.inside, problem.across, problem.energy, projection.x.tokens
    )
    if cancelled():
        raise Cancelled("cancelled")
    new = Compensated(found.weight.to(projection.weight.dtype))
    sets = [y for y in (projection.outputs, projection.held_out) if y is not None]
    errors = [(y.squared_error(problem.columns, new) / (y.energy or 1.0)) ** 0.5 for y in sets]
    return TwoSides(
        found.before.cpu(),
        found.values.cpu(),
        _angles(u, found.left),
        _angles(vh.mT, found.right),
        found.ridge,
        projection.errors(columns) | {"two_sided": Errors(errors[0], errors[1] if len(errors) > 1 else None)},
    )


def _angles(a: Tensor, b: Tensor) -> Tensor:
    """Angles between columns of the same number, (r,) degrees in [0, 180]."""
    return (a * b).sum(0).clamp(-1, 1).arccos().rad2deg().cpu()
