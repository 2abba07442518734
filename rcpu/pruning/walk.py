"""The windows' way through the layers: measured in dense blocks, moved on through repaired ones.

A layer's input comes from the layers already pruned. Between layers one buffer of hidden states is kept for all
windows. Inside a layer no more is kept than a batch: the inputs of its projections for as many windows as fit
``batch_bytes``, to be used again; what does not fit is computed again. A forward takes a micro-batch of it.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from rcpu.base.errors import RcpuError
from rcpu.methods.scoring import FROM_WINDOWS
from rcpu.methods.subspace import narrow
from rcpu.models.families import Site, consumer_of, heads_of, run_block, with_consumer
from rcpu.pruning import direct
from rcpu.pruning.direct import DirectOutputs
from rcpu.pruning.plan import Plan
from rcpu.pruning.recipe import Recipe
from rcpu.pruning.result import Checkpoint
from rcpu.pruning.site import Measured, SiteResult, Solving
from rcpu.pruning.stage import Stage, Sums
from rcpu.statistics.decompose import FEW, SMALL
from rcpu.statistics.fluctuation import Fluctuation
from rcpu.statistics.passes import Pass
from rcpu.statistics.sums import Accumulator, Statistics

BATCH_BYTES = 512 * 2**20


@contextlib.contextmanager
def threads_set_back() -> Iterator[None]:
    """Torch's threads are as many after the block as before."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Walk(Pass):
    """A pass that measures dense blocks and goes on through repaired ones."""

    def __init__(self, net: nn.Module, recipe: Recipe, *args, batch_bytes: int, **options):
        super().__init__(net, *args, **options)
        self.recipe, self.heads, self.batch_bytes, self._room = recipe, heads_of(net), batch_bytes, None
        #: The same windows in the dense model, where a target asks how far the pruned one is from it.
        self.dense = self.hidden.clone() if recipe.target else None
        #: Whether hidden states lie elsewhere than the layers: a micro-batch of them is fetched, and put back.
        self.away = False
        self.under_way, self._threads = [], torch.get_num_threads()
        self.large = self.device.type != "cpu" or self.hidden.shape[-1] > SMALL
        #: Whether a decomposition keeps one core busy, and there are others.
        self.beside = not self.large and self._threads > FEW

    def go_on(self, start: Checkpoint, stages: int) -> list[SiteResult]:
        """Stand where an earlier run stood after a layer."""
        if start.hidden is not None:
            self.hidden.copy_(start.hidden)
        if start.dense is not None:
            self.dense.copy_(start.dense)
        self.fraction = start.stages / stages
        return list(start.sites)

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

    def solve(self, stage: Stage, todo: Plan, metrics: Mapping[tuple[int, str], Tensor]) -> Iterator[SiteResult]:
        """Measure what is live of a stage, and solve it a site at a time: its block can move on beside the next.

        Where cores are many, a small decomposition keeps one busy: it begins as soon as it can, and beside it there is
        time for the next site, for held-out windows, and for the block before. A large decomposition has all cores, and
        so has any where they are few: a site is finished before the next. Memory goes back once a layer, for to get it
        again takes time; not where it is as little as a small layer leaves on one thread.
        """
        alone = len(stage.live) == 1
        if not stage.live:
            return iter(())
        self.open(stage)
        self.measure(stage, held_out=False)
        if not (self.beside or alone):
            self.measure(stage, held_out=True)
        sums = {site.name: stage.sums.pop((site.name, False)).result(self.recipe) for site in stage.live}
        for site in stage.live:
            _check_finite(sums[site.name].x, consumer_of(stage.layer, site).weight.data, stage.index, site)
        found: dict[str, Solving | SiteResult] = {}
        for site in stage.live:
            metric = metrics.get((stage.index, site.name))
            solving = self.choose(stage, site, sums.pop(site.name), todo, metric)
            self.begin(stage, site, solving)
            found[site.name] = solving
            if not self.beside:
                if alone:
                    self.measure(stage, held_out=True)
                self.check(stage, site, solving)
                found[site.name] = self.finish(stage, site, solving)
            del solving  # or what it holds would stay beside the next
        if self.beside:
            self.measure(stage, held_out=True)
            for site in stage.live:
                self.check(stage, site, found[site.name])
        if stage.sites[0] in stage.live and self.recipe.path == "pruned":
            self.gather(stage, found[stage.sites[0].name].columns)
        if stage.tidy and (self.large or self.beside):
            return_freed_memory()
        return self._results(stage, found)

    def _results(self, stage: Stage, found: dict[str, Solving | SiteResult]) -> Iterator[SiteResult]:
        for site in stage.live:  # without a name of ours for what is given away: it would stay
            yield self.finish(stage, site, found.pop(site.name)) if self.beside else found.pop(site.name)

    def open(self, stage: Stage) -> None:
        """Make room for what is measured of the stage.

        As far as a batch holds them, the inputs of its first consumer are kept, to serve again, and those of consumers
        whose outputs are summed up instead of a Gram matrix: they need those of all windows.
        """
        consumers = {s.name: consumer_of(stage.layer, s) for s in stage.sites}
        suited = [s.name for s in stage.live if direct.serves(consumers[s.name].weight, self.recipe, s.name)]
        again = (stage.sites[0].name,) if self.recipe.path == "pruned" else ()
        widths = {name: c.in_features for name, c in consumers.items() if name in (*again, *suited)}
        stage.inputs = self._room_for(widths)
        stage.summed_directly = {name for name in suited if len(stage.inputs.get(name, ())) == len(self.hidden)}
        for site in stage.live:
            d_in, gram = consumers[site.name].in_features, site.name not in stage.summed_directly
            for held_out in {held_out for _, held_out in self.micro_batches}:  # sums take memory, nothing to add or not
                stage.sums[site.name, held_out] = Sums(
                    Accumulator(d_in, self.device, gram=gram),
                    Fluctuation(d_in) if self.recipe.scorer in FROM_WINDOWS else None,
                    *self._lacking(consumers[site.name].weight.shape),
                )

    def _lacking(self, shape: torch.Size) -> tuple[Tensor | None, Tensor | None]:
        if self.dense is None:
            return None, None
        return torch.zeros(shape, device=self.device), torch.zeros(shape[0], dtype=torch.float64)

    def measure(self, stage: Stage, held_out: bool) -> None:
        """Run the dense blocks up to the last live consumer and add up its inputs; hidden states stay as they are.

        On the dense path they move on: there is nothing else to go through.
        """
        bare, on = self._bare(stage), self.recipe.path == "dense"
        for part in (part for part, of_held_out in self.micro_batches if of_held_out == held_out):
            self.step(f"layer {stage.index}: measuring {' and '.join(s.name for s in stage.live)}")
            h, dense = self._fetched(part), None if self.dense is None else self.dense[part]
            for site in stage.sites:
                x = run_block(bare[site.name], stage.layer.get_submodule(site.norm), site, h, self.attention)
                if site in stage.live:
                    stage.sums[site.name, held_out].add(x, None if dense is None else dense - h)
                if part.stop <= len(stage.inputs.get(site.name, ())):
                    stage.inputs[site.name][part] = x
                if site is stage.live[-1] and dense is None and not on:
                    break
                y = consumer_of(stage.layer, site)(x)
                h = h.add_(y) if on else h + y
                if dense is not None:
                    self._dense_block(stage, site, part)

    def _bare(self, stage: Stage) -> dict[str, nn.Module]:
        return {s.name: with_consumer(stage.layer.get_submodule(s.block), s, nn.Identity()) for s in stage.sites}

    def _dense_block(self, stage: Stage, site: Site, part: slice) -> None:
        block, norm = stage.layer.get_submodule(site.block), stage.layer.get_submodule(site.norm)
        self.dense[part] += run_block(block, norm, site, self.dense[part], self.attention)

    def choose(self, stage: Stage, site: Site, seen: Measured, todo: Plan, metric: Tensor | None) -> Solving:
        """Choose what stays at one site."""
        solving = Solving(
            consumer_of(stage.layer, site).weight.data,
            seen,
            todo.layouts[site.name],
            self.recipe,
            todo.gone[stage.index, site.name],
            layer=stage.index,
            site=site.name,
            unit=todo.unit if site.attention else "channel",
            heads=self.heads,
            metric=metric,
            outputs_of=self._outputs_of(stage, site, held_out=False),
        )
        if site.name in stage.summed_directly:
            stage.outputs[site.name] = solving.outputs
        return solving

    def check(self, stage: Stage, site: Site, solving: Solving) -> None:
        """Have one site look at its held-out windows, which have been measured."""
        if sums := stage.sums.pop((site.name, True), None):
            solving.check(sums.result(self.recipe, solving.tokens), self._outputs_of(stage, site, held_out=True))

    def gather(self, stage: Stage, columns: Tensor) -> None:
        """Keep no others of the inputs that serve again: in their own place, for there is no other room."""
        name = stage.sites[0].name
        inputs, columns = stage.inputs[name], columns.to(self.device)
        kept = len(columns) if columns.ndim == 1 else columns.shape[1] * self.heads.query
        if name in stage.summed_directly or kept == inputs.shape[-1]:
            return
        self._share_cores()
        stage.inputs[name] = inputs[..., :kept]
        for part in (part for part, _ in self.micro_batches if part.stop <= len(inputs)):
            if columns.ndim == 1:
                stage.inputs[name][part] = inputs[part].gather(-1, columns.expand(*inputs[part].shape[:2], -1))
            else:
                stage.inputs[name][part] = narrow(inputs[part], columns)

    def begin(self, stage: Stage, site: Site, solving: Solving) -> None:
        """Begin to decompose, or do it."""
        self.step(f"layer {stage.index}: solving {site.name}", 0)
        solving.begin(self.beside)
        self.under_way.append(solving)

    def finish(self, stage: Stage, site: Site, solving: Solving) -> SiteResult:
        """The result of one site."""
        solving.wait()
        self._share_cores()
        return solving.finish()

    def _outputs_of(self, stage: Stage, site: Site, held_out: bool) -> Callable[[Tensor], DirectOutputs] | None:
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

    def advance(self, stage: Stage, site: Site, repaired: nn.Module | None) -> None:
        """Run a block of the stage, repaired or as it is, and move the hidden states on.

        The first block meets the same hidden states as when it was measured, so inputs in the batch serve again.
        """
        block = repaired or stage.layer.get_submodule(site.block)
        consumer, norm = block.get_submodule(site.consumer), stage.layer.get_submodule(site.norm)
        outputs = stage.outputs.get(site.name)
        again = len(stage.inputs.get(site.name, ())) if site is stage.sites[0] else 0

        def put_out(x: Tensor) -> Tensor:  # (windows, tokens, …), of stage.inputs
            if outputs is None:
                return consumer(x)
            own, z = consumer_of(stage.layer, site).bias, outputs.put_out(x)
            return z if own is None else z + own

        for part, _ in self.micro_batches:
            passes = 0 if site is not stage.sites[-1] else 1 if stage.live else 2
            self.step(f"layer {stage.index}: running {'repaired' if repaired else 'as it is'}", passes)
            if self.dense is not None and not stage.live:
                self._dense_block(stage, site, part)
            h = self._fetched(part)
            if part.stop <= again:
                h += put_out(stage.inputs[site.name][part])
            else:
                h += run_block(block, norm, site, h, self.attention)
            if self.away:
                self.hidden[part] = h

    def _fetched(self, part: slice) -> Tensor:  # a view where they are at hand
        return self.hidden[part].to(self.device, copy=True) if self.away else self.hidden[part]

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
            self._room = self.hidden.new_empty(end, device=self.device)
        return {name: self._room[places[name]].view(counts[name], tokens, widths[name]) for name in widths}


def return_freed_memory() -> None:
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
