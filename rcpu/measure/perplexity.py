"""Perplexity with an interval, and how two models differ on the same windows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rcpu.base.errors import Cancelled, RcpuError
from rcpu.measure.intervals import Difference, Interval, mean_interval, percent
from rcpu.models.limits import check_ids, check_window

LOSSES = ("by_position", "by_window")


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood (nats a token); a value means nothing without the other fields."""

    perplexity: float
    tokens: int  # predicted ones: the first of each window is only read
    window: int
    windows: int
    text: str
    by_position: tuple[float, ...] = ()  # mean loss in nats at each position, (window − 1,)
    by_window: tuple[float, ...] = ()  # and of each window, (windows,)
    digest: str = ""  # of the windows' tokens: what is compared must have the same

    @cached_property
    def interval(self) -> Interval | None:
        """95 % bootstrap interval over windows; None where fewer than two were measured."""
        found = mean_interval(self.by_window)
        return found and Interval(_exp(found.low), _exp(found.high))

    @property
    def line(self) -> str:
        """All of it that matters, in a line."""
        ends = f" (95 % interval {self.interval.low:.3f} – {self.interval.high:.3f})" if self.interval else ""
        return f"perplexity {self.perplexity:.3f}{ends} on {self.text}, {self.windows:,} × {self.window:,} tokens"

    def to_dict(self, losses: bool = False) -> dict:
        """Plain values for JSON, the interval among them; with ``losses`` all that :meth:`from_dict` needs."""
        found = {k: v for k, v in asdict(self).items() if k not in LOSSES}
        found["interval"] = None if self.interval is None else [self.interval.low, self.interval.high]
        return found | ({name: list(getattr(self, name)) for name in LOSSES} if losses else {})

    @classmethod
    def from_dict(cls, found: Mapping) -> Perplexity:
        """Back from :meth:`to_dict` with losses."""
        known = {field.name: found[field.name] for field in fields(cls) if field.name in found}
        return cls(**known | {name: tuple(found.get(name, ())) for name in LOSSES})


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
    by_window: list[float] = []
    total = torch.zeros(window - 1, dtype=torch.float64)
    for start in range(0, count, batch):
        if cancelled():
            raise Cancelled("cancelled")
        ids = windows[start : start + batch].to(net.device)
        hidden = net.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        losses = torch.stack(
            [  # logits of one window at a time: a batch of them would be the largest tensor of all
                cross_entropy(net.lm_head(states).float(), targets, reduction="none")
                for states, targets in zip(hidden, ids[:, 1:], strict=True)
            ]
        )
        losses = losses.cpu().double()
        total += losses.sum(0)
        by_window += losses.mean(1).tolist()
        progress(min(1.0, (start + batch) / count))
    by_position = total / count
    mean = by_position.mean().item()
    if not math.isfinite(mean):
        raise RcpuError(f"the model's loss on {text} is {mean}: its weights or dtype overflow; try fp32 or bf16")
    return Perplexity(
        _exp(mean),
        count * (window - 1),
        window,
        count,
        text,
        tuple(by_position.tolist()),
        tuple(by_window),
        windows_digest(windows),
    )


def difference(a: Perplexity, b: Perplexity) -> Difference:
    """By how many percent ``b`` exceeds ``a``, with a 95 % interval from a paired bootstrap over their windows.

    Raises:
        RcpuError: they were not measured on the same windows, or without losses by window.
    """
    if not a.by_window or not b.by_window:
        raise RcpuError("a paired difference needs the losses of every window: measure both models again")
    if (a.digest, len(a.by_window)) != (b.digest, len(b.by_window)):
        raise RcpuError(
            f"a paired difference needs the same windows: one model was measured on {_told(a)}, the other on "
            f"{_told(b)}; measure both on the same text, window and tokenizer"
        )
    gaps = [y - x for x, y in zip(a.by_window, b.by_window, strict=True)]
    found = mean_interval(gaps)
    ends = (None, None) if found is None else (percent(found.low), percent(found.high))
    return Difference(percent(sum(gaps) / len(gaps)), "%", *ends, len(gaps))


def windows_digest(windows: Tensor) -> str:  # (windows, window) token ids
    """Sixteen hex digits of shape and tokens."""
    plain = windows.cpu().contiguous().numpy()
    return hashlib.sha256(str(plain.shape).encode() + plain.tobytes()).hexdigest()[:16]


def _told(found: Perplexity) -> str:
    return f"{found.windows:,} windows of {found.window:,} tokens of {found.text} ({found.digest})"


def _exp(mean: float) -> float:
    return math.exp(mean) if mean < 700 else math.inf
