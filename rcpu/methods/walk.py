"""What whole methods share: calibration windows on their way through the layers, and what such a method hands back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from rcpu.base.errors import RcpuError
from rcpu.compact.edits import Edits
from rcpu.models.families import Site, architecture_of, consumer_of, run_block, with_consumer
from rcpu.statistics.passes import Pass
from rcpu.text.windows import Windows


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method makes of a model: edits, notes in sentences, and small results to look at, by name."""

    edits: Edits
    notes: tuple[str, ...] = ()
    found: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Seen:
    """One micro-batch at one block of a layer, each (windows, tokens, …)."""

    site: Site
    part: slice  # its windows
    hidden: Tensor  # before the block
    entering: Tensor  # normed: inputs of the producers
    inner: Tensor  # inputs of the consumer
    added: Tensor  # what the block adds


class Walk(Pass):
    """Calibration windows alone, on their way through dense and edited layers; one buffer of hidden states."""

    def __init__(
        self,
        net: nn.Module,
        windows: Windows,
        *,
        passes: float,
        progress: Callable[[Any], None],
        cancelled: Callable[[], bool],
        micro_batch: int | None = None,
    ):
        alone = replace(windows, held_out=windows.held_out[:0])
        super().__init__(net, alone, micro_batch=micro_batch, passes=passes, progress=progress, cancelled=cancelled)
        self.sites = architecture_of(net).sites
        self.windows = len(self.hidden)

    @property
    def parts(self) -> list[slice]:
        """The windows of each micro-batch."""
        return [part for part, _ in self.micro_batches]

    def measure(self, layer: nn.Module, message: str, *, move: bool = False) -> Iterator[Seen]:
        """Run a layer whose consumers are single matrices; the hidden states move on only where asked."""
        bare = {s.name: with_consumer(layer.get_submodule(s.block), s, nn.Identity()) for s in self.sites}
        for part in self.parts:
            self.step(message)
            h = self.hidden[part]
            for site in self.sites:
                x = layer.get_submodule(site.norm)(h)
                inner = bare[site.name](x, **self.attention)[0] if site.attention else bare[site.name](x)
                added = consumer_of(layer, site)(inner)
                yield Seen(site, part, h, x, inner, added)
                h = h + added
            if move:
                self.hidden[part] = h

    def advance(self, layer: nn.Module, message: str) -> None:
        """Move the hidden states through a layer, dense or edited."""
        for part in self.parts:
            self.step(message)
            h = self.hidden[part]  # a view
            for site in self.sites:
                h += run_block(layer.get_submodule(site.block), layer.get_submodule(site.norm), site, h, self.attention)


def whole_model(recipe: Any) -> None:
    """Raise ``RcpuError`` for settings that only a choice of columns has: some layers, some sites, own ratios."""
    if recipe.layers is not None or recipe.ratios or len(recipe.sites) != 2:
        raise RcpuError(
            f"method {recipe.method!r} works on every layer and both of its blocks: leave layers, ratios and sites "
            "as they are"
        )


def factored(gram: Tensor, ridge: float) -> Tensor:
    """The lower Cholesky factor of G + λ·mean diag(G)·I in fp64, with a hundred times the λ until there is one.

    Raises:
        RcpuError: there is none with λ = 1, e.g. all inputs are 0.
    """
    g = gram.double()
    while True:
        damped = g + ridge * g.diagonal().mean() * torch.eye(len(g), dtype=g.dtype, device=g.device)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            return lower
        if ridge >= 1:
            raise RcpuError(f"the moments of {len(g)} inputs cannot be factored: give more calibration windows")
        ridge = max(100 * ridge, 1e-10)


def square_sums(x: Tensor) -> Tensor:
    """Σ x² of each input over all tokens, (d,) fp64 on the CPU."""
    return x.flatten(0, -2).float().square().sum(0, dtype=torch.float64).cpu()
