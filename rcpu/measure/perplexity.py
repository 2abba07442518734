"""How good and how costly a model is: perplexity, parameters, bytes, FLOPs a token."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rcpu.base.errors import Cancelled, RcpuError
from rcpu.models.limits import check_ids, check_window


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood (nats a token); a value means nothing without the other fields."""

    perplexity: float
    tokens: int  # predicted ones: the first of each window is only read
    window: int
    windows: int
    text: str
    by_position: tuple[float, ...] = ()  # mean loss in nats at each position, (window − 1,)

    def to_dict(self) -> dict:
        """Plain values for JSON, without the losses by position."""
        return {k: v for k, v in asdict(self).items() if k != "by_position"}


@torch.no_grad()
def perplexity(
    net: nn.Module,
    windows: Tensor,  # (windows, window) token ids
    *,
    text: str,
    batch: int | None = None,
    progress: Callable[[float], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Perplexity:
    """Perplexity over windows that do not see one another, the protocol of the pruning papers.

    Raises:
        RcpuError: windows longer than the model's positions, a token beyond its vocabulary, or losses of NaN or Inf.
        Cancelled: ``cancelled()`` was true between two batches.
    """
    count, window = windows.shape
    check_window(net, window)
    check_ids(net, windows)
    batch = batch or max(1, (1024 if net.device.type == "cpu" else 8192) // window)
    total = torch.zeros(window - 1, dtype=torch.float64)
    for start in range(0, count, batch):
        if cancelled():
            raise Cancelled("cancelled")
        ids = windows[start : start + batch].to(net.device)
        hidden = net.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        losses = [  # logits of one window at a time: a batch of them would be the largest tensor of all
            cross_entropy(net.lm_head(states).float(), targets, reduction="none")
            for states, targets in zip(hidden, ids[:, 1:], strict=True)
        ]
        total += torch.stack(losses).cpu().double().sum(0)
        progress(min(1.0, (start + batch) / count))
    by_position = total / count
    mean = by_position.mean().item()
    if not math.isfinite(mean):
        raise RcpuError(f"the model's loss on {text} is {mean}: its weights or dtype overflow; try fp32 or bf16")
    value = math.exp(mean) if mean < 700 else math.inf
    return Perplexity(value, count * (window - 1), window, count, text, tuple(by_position.tolist()))
