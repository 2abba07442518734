"""``make kills``: processes that prune, save, measure and delete in one store are killed at random moments.

Each tells what it has finished, and only that, before it goes on. After every kill the store is opened anew: all that
was told has to be there, whole, and nothing may read as running. Results of the same recipe have to be the same to the
last bit, whether they went through in one piece or were killed and gone on with.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import rcpu
from rcpu.runs import Store, open_store, perplexities
from tests.killed import digest_of, work

TOGETHER = 2  # processes at once
LONGEST = 2.0  # seconds that one lives, and on a slow or busy machine longer: some have to get something done


class Told:
    """What processes said that they had finished."""

    def __init__(self) -> None:
        self.runs: dict[str, str] = {}
        self.measures: dict[tuple[str, str], float] = {}
        self.gone: set[str] = set()
        self.counts: Counter = Counter()
        self.last: dict[int, str] = {}

    def hear(self, process: int, message: tuple) -> None:
        what, *rest = message
        self.counts[what] += 1
        if what == "doing":
            self.last[process] = rest[0]
        elif what in ("finished", "resumed"):
            self.runs[rest[0]] = rest[1]
        elif what == "measured":
            self.measures[rest[0], rest[1]] = rest[2]
        elif what == "deleting":  # from here on it may be gone
            self.gone.add(rest[0])

    def missing(self, store: Store) -> list[str]:
        """What was told and is not there, or is not what it was."""
        found = {run.id: run for run in store.runs()}
        lost = [f"run {i} reads as running" for i, run in found.items() if run.state == "running"]
        contents: dict[str, set[str]] = {}
        for run_id, digest in self.runs.items():
            if run_id in self.gone:
                continue
            if run_id not in found or found[run_id].state != "done" or digest_of(store, run_id) != digest:
                lost.append(f"run {run_id}")
            else:
                contents.setdefault(found[run_id].content, set()).add(digest)
        lost += [f"content {c} has {len(d)} results" for c, d in contents.items() if len(d) > 1]
        kept = {(m.subject, p.digest): p.perplexity for m, p in _perplexities(store)}
        for key, value in self.measures.items():
            if key[0] not in self.gone and kept.get(key) != value:
                lost.append(f"perplexity of {key[0]}")
        return lost


def _perplexities(store: Store):
    for measure in store.measures.all(kind="perplexity"):
        for found in perplexities(store, measure.subject):
            if found.digest == measure.asked["windows"]:
                yield measure, found


def drain(told: Told, process: int, pipe: Connection) -> None:
    """Hear all that was said; a message that a kill cut off was not said."""
    try:
        while pipe.poll():
            told.hear(process, pipe.recv())
    except (EOFError, OSError):
        pass


def seconds_to_finish(context: multiprocessing.context.BaseContext, folder: Path) -> float:
    """How long one process alone takes here to prune and save."""
    pipe, theirs = context.Pipe(duplex=False)
    process, since, told = context.Process(target=work, args=(folder, 0, theirs), daemon=True), 0.0, ""
    process.start()
    theirs.close()
    while told != "finished":
        told = pipe.recv()[0]
        since = time.monotonic() if told == "started" else since
    process.kill()
    process.join()
    return time.monotonic() - since


def main() -> int:
    """Kill, look, and say what was found; 1 if anything finished was lost or a start refused."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None, help="of the moments (default: another each time)")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    dice, told, lost, refused, hit = random.Random(seed), Told(), [], 0, Counter()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killed"])
    began, killed = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="rcpu-kills-") as above:
        folder = Path(above) / "home"
        longest = max(LONGEST, 3 * seconds_to_finish(context, Path(above) / "first"))
        while killed < options.kills:
            running = []
            for _ in range(min(TOGETHER, options.kills - killed)):
                pipe, theirs = context.Pipe(duplex=False)
                process = context.Process(target=work, args=(folder, dice.randrange(10**6), theirs), daemon=True)
                process.start()
                theirs.close()
                running.append((process, pipe))
            ready = [pipe.poll(120) for _, pipe in running]
            refused += ready.count(False)
            ends = sorted((time.monotonic() + dice.uniform(0, longest), *both) for both in running)
            for end, process, pipe in ends:
                while time.monotonic() < end:
                    for _, other, its_pipe in ends:
                        if other.pid in (p.pid for p, _ in running):
                            drain(told, other.pid, its_pipe)
                    time.sleep(0.002)
                if process.exitcode is not None:
                    refused += 1
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                drain(told, process.pid, pipe)
                hit[told.last.get(process.pid, "starting")] += 1
                killed += 1
            try:
                lost += told.missing(open_store(folder))
            except rcpu.RcpuError as error:
                refused += 1
                print(f"refused: {error}")
            print(f"\r{killed} kills", end="", file=sys.stderr, flush=True)
        states = Counter(run.state for run in open_store(folder).runs())
    print(file=sys.stderr)
    print(
        f"seed {seed}, {time.monotonic() - began:.0f} s, each lived up to {longest:.1f} s; killed while "
        + ", ".join(f"{k}: {n}" for k, n in hit.items())
    )
    print(", ".join(f"{told.counts[k]} {k}" for k in ("finished", "resumed", "measured", "deleted")))
    print("runs at the end: " + ", ".join(f"{n} {state}" for state, n in states.items()))
    print(f"{killed} kills: {len(lost)} finished results lost, {refused} starts refused")
    for line in dict.fromkeys(lost):
        print(f"  lost: {line}")
    return 1 if lost or refused else 0


if __name__ == "__main__":
    sys.exit(main())
