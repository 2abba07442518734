"""What a run will remove, known before it runs: from the model's shapes and the settings alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from torch import Tensor
from transformers import LlamaForCausalLM

from rcpu.compact import assembly as compact
from rcpu.methods.columns import compensation_at
from rcpu.methods.units import UNIT_NAMES, removed_count, resolve_unit, units_of
from rcpu.models.families import architecture_of, consumer_of, heads_of, layers_of
from rcpu.models.limits import check_window
from rcpu.models.sizes import Cost, cost
from rcpu.pruning.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run will do, known before it runs."""

    unit: str  # of o_proj, with auto resolved
    layers: tuple[int, ...]
    layouts: dict[str, Tensor]  # (strata, units, columns) of each site, see units.py
    removed: dict[tuple[int, str], tuple[int, int]]  # units that go and units there are, by layer and site
    notes: tuple[str, ...]  # what a reader should know, e.g. a ratio that removes nothing
    before: Cost
    after: Cost


def plan(net: LlamaForCausalLM, config: Recipe) -> Plan:
    """What :func:`rcpu.prune` will remove from this model, without running it.

    Raises:
        RcpuError: an unsupported model, or a unit, a layer or a window length that it cannot have.
    """
    check_window(net, config.window)
    arch, before = architecture_of(net), cost(net)
    unit = resolve_unit(config.unit, heads_of(net))
    layers = config.layer_indices(len(layers_of(net)))
    layouts, removed, notes = {}, {}, []
    weights = parameters = 0  # that go
    for site in arch.sites:
        if site.name not in config.sites:
            continue
        kind = unit if site.attention else "channel"
        consumer = consumer_of(layers_of(net)[layers[0]], site)
        layout = layouts[site.name] = units_of(net, site, unit)
        strata, units = layout.shape[:2]
        for ratio, of_ratio in config.layers_by_ratio(layers).items():
            gone = removed_count(units, ratio)
            removed |= {(layer, site.name): (strata * gone, strata * units) for layer in of_ratio}
            if ratio > 0 and gone == 0:
                notes.append(
                    f"{site.name}: {ratio:g} of {units} {UNIT_NAMES[kind]} rounds down to none, so nothing is "
                    f"removed there; the smallest ratio that removes one is {ceil(1e4 / units) / 1e4:g}"
                )
            if gone:
                columns = layout[:, gone:].flatten().sort().values  # how many, not which
                weight, other = compact.removed_parameters(net, layers[0], site, columns)
                added = (
                    len(consumer.weight)
                    if compensation_at(config, site.name) == "bias" and consumer.bias is None
                    else 0
                )
                weights += weight * len(of_ratio)
                parameters += (weight + other - added) * len(of_ratio)
    after = Cost(
        before.parameters - parameters,
        before.bytes - parameters * net.dtype.itemsize,
        before.flops_per_token - 2 * weights,
    )
    return Plan(unit, layers, layouts, removed, tuple(notes), before, after)
