"""The layer loop: windows in, a compact model and one SiteResult a site out.

A layer's input comes from the layers already pruned. Between layers one buffer of hidden states is kept for all
windows. Inside a layer no more is kept than a batch: the inputs of its projections for as many windows as fit
``batch_bytes``, to be used again; what does not fit is computed again. A forward takes a micro-batch of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from rcpu.base.errors import RcpuError
from rcpu.compact import assembly as compact
from rcpu.methods.columns import compensation_at
from rcpu.models.families import Site, architecture_of, consumer_of, layers_of, run_block, site_named, with_consumer
from rcpu.pruning import direct
from rcpu.pruning.direct import DirectOutputs
from rcpu.pruning.plan import Plan, plan
from rcpu.pruning.recipe import Recipe
from rcpu.pruning.result import Checkpoint, PruneResult
from rcpu.pruning.site import SiteResult, Solving
from rcpu.statistics.passes import Pass, Progress
from rcpu.statistics.precision import full_fp32
from rcpu.statistics.sums import Accumulator, Statistics
from rcpu.text.windows import Windows

BATCH_BYTES = 512 * 2**20


@contextlib.contextmanager
def _threads_set_back() -> Iterator[None]:
    """Torch's threads are as many after the block as before."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
@full_fp32()
@_threads_set_back()
def prune(
    net: LlamaForCausalLM,
    windows: Windows,
    config: Recipe,
    *,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    checkpoint: Callable[[Checkpoint], None] = lambda _: None,
    resume: Checkpoint | None = None,
    micro_batch: int | None = None,
    batch_bytes: int = BATCH_BYTES,
) -> PruneResult:
    """Prune ``net`` as ``config`` says, calibrated on ``windows``; ``net`` itself stays as it is, bit for bit.

    After each pruned layer ``checkpoint`` is told all that it takes to go on from there; ``resume`` is what an earlier
    call with the same arguments told, and the result is then the same to the last bit.
    ``micro_batch`` is windows a forward (default: about 1024 tokens on a CPU, 8192 on an accelerator). ``batch_bytes``
    bounds the inputs of one layer's projections that are kept for reuse rather than computed again.

    Raises:
        RcpuError: settings that this model cannot have, or NaN or Inf in activations (layer and site are named).
        Cancelled: ``cancelled()`` was true between two micro-batches.
    """
    started = time.perf_counter()
    todo = plan(net, config)
    arch, layers, chosen = architecture_of(net), layers_of(net), todo.layers
    assembly, results = compact.Assembly(net), []
    # Order "paper" captures both blocks of a layer before either is repaired, order "site" one after the other.
    groups = [arch.sites] if config.order == "paper" else [(site,) for site in arch.sites]
    stages = [
        _Stage(i, layer, sites, [site for site in sites if i in chosen and site.name in todo.layouts])
        for i, layer in enumerate(layers[: chosen[-1] + 1])
        for sites in groups
    ]
    while not stages[-1].live:
        stages.pop()
    last_of_layer = {stage.index: stage for stage in stages if stage.live}
    run = _Run(
        net,
        windows,
        micro_batch=micro_batch,
        passes=2 * len(stages),
        progress=progress,
        cancelled=cancelled,
        batch_bytes=batch_bytes,
    )
    begin = 0
    if resume is not None:
        begin, results = resume.stages, list(resume.sites)
        for result in (result for result in results if not result.keep.all()):
            assembly.add(result.layer, site_named(net, result.site), result.cut)
        if resume.hidden is not None:
            run.hidden.copy_(resume.hidden)
        run.fraction = begin / len(stages)
    for done, stage in enumerate(stages[begin:], begin + 1):
        i, live = stage.index, stage.live
        repaired, ended = {}, False
        solved = run.solve(stage, todo, config, tidy=stage is last_of_layer[i]) if live else []
        for site, result in zip(live, solved, strict=True):
            results.append(result)
            ended = stage is stages[-1] and site is live[-1]  # nobody reads what comes after: that pass is left out
            run.step(f"layer {i}: {site.name} solved", len(run.micro_batches) if ended else 0, result)
            if not result.keep.all():
                repaired[site.name] = assembly.add(i, site, result.cut)
        if not ended:
            run.advance(stage, repaired)
        stage.inputs.clear()
        stage.outputs.clear()
        if stage is last_of_layer.get(i):
            checkpoint(Checkpoint(i, done, tuple(results), None if ended else run.hidden))
    _return_freed_memory()
    for result in run.solved:  # the last ones: no decomposition follows that they could come behind
        result.turned()
    edits = compact.edits_of(net, assembly.cuts)
    return PruneResult(assembly.model(), config, edits, tuple(results), todo.notes, time.perf_counter() - started)


@dataclass
class _Stage:
    """Residual blocks of one layer that are measured together, and what is held of them until they are repaired."""

    index: int
    layer: nn.Module
    sites: Sequence[Site]
    live: Sequence[Site]  # those to prune
    sums: dict[tuple[str, bool], Accumulator] = field(default_factory=dict)  # by site, of held-out windows or not
    inputs: dict[str, Tensor] = field(default_factory=dict)  # (windows, tokens, d_in) of a consumer, later (…, kept)
    summed_directly: set[str] = field(default_factory=set)  # sites whose outputs stand for a Gram matrix, see direct.py
    outputs: dict[str, DirectOutputs] = field(default_factory=dict)  # theirs, of calibration windows


class _Run(Pass):
    """A pass that measures dense blocks and goes on through repaired ones."""

    def __init__(self, *args, batch_bytes: int, **options):
        super().__init__(*args, **options)
        self.batch_bytes, self._room = batch_bytes, None
        self.under_way, self._threads = [], torch.get_num_threads()
        self.solved: list[SiteResult] = []  # their turns not yet looked at

    def step(self, message: str, micro_batches: int = 1, site: SiteResult | None = None) -> None:
        """As of any pass; the micro-batch that follows leaves a core to every decomposition."""
        super().step(message, micro_batches, site)
        self._share_cores()

    def _share_cores(self) -> None:
        """As many threads as decompositions leave cores: more would wait for one another.

        Torch's number is this thread's, but threads that are new to torch meanwhile start with it.
        """
        self.under_way = [solving for solving in self.under_way if solving.busy]
        torch.set_num_threads(max(1, self._threads - len(self.under_way)))

    def solve(self, stage: _Stage, todo: Plan, config: Recipe, tidy: bool) -> list[SiteResult]:
        """Measure what is live of a stage and solve it.

        A decomposition keeps one core busy, so it begins as soon as it can. Beside it there is time for the next site,
        and where there is none, for held-out windows: both would need memory of both. Then inputs are gathered,
        and where that is asked for memory goes back: once a layer, for to get it again takes time.
        """
        alone = len(stage.live) == 1
        self.open(stage, config)
        self.measure(stage, held_out=False)
        if not alone:
            self.measure(stage, held_out=True)
        sums = {site.name: stage.sums.pop((site.name, False)).result() for site in stage.live}
        for site in stage.live:
            _check_finite(sums[site.name], consumer_of(stage.layer, site).weight.data, stage.index, site)
        solving = {}
        for site in stage.live:
            solving[site.name] = self.score(stage, site, sums.pop(site.name), todo, config)
            self.begin(solving[site.name])
            if alone:
                self.measure(stage, held_out=True)
            self.check(stage, site, solving[site.name])
        if stage.sites[0] in stage.live:
            self.gather(stage, solving[stage.sites[0].name].columns)
        if tidy:
            _return_freed_memory()
        return [self.finish(stage, site, solving.pop(site.name)) for site in stage.live]

    def open(self, stage: _Stage, config: Recipe) -> None:
        """Make room for what is measured of the stage.

        As far as a batch holds them, the inputs of its first consumer are kept, to serve again, and those of consumers
        whose outputs are summed up instead of a Gram matrix: they need those of all windows.
        """
        consumers = {s.name: consumer_of(stage.layer, s) for s in stage.sites}
        suited = [
            s.name for s in stage.live if direct.serves(consumers[s.name].weight, compensation_at(config, s.name))
        ]
        widths = {name: c.in_features for name, c in consumers.items() if name in (stage.sites[0].name, *suited)}
        stage.inputs = self._room_for(widths)
        stage.summed_directly = {name for name in suited if len(stage.inputs.get(name, ())) == len(self.hidden)}
        for site in stage.live:
            d_in, gram = consumers[site.name].in_features, site.name not in stage.summed_directly
            for held_out in (False, True):
                stage.sums[site.name, held_out] = Accumulator(d_in, self.device, gram=gram)

    def measure(self, stage: _Stage, held_out: bool) -> None:
        """Run the dense blocks up to the last live consumer and add up its inputs; hidden states stay as they are."""
        bare = {s.name: with_consumer(stage.layer.get_submodule(s.block), s, nn.Identity()) for s in stage.sites}
        for part in (part for part, of_held_out in self.micro_batches if of_held_out == held_out):
            self.step(f"layer {stage.index}: measuring {' and '.join(s.name for s in stage.live)}")
            h = self.hidden[part]
            for site in stage.sites:
                x = run_block(bare[site.name], stage.layer.get_submodule(site.norm), site, h, self.attention)
                if site in stage.live:
                    stage.sums[site.name, held_out].add(x)
                if part.stop <= len(stage.inputs.get(site.name, ())):
                    stage.inputs[site.name][part] = x
                if site is stage.live[-1]:
                    break
                h = h + consumer_of(stage.layer, site)(x)

    def score(self, stage: _Stage, site: Site, calibration: Statistics, todo: Plan, config: Recipe) -> Solving:
        """Choose what stays at one site."""
        solving = Solving(
            consumer_of(stage.layer, site).weight.data,
            calibration,
            todo.layouts[site.name],
            config,
            layer=stage.index,
            site=site.name,
            unit=todo.unit if site.attention else "channel",
            outputs_of=self._outputs_of(stage, site, held_out=False),
        )
        if site.name in stage.summed_directly:
            stage.outputs[site.name] = solving.outputs
        return solving

    def check(self, stage: _Stage, site: Site, solving: Solving) -> None:
        """Have one site look at its held-out windows, which have been measured."""
        sums = stage.sums.pop((site.name, True))
        if sums.tokens:
            solving.check(sums.result(), self._outputs_of(stage, site, held_out=True))

    def gather(self, stage: _Stage, columns: Tensor) -> None:
        """Keep no others of the inputs that serve again: in their own place, for there is no other room."""
        name = stage.sites[0].name
        inputs, columns = stage.inputs[name], columns.to(self.device)
        if name in stage.summed_directly or len(columns) == inputs.shape[-1]:
            return
        self._share_cores()
        stage.inputs[name] = inputs[..., : len(columns)]
        for part in (part for part, _ in self.micro_batches if part.stop <= len(inputs)):
            stage.inputs[name][part] = inputs[part].gather(-1, columns.expand(*inputs[part].shape[:2], -1))

    def begin(self, solving: Solving) -> None:
        """Begin to decompose; the same core then works out how far the sites before were turned."""
        solving.begin(*(result.turned for result in self.solved))
        self.solved.clear()
        if self.device.type != "cpu":
            solving.wait()  # torch loads its decompositions for GPUs on first use, and not from two threads
        self.under_way.append(solving)

    def finish(self, stage: _Stage, site: Site, solving: Solving) -> SiteResult:
        """The result of one site."""
        self.step(f"layer {stage.index}: solving {site.name}", 0)
        solving.wait()
        self._share_cores()
        self.solved.append(result := solving.finish())
        return result

    def _outputs_of(self, stage: _Stage, site: Site, held_out: bool) -> Callable[[Tensor], DirectOutputs] | None:
        """How to put outputs for kept columns in the place of inputs, where those were kept for it."""
        if site.name not in stage.summed_directly:
            return None
        message = f"layer {stage.index}: repairing {site.name}"

        def outputs_of(columns: Tensor) -> DirectOutputs:
            weight, inputs = consumer_of(stage.layer, site).weight.data, stage.inputs[site.name]
            batches = [
                inputs[part].flatten(0, 1) for part, of_held_out in self.micro_batches if of_held_out == held_out
            ]
            return DirectOutputs(weight, columns, batches, lambda: self.step(message, 0))

        return outputs_of

    def advance(self, stage: _Stage, repaired: dict[str, nn.Module]) -> None:
        """Run the stage with its repaired blocks and move the hidden states on.

        The first block meets the same hidden states as when it was measured, so inputs in the batch serve again.
        """
        first = stage.sites[0]
        consumer = repaired.get(first.name, stage.layer.get_submodule(first.block)).get_submodule(first.consumer)
        outputs = stage.outputs.get(first.name)

        def put_out(x: Tensor) -> Tensor:  # (windows, tokens, …), of stage.inputs
            if outputs is None:
                return consumer(x)
            own, z = consumer_of(stage.layer, first).bias, outputs.put_out(x)
            return z if own is None else z + own

        for part, _ in self.micro_batches:
            self.step(f"layer {stage.index}: running {'repaired' if repaired else 'as it is'}", 2 - bool(stage.live))
            h = self.hidden[part]  # a view
            for site in stage.sites:
                block = repaired.get(site.name, stage.layer.get_submodule(site.block))
                if site is first and part.stop <= len(stage.inputs.get(first.name, ())):
                    h += put_out(stage.inputs[first.name][part])
                else:
                    h += run_block(block, stage.layer.get_submodule(site.norm), site, h, self.attention)

    def _room_for(self, widths: dict[str, int]) -> dict[str, Tensor]:
        """Space for the inputs of these projections, (windows, tokens, d_in): a batch.

        It holds as many windows of the first as fit, and of each other one all or none. All layers get the same space:
        new memory for each forward would cost as much as a product with it.
        """
        (count, tokens), counts, places, end = self.hidden.shape[:2], {}, {}, 0
        for name, d_in in widths.items():
            fit = (self.batch_bytes // self.hidden.element_size() - end) // (tokens * d_in)
            if fit < count:
                fit = 0 if counts else max((p.stop for p, _ in self.micro_batches if p.stop <= fit), default=0)
            counts[name] = min(fit, count)
            places[name] = slice(end, end := end + counts[name] * tokens * d_in)
        if self._room is None or len(self._room) < end:
            self._room = None  # before the larger one is there
            self._room = self.hidden.new_empty(end)
        return {name: self._room[places[name]].view(counts[name], tokens, widths[name]) for name in widths}


def _return_freed_memory() -> None:
    """Have glibc give freed pages back: temporaries of a layer would otherwise stay with the process, about 100 MB."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _check_finite(x: Statistics, weight: Tensor, layer: int, site: Site) -> None:
    for what, values in (("inputs", torch.stack([x.absolute, x.square])), ("weights", weight)):
        if not values.sum().isfinite() and not values.isfinite().all():  # the sum alone is 20 times as fast
            dtype = str(weight.dtype).removeprefix("torch.")
            raise RcpuError(
                f"layer {layer}, {site.name}: its {what} hold NaN or Inf in {dtype}: "
                "load the model in bf16 or fp32, or look for broken weights in this layer"
            )
