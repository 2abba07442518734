"""The layer loop: windows in, a compact model and one SiteResult a site out."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from transformers import LlamaForCausalLM

from rcpu.compact import assembly as compact
from rcpu.models.families import architecture_of, layers_of, site_named, with_weights
from rcpu.pruning.plan import plan
from rcpu.pruning.recipe import Recipe
from rcpu.pruning.result import Checkpoint, PruneResult
from rcpu.pruning.stage import Stage
from rcpu.pruning.survey import Looks, survey
from rcpu.pruning.walk import BATCH_BYTES, Walk, return_freed_memory, threads_set_back
from rcpu.pruning.whole import run_whole
from rcpu.statistics.passes import Progress
from rcpu.statistics.precision import full_fp32
from rcpu.text.windows import Windows


@torch.no_grad()
@full_fp32()
@threads_set_back()
def prune(
    net: LlamaForCausalLM,
    windows: Windows,
    recipe: Recipe,
    *,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    checkpoint: Callable[[Checkpoint], None] = lambda _: None,
    resume: Checkpoint | None = None,
    looks: Looks | None = None,
    micro_batch: int | None = None,
    batch_bytes: int = BATCH_BYTES,
) -> PruneResult:
    """Prune ``net`` as the recipe says, calibrated on ``windows``; ``net`` itself stays as it is, bit for bit.

    After each pruned layer, or each round of a method that goes round, ``checkpoint`` is told all that it takes to go
    on from there; ``resume`` is what an earlier call with the same arguments told, and the result is then the same to
    the last bit. Calls with the same ``looks`` share what they look at of the dense model beforehand, where they can.
    ``micro_batch`` is windows a forward (default: about 1024 tokens on a CPU, 8192 on an accelerator). ``batch_bytes``
    bounds the inputs of one layer's projections that are kept for reuse rather than computed again.

    Raises:
        RcpuError: settings that this model cannot have, or NaN or Inf in activations (layer and site are named).
        Cancelled: ``cancelled()`` was true between two micro-batches.
    """
    if recipe.whole:
        how = {"progress": progress, "cancelled": cancelled, "checkpoint": checkpoint, "resume": resume}
        return run_whole(net, windows, recipe, micro_batch=micro_batch, **how)
    started = time.perf_counter()
    todo = plan(net, recipe)
    watched = {"micro_batch": micro_batch, "progress": progress, "cancelled": cancelled}
    look = survey(net, windows, recipe, todo, looks=looks, **watched)
    todo, passes = look.plan, 2 if recipe.path == "pruned" else 1  # measured, and gone on from
    net = with_weights(net, look.weights)
    assembly, results, stages = compact.Assembly(net), [], stages_of(net, recipe, todo)
    walk = Walk(
        net,
        recipe,
        windows,
        micro_batch=micro_batch,
        passes=passes * len(stages),
        progress=look.rest(progress),
        cancelled=cancelled,
        batch_bytes=batch_bytes,
    )
    if resume is not None:
        results = walk.go_on(resume, len(stages))
        for result in (result for result in results if result.changed):
            assembly.add(result.layer, site_named(net, result.site), result.cut)
    for done, stage in enumerate(stages[resume.stages if resume else 0 :], resume.stages + 1 if resume else 1):
        solved, ends = walk.solve(stage, todo, look.metrics), stage is stages[-1]  # nobody reads what comes after
        for site in stage.sites:
            repaired = None
            if site in stage.live:
                results.append(result := next(solved))
                left_out = len(walk.micro_batches) * (passes - 1) if ends and site is stage.live[-1] else 0
                walk.step(f"layer {stage.index}: {site.name} solved", left_out, result)
                repaired = assembly.add(stage.index, site, result.cut) if result.changed else None
            if not ends and (passes == 2 or not stage.live):
                walk.advance(stage, site, repaired)
        stage.inputs.clear()
        stage.outputs.clear()
        if stage.tidy:
            states = (None, None) if ends else (walk.hidden, walk.dense)
            checkpoint(Checkpoint(stage.index, done, tuple(results), *states))
    return_freed_memory()
    edits = compact.edits_of(net, assembly.cuts)
    seconds = time.perf_counter() - started
    return PruneResult(assembly.model(), recipe, edits, tuple(results), look.notes, seconds, look.found)


def stages_of(net: LlamaForCausalLM, recipe: Recipe, todo) -> list[Stage]:
    """Order "paper" captures both blocks of a layer before either is repaired, order "site" one after the other."""
    sites, layers = architecture_of(net).sites, layers_of(net)
    groups = [sites] if recipe.order == "paper" or recipe.path == "dense" else [(site,) for site in sites]
    stages = [
        Stage(i, layer, group, [site for site in group if i in todo.layers and site.name in todo.layouts])
        for i, layer in enumerate(layers[: todo.layers[-1] + 1])
        for group in groups
    ]
    while not stages[-1].live:
        stages.pop()
    for stage in {stage.index: stage for stage in stages if stage.live}.values():
        stage.tidy = True
    return stages
