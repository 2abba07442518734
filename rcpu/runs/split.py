"""Windows shared among processes: each goes through the layers with its own, and sums add up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rcpu.base.errors import RcpuError
from rcpu.measure.perplexity import Perplexity
from rcpu.methods.scoring import FROM_WINDOWS
from rcpu.pruning.recipe import Recipe
from rcpu.pruning.site import Measured
from rcpu.pruning.stage import Stage, Sums
from rcpu.pruning.walk import Walk
from rcpu.statistics.sums import Statistics


class Alone:
    """One process with all windows."""

    rank, size, first = 0, 1, True

    def share(self, windows: Tensor) -> Tensor:
        """The windows of this process."""
        return windows

    def wait(self) -> None:
        """Until all processes are here."""

    def joined(self, found: Perplexity) -> Perplexity:
        """What was measured on all windows."""
        return found


class Split:
    """One of several processes of torch.distributed's group, which has been set up."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.first = self.rank == 0

    def share(self, windows: Tensor) -> Tensor:
        """The windows of this process, in one piece; raises ``RcpuError`` if there are fewer than processes."""
        if 0 < len(windows) < self.size:
            raise RcpuError(f"{len(windows)} windows cannot be shared by {self.size} processes: take more windows")
        return windows.tensor_split(self.size)[self.rank]

    def wait(self) -> None:
        """Until all processes are here."""
        dist.barrier()

    def joined(self, found: Perplexity) -> Perplexity:
        """What was measured on all windows: every process knows its own part."""
        parts: list[Perplexity] = [None] * self.size
        dist.all_gather_object(parts, found)
        by_window = tuple(loss for p in parts for loss in p.by_window)
        count = len(by_window)
        by_position = sum(torch.tensor(p.by_position, dtype=torch.float64) * p.windows for p in parts) / count
        mean = sum(by_window) / count
        return replace(
            parts[0],
            perplexity=torch.tensor(mean, dtype=torch.float64).exp().item(),
            tokens=sum(p.tokens for p in parts),
            windows=count,
            by_window=by_window,
            by_position=tuple(by_position.tolist()),
            digest="",
        )

    def summed(self, seen: Measured) -> Measured:
        """Sums of all processes."""
        x = seen.x
        # One after the other and in place: a Gram matrix is the largest thing there is.
        parts = [x.gram, torch.stack([x.total, x.absolute, x.square]), torch.tensor([x.tokens])]
        for part in parts:
            dist.all_reduce(part)
        gram, sums, tokens = parts
        return replace(seen, x=Statistics(gram, *sums, int(tokens)))


@contextlib.contextmanager
def launched() -> Iterator[Split | Alone]:
    """The processes that torchrun has started, a group inside the block; this one alone where it has not."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield Alone()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group()  # gloo for what is on the CPU, NCCL for GPUs
    try:
        yield Split()
    finally:
        dist.destroy_process_group()


class _Shared:
    """Sums of one projection that are those of all processes once they are asked for."""

    def __init__(self, own: Sums, split: Split):
        self.inputs, self.add, self._own, self._split = own.inputs, own.add, own, split

    def result(self, recipe: Recipe, tokens: int | None = None) -> Measured:
        return self._split.summed(self._own.result(recipe, tokens))


class SplitWalk(Walk):
    """A walk with a share of the windows. All processes solve the same problems, and find the same."""

    def __init__(self, split: Split, net: nn.Module, recipe: Recipe, *args, **options):
        if recipe.scorer in FROM_WINDOWS:
            raise RcpuError(f"score {recipe.scorer!r} needs all windows in one process")
        super().__init__(net, recipe, *args, **options)
        self.split = split

    def open(self, stage: Stage) -> None:
        """As of any walk, with sums that are shared."""
        super().open(stage)
        stage.sums = {key: _Shared(sums, self.split) for key, sums in stage.sums.items()}
