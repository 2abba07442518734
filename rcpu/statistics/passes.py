"""All calibration windows on their way through the layers, a micro-batch at a time, with progress and cancel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rcpu.base.errors import Cancelled
from rcpu.models.families import Site, architecture_of, consumer_of, embed, layers_of, run_block, with_consumer
from rcpu.models.limits import check_ids, check_window
from rcpu.text.windows import Windows


@dataclass(frozen=True)
class Progress:
    """How far a long call is: a fraction from 0 to 1, what it is doing, and a site's result when one is done."""

    fraction: float
    message: str
    site: Any = None  # SiteResult


@dataclass(frozen=True, eq=False)
class Inputs:
    """One micro-batch of inputs of one projection: which windows they belong to, and whether those are held out."""

    site: Site
    x: Tensor  # (windows, tokens, d_in)
    part: slice
    held_out: bool


class Pass:
    """Hidden states of all windows, (windows, tokens, d_model), calibration first; one buffer for all layers."""

    def __init__(
        self,
        net: nn.Module,
        windows: Windows,
        *,
        micro_batch: int | None,  # windows a forward; default: about 1024 tokens on a CPU, 8192 on an accelerator
        passes: int,  # times that all windows will be gone through
        progress: Callable[[Progress], None],
        cancelled: Callable[[], bool],
    ):
        ids = torch.cat([windows.calibration, windows.held_out]).to(net.device)
        check_window(net, ids.shape[1])
        check_ids(net, ids)
        entered = embed(net, ids)
        self.hidden, self.attention, self.device = entered.hidden, entered.attention, net.device
        self.progress, self.cancelled, self.fraction = progress, cancelled, 0.0
        size = micro_batch or max(1, (1024 if net.device.type == "cpu" else 8192) // ids.shape[1])
        ends = ((0, len(windows.calibration)), (len(windows.calibration), len(ids)))
        #: (windows, held out?): none holds windows of both kinds.
        self.micro_batches = [
            (slice(i, min(i + size, end)), start > 0) for start, end in ends for i in range(start, end, size)
        ]
        self.share = 1 / (passes * len(self.micro_batches))

    def layer(self, net: nn.Module, index: int, message: str, last: str | None = None) -> Iterator[Inputs]:
        """Move the hidden states through one dense layer; yields what reaches each consumer, a micro-batch at a time.

        ``last`` names a site to end at, where nobody reads what comes after.
        """
        layer, sites = layers_of(net)[index], architecture_of(net).sites
        bare = {s.name: with_consumer(layer.get_submodule(s.block), s, nn.Identity()) for s in sites}
        for part, held_out in self.micro_batches:
            self.step(message)
            h = self.hidden[part]  # a view
            for site in sites:
                x = run_block(bare[site.name], layer.get_submodule(site.norm), site, h, self.attention)
                yield Inputs(site, x, part, held_out)
                if site.name == last:
                    break
                h += consumer_of(layer, site)(x)

    def step(self, message: str, micro_batches: int = 1, site: Any = None) -> None:
        """Report ``micro_batches`` as gone through, and stop here if asked to.

        Raises:
            Cancelled: ``cancelled()`` was true.
        """
        if self.cancelled():
            raise Cancelled("cancelled")
        self.fraction = min(1.0, self.fraction + micro_batches * self.share)
        self.progress(Progress(self.fraction, message, site))
