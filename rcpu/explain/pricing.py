"""What each layer and site costs in nats as it shrinks, and the allocation that follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from rcpu.methods.allocation import Curve
from rcpu.models.loading import Model
from rcpu.pruning.plan import plan
from rcpu.pruning.recipe import Recipe
from rcpu.pruning.survey import survey
from rcpu.statistics.passes import Progress
from rcpu.statistics.precision import full_fp32
from rcpu.text.windows import Windows

Site = tuple[int, str]  # (layer, site)


@dataclass(frozen=True, eq=False)
class Pricing:
    """Price curves of every site, and two ways to remove as many parameters: alike, and where it is cheapest."""

    curves: Mapping[Site, Curve]
    units: Mapping[str, int]  # of a stratum, by site
    uniform: Mapping[Site, int]  # units gone from every stratum
    chosen: Mapping[Site, int]
    nats: bool  # prices are nats a token; without gradients relative errors

    def cost(self, gone: Mapping[Site, int]) -> float:
        """The predicted price of an allocation; a site that loses more than was priced costs what the most did."""
        return sum(
            float(curve.at_each()[min(gone[key], curve.counts[-1])])
            for key, curve in self.curves.items()
            if key in gone
        )


@torch.no_grad()
@full_fp32()
def price_model(
    model: Model,
    windows: Windows,
    recipe: Recipe,
    *,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Pricing:
    """Price every site of a recipe of columns, as allocation ``prices`` does before a run, and share its budget.

    Raises:
        RcpuError: settings that do not combine, or sites that cannot lose as much.
        Cancelled: as of any pass.
    """
    recipe = replace(recipe, allocation="prices", ratios=(), step=0.0)
    todo = plan(model.net, recipe)
    look = survey(model.net, windows, recipe, todo, micro_batch=None, progress=progress, cancelled=cancelled)
    units = {name: layout.shape[1] for name, layout in todo.layouts.items()}
    nats = all(curve is not None for curve in look.curves.values()) and recipe.gradients
    return Pricing(dict(sorted(look.curves.items())), units, dict(todo.gone), dict(look.plan.gone), nats)
