"""Where the cells of a sweep run: processes of this machine, or a Ray cluster. A worker that dies costs one retry."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from multiprocessing import get_context
from types import ModuleType

import torch

from rcpu.base.errors import RcpuError
from rcpu.models.devices import free_memory
from rcpu.runs.sweep import Cell, Done, run_cell

RETRIES = 1
OBJECTS = 80 * 2**20  # bytes that a Ray of this machine alone holds for its workers
DIED = "its process died twice, killed by the system or for memory"
Work = Callable[[dict], dict]


def local(
    cells: Sequence[Cell], *, work: Work = run_cell, at_once: int | None = None, address: str | None = None
) -> Iterator[Done]:
    """Processes of this machine, as many at once as memory allows; yields cells as they are done.

    They import ``work`` from its module, and never run the script that called.
    """
    if address:
        raise RcpuError("--address is that of a Ray cluster: leave it out, or choose --engine ray")
    workers = at_once or room_for(cells)
    waiting, suspects = list(cells), []
    while waiting:
        under_way: list[Cell] = []
        with _pool(workers) as pool:
            futures: dict[Future, Cell] = {}
            while (waiting and not under_way) or futures:
                while waiting and len(futures) < workers and not under_way:
                    try:
                        with _hidden_script():
                            future = pool.submit(work, asdict(waiting[0]))
                    except BrokenProcessPool:  # since the last look
                        break
                    futures[future] = waiting.pop(0)
                if not futures:
                    break
                for future in wait(futures, return_when=FIRST_COMPLETED).done:
                    cell = futures.pop(future)
                    try:
                        done = Done(**future.result())
                    except BrokenProcessPool:  # which of those under way is to blame cannot be told
                        under_way.append(cell)
                    else:
                        yield done
        suspects += under_way
    for cell in suspects:  # alone, so that a cell that kills its process takes no other along
        yield next(filter(None, (_alone(work, cell) for _ in range(1 + RETRIES))), Done(cell.name, error=DIED))


def _pool(workers: int) -> ProcessPoolExecutor:
    threads = max(1, (os.cpu_count() or 1) // workers)
    return ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (threads,))


def _alone(work: Work, cell: Cell) -> Done | None:
    """A cell in a process of its own; None if that died."""
    with _pool(1) as pool:
        with _hidden_script():
            future = pool.submit(work, asdict(cell))
        try:
            return Done(**future.result())
        except BrokenProcessPool:
            return None


@contextlib.contextmanager
def _hidden_script() -> Iterator[None]:
    """Processes that start in the block do not run this one's script again, which may be a page that is being drawn."""
    script, blank = sys.modules["__main__"], ModuleType("__main__")
    sys.modules["__main__"] = blank
    try:
        yield
    finally:
        if sys.modules["__main__"] is blank:  # else another thread has put its own there
            sys.modules["__main__"] = script


def room_for(cells: Sequence[Cell]) -> int:
    """How many cells of this sweep fit this machine at once; those on one GPU go one after another."""
    if any(cell.gpus for cell in cells):
        return 1
    need = max(max(cell.bytes() for cell in cells), 1)
    fit = free_memory(torch.device("cpu")) // need
    return int(max(1, min(len(cells), os.cpu_count() or 1, fit)))


def on_ray(
    cells: Sequence[Cell], *, work: Work = run_cell, at_once: int | None = None, address: str | None = None
) -> Iterator[Done]:
    """A Ray cluster, or this machine as one: placed by GPU and memory, retried by Ray; yields cells as they are done.

    The store must lie in a folder that every machine sees.

    Raises:
        RcpuError: Ray is not installed, or there is no cluster at that address.
    """
    try:
        import ray
    except ImportError as error:
        raise RcpuError(
            "Ray is not installed: pip install -r requirements-cluster.txt, or choose --engine local"
        ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    begun = not ray.is_initialized()
    if begun:
        try:
            # Of its own it needs no dashboard, and a cell is a few plain values: the least that Ray takes is room.
            light = {"num_cpus": at_once, "include_dashboard": False, "object_store_memory": OBJECTS}
            ray.init(address=address, log_to_driver=False, **({} if address else light))
        except Exception as error:  # bare ones where a node does not start in time
            raise RcpuError(f"no Ray cluster at {address or 'this machine'}: {str(error)[:200]}") from error
    try:
        remote = ray.remote(work)
        waiting = {}
        for cell in cells:
            needs = {"num_cpus": 1, "num_gpus": cell.gpus, "max_retries": RETRIES}
            needs |= {"memory": cell.bytes()} if cell.bytes() and not cell.gpus else {}
            waiting[remote.options(**needs).remote(asdict(cell))] = cell
        while waiting:
            ready, _ = ray.wait(list(waiting))
            for reference in ready:
                cell = waiting.pop(reference)
                try:
                    yield Done(**ray.get(reference))
                except ray.exceptions.WorkerCrashedError:
                    yield Done(cell.name, error=DIED)
                except (ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as error:
                    yield Done(cell.name, error=" ".join(str(error).split())[:200])
    finally:
        if begun:
            ray.shutdown()


ENGINES: dict[str, Callable[..., Iterator[Done]]] = {"local": local, "ray": on_ray}
