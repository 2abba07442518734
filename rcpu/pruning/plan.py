"""What a run will remove, known before it runs: from the model's shapes and the settings alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from rcpu.compact import assembly as compact
from rcpu.methods.allocation import ratios_with_heads
from rcpu.methods.catalog import METHODS
from rcpu.methods.columns import has_bias
from rcpu.methods.scoring import FROM_GRAM
from rcpu.methods.units import UNIT_NAMES, removed_count, resolve_unit, units_of
from rcpu.models.families import architecture_of, consumer_of, heads_of, layers_of
from rcpu.models.limits import check_window
from rcpu.models.sizes import Cost, cost
from rcpu.pruning.recipe import Recipe
from rcpu.pruning.whole import planned_cost

#: Allocations that look at the model first; until then a plan counts as if all layers shared alike.
LOOKING = ("flap", "flap_heads", "influence", "prices")
#: Those among them that hold to the ratio of the whole; prices hold to what whole units of a uniform share remove.
OF_THE_WHOLE = ("flap", "flap_heads", "influence")


@dataclass(frozen=True)
class Size:
    """What leaves one site with one unit of every stratum, and what a bias adds to it."""

    weights: int
    biases: int
    upkeep: int

    @property
    def parameters(self) -> int:
        """All of what leaves."""
        return self.weights + self.biases


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run will do, known before it runs."""

    unit: str  # of o_proj, with auto resolved; empty for methods that are more than a choice of columns
    layers: tuple[int, ...]
    layouts: dict[str, Tensor]  # (strata, units, columns) of each site, see units.py
    gone: dict[tuple[int, str], int]  # units that leave every stratum, by layer and site
    sizes: dict[str, Size]
    notes: tuple[str, ...]  # what a reader should know, e.g. a ratio that removes nothing
    before: Cost
    after: Cost

    @property
    def removed(self) -> dict[tuple[int, str], tuple[int, int]]:
        """Units that go and units there are, by layer and site."""
        shapes = {name: layout.shape[:2] for name, layout in self.layouts.items()}
        return {(i, name): (shapes[name][0] * n, shapes[name].numel()) for (i, name), n in self.gone.items()}

    def parameters(self, gone: Mapping[tuple[int, str], int]) -> int:
        """How many leave with these units, biases that come not counted."""
        return sum(n * self.sizes[name].parameters for (_, name), n in gone.items())


def plan(net: LlamaForCausalLM, recipe: Recipe, gone: Mapping[tuple[int, str], int] | None = None) -> Plan:
    """What :func:`rcpu.prune` will remove from this model, without running it.

    ``gone`` are units as an allocation has shared them; without it those of the recipe's ratios.

    Raises:
        RcpuError: an unsupported model, or a unit, a layer or a window length that it cannot have.
    """
    arch, before = architecture_of(net), cost(net)
    if recipe.whole:
        layers, notes = tuple(range(len(layers_of(net)))), METHODS[recipe.method].notes(net, recipe)
        return Plan("", layers, {}, {}, {}, notes, before, planned_cost(net, recipe))
    check_window(net, recipe.window)
    unit = resolve_unit(recipe.unit, heads_of(net))
    layers = recipe.layer_indices(len(layers_of(net)))
    layouts = {site.name: units_of(net, site, unit) for site in arch.sites if site.name in recipe.sites}
    sizes = {site.name: _size(net, site, layouts[site.name], recipe) for site in arch.sites if site.name in layouts}
    notes: list[str] = []
    counts: Mapping[tuple[int, str], float] | None = gone  # as an allocation has shared them, or as is expected
    if gone is None:
        counts = gone = {(i, name): _removed(recipe, layouts, sizes, i, name) for name in layouts for i in layers}
        if recipe.allocation in OF_THE_WHOLE:
            counts = {(i, name): recipe.ratio_of(i) * layouts[name].shape[1] for i, name in gone}
        notes = [note for name, layout in layouts.items() for note in _notes(recipe, layers, layout, name, unit)]
        if stray := [i for i, _ in recipe.ratios if i not in layers]:
            notes.append(
                f"layer {stray[0]} has a ratio of its own, but is not among the layers to prune: it stays whole"
            )
    if recipe.scorer in FROM_GRAM and recipe.compensation in ("none", "bias"):
        notes.append(
            f"score {recipe.scorer!r} counts on a repair that compensation {recipe.compensation!r} does not make: "
            "choose 'least_squares', or a score that looks at columns as they are"
        )
    if recipe.unit not in ("auto", "channel") and "o_proj" not in recipe.sites:
        notes.append(f"unit {recipe.unit!r} is of o_proj, which is not pruned: down_proj loses channels")
    if recipe.step:
        notes.append(
            f"a step of {recipe.step:g} nats along the gradient: the model learns from its calibration text before "
            "anything is repaired, which its dense model has not; measure it on other texts, too"
        )
    if recipe.allocation in LOOKING:
        notes.append(
            f"allocation {recipe.allocation!r}: layers and sites share what the ratio removes after a look at the model"
        )
    weights = round(sum(n * sizes[name].weights for (_, name), n in counts.items()))
    upkeep = sum(sizes[name].upkeep for (_, name), n in counts.items() if n > 0)
    parameters = round(sum(n * sizes[name].parameters for (_, name), n in counts.items())) - upkeep
    after = Cost(
        before.parameters - parameters,
        before.bytes - parameters * net.dtype.itemsize,
        before.flops_per_token - 2 * weights,
    )
    return Plan(unit, layers, layouts, dict(gone), sizes, tuple(notes), before, after)


def _size(net: LlamaForCausalLM, site, layout: Tensor, recipe: Recipe) -> Size:
    consumer = consumer_of(layers_of(net)[0], site)
    columns = layout[:, 1:].flatten().sort().values if layout.shape[1] > 1 else torch.empty(0, dtype=torch.long)
    weights, biases = compact.removed_parameters(net, 0, site, columns)
    return Size(weights, biases, len(consumer.weight) if has_bias(recipe, site.name) and consumer.bias is None else 0)


def _removed(recipe: Recipe, layouts: Mapping[str, Tensor], sizes: Mapping[str, Size], layer: int, name: str) -> int:
    """floor(ρ · n), or with heads by hand those of o_proj, and of down_proj what makes up the rest."""
    ratio, units = recipe.ratio_of(layer), layouts[name].shape[1]
    if recipe.allocation != "heads":
        return removed_count(units, ratio)
    heads, neurons = layouts["o_proj"].shape[1], layouts["down_proj"].shape[1]
    costs = sizes["o_proj"].weights, sizes["down_proj"].weights
    share = ratios_with_heads(ratio, recipe.heads_removed, heads, costs[0], neurons, costs[1])
    return recipe.heads_removed if name == "o_proj" else removed_count(neurons, share)


def _notes(recipe: Recipe, layers: tuple[int, ...], layout: Tensor, name: str, unit: str) -> list[str]:
    units, kind = layout.shape[1], UNIT_NAMES[unit if name == "o_proj" else "channel"]
    if recipe.allocation == "heads" or recipe.allocation in LOOKING:
        return []
    return [
        f"{name}: {ratio:g} of {units} {kind} rounds down to none, so nothing is removed there; "
        f"the smallest ratio that removes one is {ceil(1e4 / units) / 1e4:g}"
        for ratio in recipe.layers_by_ratio(layers)
        if ratio > 0 and not removed_count(units, ratio)
    ]
