"""SPSA's gradient of one layer, which MINI-LLM prunes by, beside the true one.

ĝ is the mean over D draws of slope · z. Its mean is g, but every draw also carries the slopes along all other weights:
cos(ĝ, g) of n weights is about ‖g‖ / √(‖g‖² + n‖G‖²/D), G the gradient of the whole model, ‖G‖² the mean slope².
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from rcpu.base.errors import Cancelled
from rcpu.methods.minillm import noises, seed_of
from rcpu.methods.walk import Walk
from rcpu.models.families import layers_of
from rcpu.pruning.recipe import Recipe
from rcpu.statistics.passes import Progress
from rcpu.statistics.precision import full_fp32
from rcpu.text.windows import Windows

BINS = 24
SHARE = 0.9  # of the time that the backward pass takes


@dataclass(frozen=True, eq=False)
class Likeness:
    """How near SPSA comes to the gradient of one matrix."""

    cosines: Tensor  # (draws,) between both after 1, 2, … draws
    expected: Tensor  # (draws,) what theory says of them
    chance: float  # 1/√n: what random directions have
    true: Tensor  # (BINS,) mean true gradient of bins of equally many weights, ascending
    found: Tensor  # (BINS,) mean of SPSA's of the same weights
    error: Tensor  # (BINS,) standard error of that mean
    signs: float  # share of weights whose signs agree


def backward_cost(layers: int, index: int) -> float:
    """Bare forwards that :func:`true_gradient` takes: one below the layer, above it one, the same again, and back."""
    return (index + 3 * (layers - index)) / layers


@torch.no_grad()
@full_fp32()
def true_gradient(
    net: nn.Module,
    windows: Windows,
    index: int,
    *,
    micro_batch: int | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, Tensor]:
    """The gradient of the mean calibration loss by the matrices of one layer, by name in the layer, in fp32.

    Raises:
        Cancelled: ``cancelled()`` was true between two layers.
    """
    layers = layers_of(net)
    how = {"micro_batch": micro_batch, "progress": progress, "cancelled": cancelled}
    walk = Walk(net, windows, passes=len(layers) / SHARE, **how)
    total: dict[str, Tensor] = {}
    for part in walk.parts:
        h = walk.hidden[part]
        for i, layer in enumerate(layers[:index]):
            walk.step(f"layer {i}: forward")
            h = layer(h, **walk.attention)
        with torch.enable_grad():
            wanted = {n: p.detach().requires_grad_() for n, p in layers[index].named_parameters() if p.ndim == 2}
            walk.step(f"layer {index}: forward")
            h = functional_call(layers[index], wanted, (h,), walk.attention)
            for i, layer in enumerate(layers[index + 1 :], index + 1):
                walk.step(f"layer {i}: forward and backward")
                h = checkpoint(layer, h, use_reentrant=False, **walk.attention)
            ids = windows.calibration[part].to(walk.device)
            losses = [
                cross_entropy(net.lm_head(x[:-1]).float(), window[1:], reduction="sum")
                for x, window in zip(net.model.norm(h), ids, strict=True)
            ]
            loss = torch.stack(losses).sum() / windows.calibration[:, 1:].numel()
            for name, g in zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True):
                total[name] = total.get(name, 0) + g.float()
    return total


@torch.no_grad()
def likeness(
    net: nn.Module,
    windows: Windows,
    recipe: Recipe,
    slopes: Sequence[float],
    index: int,
    *,
    micro_batch: int | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Mapping[str, Likeness]:
    """What a run of MINI-LLM with these slopes took for the gradient of a layer's matrices, held against the true one.

    Raises:
        Cancelled: ``cancelled()`` was true between two layers or draws.
    """
    how = {"micro_batch": micro_batch, "progress": progress, "cancelled": cancelled}
    true, layer = true_gradient(net, windows, index, **how), layers_of(net)[index]
    norms = {name: g.double().norm() for name, g in true.items()}
    sums = {name: torch.zeros_like(g) for name, g in true.items()}
    cosines: dict[str, list[float]] = {name: [] for name in true}
    for draw, slope in enumerate(slopes):
        if cancelled():
            raise Cancelled("cancelled")
        progress(Progress(SHARE + (1 - SHARE) * (draw + 1) / len(slopes), f"draw {draw + 1} of {len(slopes)}"))
        for name, z in noises(layer, seed_of(recipe.seed, draw, index), recipe.options.noise):
            sums[name] += slope * z.to(sums[name])
            both = (sums[name].double() * true[name].double()).sum()
            lengths = (sums[name].double().norm() * norms[name]).clamp_min(torch.finfo(torch.float64).tiny)
            cosines[name].append((both / lengths).item())
    along = torch.tensor(slopes, dtype=torch.float64).square().mean()
    return {
        name: _likeness(g.flatten(), sums[name].flatten() / len(slopes), torch.tensor(cosines[name]), along)
        for name, g in true.items()
    }


def _likeness(true: Tensor, found: Tensor, cosines: Tensor, along: Tensor) -> Likeness:
    draws, square = torch.arange(1, len(cosines) + 1), true.double().square().sum().cpu()
    expected = (square / (square + len(true) * along / draws).clamp_min(torch.finfo(torch.float64).tiny)).sqrt()
    order = true.argsort()
    bins = [(true[rows].double(), found[rows].double()) for rows in order.tensor_split(BINS)]
    means = torch.stack([torch.stack((a.mean(), b.mean(), b.std() / len(b) ** 0.5)) for a, b in bins]).cpu()
    agree = (true.sign() == found.sign()).double().mean().item()
    return Likeness(cosines, expected, len(true) ** -0.5, *means.mT, agree)
