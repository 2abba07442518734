"""From no repair to everything that a layer alone can have, one ingredient at a time, with few and with many windows.

Knows the dense path of one projection. What shares a budget between layers, the step along the gradient and the target
that mends the residual stream are of whole runs and have no rung here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rcpu.base.errors import RcpuError
from rcpu.explain.growth import growing
from rcpu.methods import obs, procrustes
from rcpu.methods.compensation import COMPENSATORS, Compensated, Outputs, Problem
from rcpu.methods.scoring import column_scores
from rcpu.methods.subspace import value_subspace
from rcpu.methods.units import kept_columns, remove, removed_count, units_of
from rcpu.models.families import Heads, heads_of, site_named
from rcpu.models.loading import Model
from rcpu.statistics.passes import Progress
from rcpu.statistics.precision import full_fp32
from rcpu.statistics.sums import Statistics
from rcpu.text.windows import Windows

COUNTS = (8, 32, 128)  # calibration windows
RIDGE, DAMPING = 0.3, 1e-2  # of the repair and of the choice, relative to the mean diagonal
RUNGS = {
    "none": "nothing repaired",
    "rotation": "rotation (RCPU)",
    "ridge": "strong ridge instead of the rotation",
    "bias": "… about the mean, with a bias",
    "greedy": "… units chosen one after another",
    "subspace": "… values narrowed in any direction",
}


@dataclass(frozen=True)
class Rung:
    """Relative errors ‖Y − Ŷ‖ ÷ ‖Y‖ with so many calibration windows, by a key of RUNGS."""

    windows: int
    tokens: int
    calibration: dict[str, float]
    held_out: dict[str, float]


@torch.no_grad()
@full_fp32()
def climb(
    model: Model,
    windows: Windows,
    *,
    layer: int,
    site: str,
    ratio: float,
    counts: Sequence[int] = COUNTS,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[Rung]:
    """The ladder at each of ``counts`` that the windows reach, also told as ``Progress.site`` as soon as it is there.

    Raises:
        RcpuError: no held-out windows, a layer that does not exist, or a ratio that removes nothing.
        Cancelled: ``cancelled()`` was true between two micro-batches.
    """
    net = model.net
    seen = growing(model, windows, layer, site, counts, progress=progress, cancelled=cancelled)
    layout = units_of(net, site_named(net, site), "channel")
    gone = removed_count(layout.shape[1], ratio)
    if not gone:
        raise RcpuError(f"{ratio:g} of {layout.shape[1]} channels rounds down to none: take a larger ratio")
    heads, found = heads_of(net) if site == "o_proj" else None, []
    for end, x, held, tell in seen:
        found.append(rung(held.weight, x, held, layout, gone, end, layer=layer, site=site, heads=heads))
        tell(found[-1])
    return found


def rung(
    weight: Tensor,  # (d_out, d_in)
    x: Statistics,
    held: Outputs,
    layout: Tensor,  # (strata, units, columns), see units.py
    gone: int,  # units that leave every stratum
    windows: int,
    *,
    layer: int,
    site: str,
    heads: Heads | None,  # where values may be narrowed
) -> Rung:
    """Every ingredient added to those before it, at one projection."""
    scores = column_scores(weight, x, "rcpu", layer=layer, site=site)
    columns = remove(scores, layout, gone / layout.shape[1]).columns.to(weight.device)
    seen = Outputs(weight, x)
    turn = procrustes.solve(seen.cross_products(columns), rank=min(len(columns), x.tokens, len(weight)))
    mean = x.mean.to(x.gram)
    centred = torch.addr(x.gram, mean, mean, alpha=-x.tokens)
    path = obs.greedy(weight, centred, layout, gone, ridge=DAMPING, block=8)
    chosen = kept_columns(layout, path.keep).to(weight.device)

    def squares(kept: Tensor, about_mean: bool) -> Compensated:
        return COMPENSATORS["least_squares"](Problem(weight, x, kept, ridge=RIDGE, centred=about_mean))

    repairs = {
        "none": (columns, COMPENSATORS["none"](Problem(weight, x, columns))),
        "rotation": (columns, COMPENSATORS["rotation"](Problem(weight, x, columns, turn))),
        "ridge": (columns, squares(columns, False)),
        "bias": (columns, squares(columns, True)),
        "greedy": (chosen, squares(chosen, True)),
    }
    if heads is not None:
        encoders = value_subspace(weight, obs.damped(centred, DAMPING), heads, heads.dim - gone).to(weight)
        repairs["subspace"] = (encoders, squares(encoders, True))

    def errors(y: Outputs) -> dict[str, float]:
        return {name: (y.squared_error(*found) / (y.energy or 1.0)) ** 0.5 for name, found in repairs.items()}

    return Rung(windows, x.tokens, errors(seen), errors(held))
