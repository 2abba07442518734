"""A run of a method that is more than a choice of columns: it hands back edits, and the model is rebuilt from those."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import nn
from transformers import LlamaForCausalLM

from rcpu.base.errors import RcpuError
from rcpu.compact.building import compact_config, rebuild
from rcpu.methods.catalog import METHODS
from rcpu.models.compact_llama import CompactLlamaConfig
from rcpu.models.families import architecture_of, family_of
from rcpu.models.limits import check_window
from rcpu.models.sizes import Cost, flops_per_token, parameter_count
from rcpu.pruning.recipe import Recipe
from rcpu.pruning.result import Checkpoint, PruneResult
from rcpu.statistics.passes import Progress
from rcpu.text.windows import Windows


def run_whole(
    net: LlamaForCausalLM,
    windows: Windows,
    recipe: Recipe,
    *,
    progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
    checkpoint: Callable[[Checkpoint], None],
    resume: Checkpoint | None,
    micro_batch: int | None,
) -> PruneResult:
    """What the recipe's method makes of the model; raises as :func:`rcpu.prune` does."""
    started = time.perf_counter()
    planned_sizes(net, recipe)  # refuses what this model cannot have
    method = METHODS[recipe.method]
    more = {"progress": progress, "cancelled": cancelled, "micro_batch": micro_batch}
    if method.rounds:
        more["checkpoint"] = lambda done, state: checkpoint(Checkpoint(-1, done, (), None, state=state))
        more["resume"] = None if resume is None else resume.state
    outcome = method.run(net, windows, recipe, **more)
    made = rebuild(net, outcome.edits)
    progress(Progress(1.0, "done"))
    seconds = time.perf_counter() - started
    return PruneResult(made, recipe, outcome.edits, (), outcome.notes, seconds, outcome.found)


def planned_sizes(net: nn.Module, recipe: Recipe) -> CompactLlamaConfig:
    """The sizes that a whole method will give this model.

    Raises:
        RcpuError: an unsupported model, or settings that it cannot have.
    """
    architecture_of(net)
    check_window(net, recipe.window)
    planned = METHODS[recipe.method].sizes(compact_config(net), recipe)
    if planned.qk_norm and (set(planned.key_dims) != {planned.head_dim} or set(planned.ranks) & {"q_proj", "k_proj"}):
        raise RcpuError(
            f"{METHODS[recipe.method].label} decomposes queries and keys, and {family_of(planned).label} normalises "
            "them head by head after that: choose another method"
        )
    return planned


def planned_cost(net: nn.Module, recipe: Recipe) -> Cost:
    """Parameters, bytes and FLOPs a token of the model to come; raises as :func:`planned_sizes`."""
    config = planned_sizes(net, recipe)
    parameters = parameter_count(config)
    return Cost(parameters, parameters * net.dtype.itemsize, flops_per_token(config))
