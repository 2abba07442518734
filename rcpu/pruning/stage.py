"""What is measured of one layer's residual blocks, and what is held of them until they are repaired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from rcpu.methods.columns import care
from rcpu.methods.compensation import Shift
from rcpu.models.families import Site
from rcpu.pruning.direct import DirectOutputs
from rcpu.pruning.recipe import Recipe
from rcpu.pruning.site import Measured
from rcpu.statistics.fluctuation import Fluctuation
from rcpu.statistics.sums import Accumulator


@dataclass
class Sums:
    """What is added up of one projection's inputs on one set of windows."""

    inputs: Accumulator
    windows: Fluctuation | None
    cross: Tensor | None  # (d_out, d_in) Σ δ xᵀ, δ what the residual stream lacks against the dense model's
    lack: Tensor | None  # (d_out,) Σ δ

    def add(self, x: Tensor, lacking: Tensor | None) -> None:  # (windows, tokens, d_in) and (…, d_out)
        """Take in a micro-batch."""
        self.inputs.add(x)
        if self.windows is not None:
            self.windows.add(x)
        if lacking is not None:
            lacking = lacking.flatten(0, 1).float()
            self.cross.addmm_(lacking.mT, x.flatten(0, 1).float())
            self.lack += lacking.sum(0).cpu().double()

    def result(self, recipe: Recipe, tokens: int | None = None) -> Measured:
        """The sums so far; the recipe says what share of what is lacking belongs to the target.

        ``tokens`` are those that the repair is found from, where these sums are of others.
        """
        shift = None
        if self.cross is not None:
            share = recipe.target / care(recipe, tokens or self.inputs.tokens, self.cross.shape[1])
            shift = Shift(self.cross.mul_(share), self.lack * share)
        return Measured(self.inputs.result(), self.windows, shift)


@dataclass
class Stage:
    """Residual blocks of one layer that are measured together, and what is held of them until they are repaired."""

    index: int
    layer: nn.Module
    sites: Sequence[Site]
    live: Sequence[Site]  # those to prune
    tidy: bool = False  # the last of its layer to be solved
    sums: dict[tuple[str, bool], Sums] = field(default_factory=dict)  # by site, of held-out windows or not
    inputs: dict[str, Tensor] = field(default_factory=dict)  # (windows, tokens, d_in) of a consumer, later (…, kept)
    summed_directly: set[str] = field(default_factory=set)  # sites whose outputs stand for a Gram matrix, see direct.py
    outputs: dict[str, DirectOutputs] = field(default_factory=dict)  # theirs, of calibration windows
