"""Errors of one projection on held-out windows while the calibration windows become more: where does a fit over-fit?

Sums add up, so windows are taken in chunks and each passes once through the dense layers. Knows the dense path only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rcpu.base.errors import RcpuError
from rcpu.methods import procrustes
from rcpu.methods.compensation import COMPENSATORS, Compensated, Outputs, Problem
from rcpu.methods.scoring import column_scores
from rcpu.methods.units import remove, units_of
from rcpu.models.families import layers_of, site_named, weight_of
from rcpu.models.loading import Model
from rcpu.statistics.passes import Pass, Progress
from rcpu.statistics.precision import full_fp32
from rcpu.statistics.sums import Accumulator, Statistics
from rcpu.text.windows import Windows

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)  # calibration windows
RIDGES = (1e-4, 1e-2, 1e-1)  # λ ÷ mean diag(X_K X_Kᵀ)


@dataclass(frozen=True)
class Step:
    """Relative errors ‖Y − Ŷ‖_F / ‖Y‖_F after so many calibration windows; None where there is no solution."""

    windows: int
    tokens: int
    kept: int  # inputs that stay
    calibration: dict[str, float | None]  # by "none", "rotation" and :func:`squares` of each ridge
    held_out: dict[str, float | None]


def squares(ridge: float) -> str:
    """The key of least squares at one ridge in a :class:`Step`."""
    return f"least_squares {ridge:g}"


@torch.no_grad()
@full_fp32()
def grow(
    model: Model,
    windows: Windows,
    *,
    layer: int,
    site: str,
    ratio: float,
    scorer: str = "rcpu",
    unit: str = "auto",
    counts: Sequence[int] = COUNTS,
    ridges: Sequence[float] = RIDGES,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[Step]:
    """A Step for each of ``counts`` that the windows reach, also told as ``Progress.site`` as soon as it is there.

    Each step is what a run with so many windows would do: scores, kept columns and repair come from those alone.

    Raises:
        RcpuError: no held-out windows, a layer that does not exist, or a unit that this model cannot have.
        Cancelled: ``cancelled()`` was true between two micro-batches.
    """
    layout, steps = units_of(model.net, site_named(model.net, site), unit), []
    seen = growing(model, windows, layer, site, counts, progress=progress, cancelled=cancelled)
    for end, x, held, tell in seen:
        weight = held.weight
        scores = column_scores(weight, x, scorer, layer=layer, site=site)
        columns = remove(scores, layout, ratio).columns.to(weight.device)
        steps.append(_step(weight, x, held, columns, end, ridges))
        tell(steps[-1])
    return steps


def growing(
    model: Model,
    windows: Windows,
    layer: int,
    site: str,
    counts: Sequence[int],
    *,
    progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> Iterator[tuple[int, Statistics, Outputs, Callable[[Any], None]]]:
    """Sums of one projection's inputs for ever more calibration windows: how many, sums, held-out outputs, and a call
    that tells of what was made of them.

    Raises:
        RcpuError: no held-out windows, or a layer that does not exist.
        Cancelled: ``cancelled()`` was true between two micro-batches.
    """
    net = model.net
    if not 0 <= layer < (layers := len(layers_of(net))):
        raise RcpuError(f"layer {layer} does not exist: this model has layers 0 to {layers - 1}")
    if not len(windows.held_out):
        raise RcpuError("errors are compared on held-out windows: ask for at least one")
    ends = sorted({min(c, len(windows.calibration)) for c in counts})
    total = len(windows.held_out) + ends[-1]

    def sums(ids: Tensor, done: int, name: str) -> Statistics:
        def told(p: Progress) -> None:
            progress(Progress((done + p.fraction * len(ids)) / total, name))

        return input_sums(net, ids, windows.text, layer, site, progress=told, cancelled=cancelled)

    held = Outputs(weight_of(net, layer, site).float(), sums(windows.held_out, 0, "measuring the held-out windows"))
    x, start = None, 0
    for end in ends:
        name = f"{end} calibration window{'s' * (end != 1)}"
        part = sums(windows.calibration[start:end], len(windows.held_out) + start, name)
        x, start = part if x is None else x + part, end
        done = (len(windows.held_out) + end) / total
        yield end, x, held, lambda made, done=done, name=name: progress(Progress(done, name, made))


def crossing(steps: Sequence[Step], key: str) -> tuple[int | None, int] | None:
    """Between which numbers of windows least squares (``key``) becomes, and stays, better held-out than the rotation.

    The first is None where it is better from the first step; the answer None where it is not better at the last.
    """
    better = [(s.held_out[key] is not None and s.held_out[key] < s.held_out["rotation"]) for s in steps]
    if not better or not better[-1]:
        return None
    first = len(better) - next((i for i, b in enumerate(reversed(better)) if not b), len(better))
    return (steps[first - 1].windows if first else None), steps[first].windows


@torch.no_grad()
@full_fp32()
def input_sums(
    net: nn.Module,
    ids: Tensor,  # (windows, tokens)
    text: str,
    layer: int,
    site: str,
    *,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Statistics:
    """Statistics of the inputs of one projection of the dense model on these windows; raises ``Cancelled``."""
    windows = Windows(ids, ids[:0], text)
    run = Pass(net, windows, micro_batch=None, passes=layer + 1, progress=progress, cancelled=cancelled)
    sums = Accumulator(weight_of(net, layer, site).shape[1], run.device)
    for i in range(layer + 1):
        for seen in run.layer(net, i, f"layer {i}", last=site if i == layer else None):
            if i == layer and seen.site.name == site:
                sums.add(seen.x)
    return sums.result()


def _step(weight: Tensor, x: Statistics, held: Outputs, k: Tensor, windows: int, ridges: Sequence[float]) -> Step:
    seen = Outputs(weight, x)
    rotation = procrustes.solve(seen.cross_products(k), rank=min(len(k), x.tokens, len(weight)))
    problem = Problem(weight, x, k, rotation)
    found: dict[str, Compensated | None] = {name: COMPENSATORS[name](problem) for name in ("none", "rotation")}
    for ridge in ridges:
        try:
            found[squares(ridge)] = COMPENSATORS["least_squares"](replace(problem, ridge=ridge))
        except RcpuError:  # too few tokens for so small a ridge
            found[squares(ridge)] = None

    def errors(y: Outputs) -> dict[str, float | None]:
        return {
            name: None if new is None else (y.squared_error(k, new) / (y.energy or 1.0)) ** 0.5
            for name, new in found.items()
        }

    return Step(windows, x.tokens, len(k), errors(seen), errors(held))
