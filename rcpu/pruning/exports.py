"""Whether the model that a recipe will make can be exported in a shape, said before it runs."""

from __future__ import annotations

from torch import nn

from rcpu.base.errors import RcpuError
from rcpu.compact.building import compact_config
from rcpu.compact.shapes import SHAPES, check_shape, shape_problem
from rcpu.methods.catalog import METHODS
from rcpu.methods.columns import has_bias
from rcpu.models.compact_llama import CompactLlamaConfig
from rcpu.models.families import heads_of
from rcpu.pruning.plan import LOOKING, plan
from rcpu.pruning.recipe import Recipe
from rcpu.pruning.whole import planned_sizes


def planned_config(net: nn.Module, recipe: Recipe) -> CompactLlamaConfig:
    """The sizes that a recipe will give this model; where an allocation looks first, as if all layers shared alike.

    Raises:
        RcpuError: settings that this model cannot have.
    """
    if METHODS[recipe.method].sizes is not None:
        return planned_sizes(net, recipe)
    todo, config, heads = plan(net, recipe), compact_config(net), heads_of(net)
    group = heads.query // heads.kv
    for (layer, name), units in todo.gone.items():
        if not units:
            continue
        if name == "down_proj":
            config.intermediate_sizes[layer] -= units
        elif todo.unit in ("head", "kv_group"):
            config.kv_heads[layer] -= units
            config.query_heads[layer] -= units * group
        else:
            config.value_dims[layer] -= units
        if has_bias(recipe, name):
            (config.down_bias if name == "down_proj" else config.o_bias)[layer] = True
    return config


def export_problems(net: nn.Module, recipe: Recipe) -> dict[str, str]:
    """By shape why the model that this recipe makes cannot have it; an empty string where it can."""
    config = planned_config(net, recipe)
    looking = getattr(recipe.options, "allocation", "uniform") in LOOKING
    own = f"allocation {recipe.allocation!r} gives every layer a size of its own" if looking else ""
    return {shape: shape_problem(config, shape) or own * (shape == "stock") for shape in SHAPES}


def check_export(net: nn.Module, recipe: Recipe, shape: str, multiple: int = 1) -> None:
    """Raise ``RcpuError`` where this recipe makes a model that cannot have this shape."""
    check_shape(planned_config(net, recipe), shape, multiple)
    if shape == "stock" and getattr(recipe.options, "allocation", "uniform") in LOOKING:
        raise RcpuError(
            f"this model cannot be exported as stock: allocation {recipe.allocation!r} gives every layer a size of its "
            "own; possible is compact or padded"
        )
