"""How far outputs drift when columns go and nothing repairs them: of one projection, and along all layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from rcpu.base.errors import Cancelled, RcpuError
from rcpu.explain.whatif import Errors, Projection
from rcpu.methods.compensation import COMPENSATORS, Outputs, Problem
from rcpu.methods.units import keep_units, removed_count
from rcpu.models.limits import check_ids, check_window
from rcpu.statistics.precision import full_fp32
from rcpu.statistics.sums import Statistics


@full_fp32()
def drift_curve(weight: Tensor, x: Statistics, scores: Tensor, layout: Tensor, ratios: Sequence[float]) -> list[float]:
    """‖Y − W_K X_K‖_F / ‖Y‖_F without repair, for each of many ratios at the price of one.

    The error is ‖W_R X_R‖², the sum of C = (WᵀW) ∘ G over R × R. Sets of lower ratios lie inside those of higher
    ones, so with columns ordered by when they go all answers are corners of one table of running sums.
    """
    ranks = torch.empty(layout.shape[1], dtype=torch.long)
    order = torch.empty(weight.shape[1], dtype=torch.long)  # when each column goes: 0 is first
    unit_scores, _ = keep_units(scores, layout, 0.0)
    for stratum, values in zip(layout, unit_scores, strict=True):
        kept_first = values.sort(descending=True, stable=True).indices
        ranks[kept_first] = torch.arange(len(values) - 1, -1, -1)
        order[stratum] = ranks[:, None].expand_as(stratum)
    columns = order.argsort(stable=True).to(weight.device)
    w = weight[:, columns].float()
    table = (w.mT @ w) * x.gram[columns][:, columns].to(w.dtype)
    energy = table.sum(dtype=torch.float64).item() or 1.0
    per_unit = layout.shape[0] * layout.shape[2]
    ends = [removed_count(layout.shape[1], ratio) * per_unit for ratio in ratios]
    found, done, squared = {0: 0.0}, 0, 0.0
    for end in sorted(set(ends)):
        ring = 2 * table[:done, done:end].sum(dtype=torch.float64) + table[done:end, done:end].sum(dtype=torch.float64)
        squared, done = squared + ring.item(), end
        found[end] = (max(squared, 0.0) / energy) ** 0.5
    return [found[end] for end in ends]


@full_fp32()
def constant_error(projection: Projection, columns: Tensor) -> Errors:
    """Relative error where a bias stands in for the mean of what left, W_R mean(x_R), and nothing else is repaired."""
    problem = Problem(projection.weight, projection.x, columns.to(projection.weight.device), None)
    shift = COMPENSATORS["bias"](problem).bias.cpu().double()
    lost, gone = projection.plain_error(columns), problem.removed.cpu()
    weight = projection.weight.cpu()[:, gone].double()

    def relative(y: Outputs, plain: float) -> float:
        # ‖W_R X_R − b 1ᵀ‖² = ‖W_R X_R‖² + n‖b‖² − 2 bᵀ W_R Σx_R
        change = y.x.tokens * shift @ shift - 2 * shift @ (weight @ y.x.total[gone])
        return max(plain**2 + change.item() / (y.energy or 1.0), 0.0) ** 0.5

    held = projection.held_out
    return Errors(relative(projection.outputs, lost.calibration), relative(held, lost.held_out) if held else None)


@torch.no_grad()
@full_fp32()
def stream_drift(
    dense: nn.Module,
    others: Mapping[str, nn.Module],
    windows: Tensor,  # (windows, tokens) ids
    *,
    progress: Callable[[float], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, list[float]]:
    """How far the residual stream of each model is from the dense one's after every layer: mean_t ‖h_t − ĥ_t‖ / ‖h_t‖.

    A mean over tokens of relative distances, because a few tokens have a norm a thousand times that of the others.
    The last layer is looked at behind the final norm.

    Raises:
        RcpuError: no windows, windows longer than the model's positions, or a token beyond its vocabulary.
        Cancelled: ``cancelled()`` was true between two windows.
    """
    if not len(windows):
        raise RcpuError("drift is looked at on held-out windows: ask for at least one")
    check_window(dense, windows.shape[1])
    check_ids(dense, windows)
    sums = {name: torch.zeros(dense.config.num_hidden_layers, dtype=torch.float64) for name in others}
    for i, window in enumerate(windows.to(dense.device)):
        if cancelled():
            raise Cancelled("cancelled")
        reference = _streams(dense, window)
        norms = reference.norm(dim=-1).clamp_min(1e-30)
        for name, net in others.items():
            distance = (_streams(net, window) - reference).norm(dim=-1) / norms
            sums[name] += distance.mean(-1).cpu().double()
        progress((i + 1) / len(windows))
    return {name: (total / len(windows)).tolist() for name, total in sums.items()}


def _streams(net: nn.Module, window: Tensor) -> Tensor:
    """Hidden states behind every layer, (layers, tokens, d_model) fp32; transformers' own way leaves hooks behind."""
    found: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda _, __, h: found.append(h)) for layer in net.model.layers[:-1]]
    try:
        last = net.model(input_ids=window[None], use_cache=False).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat([*found, last]).float()
