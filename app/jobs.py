"""Work off the script thread: a queue for the one accelerator, with progress, cancel, and jobs found again by id.

Knows nothing of Streamlit. A job outlives the page that started it; a page polls it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import secrets
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from rcpu import Cancelled, RcpuError

log = logging.getLogger(__name__)

#: Nice values of threads, from 0 for pages to 19: answers ahead of a question give way to pages, jobs to both.
AHEAD, JOBS = 10, 19
KEPT = 24  # finished jobs of a kind that are remembered unless said otherwise


def give_way(nice: int) -> None:
    """Have this thread, and those it starts, run when no page needs the processor."""
    if sys.platform == "linux":  # elsewhere threads have no priority of their own
        with contextlib.suppress(OSError):  # a container may refuse: the thread works all the same
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


@dataclass(eq=False)
class Job:
    """One piece of work. The worker thread writes and pages read: fields are replaced whole, never changed in place."""

    kind: str
    title: str
    work: Callable[[Job], Any]
    asks: Hashable = None  # all that its result depends on; None: nobody else can want it
    id: str = field(default_factory=lambda: secrets.token_urlsafe(6))
    state: str = "waiting"  # → running → done | failed | cancelled
    fraction: float = 0.0
    message: str = ""
    partial: Any = None  # what can be shown before the end
    result: Any = None
    error: str = ""
    created: float = field(default_factory=time.time)
    started: float | None = None
    ended: float | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def active(self) -> bool:
        """Waiting or running."""
        return self.state in ("waiting", "running")

    @property
    def seconds(self) -> float:
        """How long it has been running, or ran."""
        return 0.0 if self.started is None else (self.ended or time.time()) - self.started

    def report(self, fraction: float, message: str = "") -> None:
        """Progress from 0 to 1 and what is being done."""
        self.fraction, self.message = fraction, message or self.message

    def cancelled(self) -> bool:
        """Whether somebody asked this job to stop; work looks here in every micro-batch."""
        return self.stop.is_set()


class Jobs:
    """All jobs of this process, run one after another by one thread."""

    def __init__(self, waiting: int = 8, kept: Mapping[str, int] | None = None) -> None:
        """``waiting``: jobs that may wait at once; ``kept``: finished jobs that are remembered, by kind."""
        self.waiting, self.kept = waiting, kept or {}
        self._jobs: dict[str, Job] = {}
        self._queue: queue.Queue[Job] = queue.Queue()
        self._lock = threading.Lock()
        threading.Thread(target=self._loop, name="rcpu-jobs", daemon=True).start()

    def submit(self, kind: str, title: str, work: Callable[[Job], Any], asks: Hashable = None) -> Job:
        """Queue ``work(job)``, whose return value becomes the job's result, or join the job that ``asks`` the same.

        Raises:
            RcpuError: too many jobs wait already.
        """
        job = Job(kind, title, work, asks)
        with self._lock:
            for other in self._jobs.values():
                if asks is not None and (other.kind, other.asks) == (kind, asks) and other.active:
                    return other
            waiting = sum(j.state == "waiting" for j in self._jobs.values())
            if waiting >= self.waiting:
                raise RcpuError(f"{waiting} jobs are waiting already: try again when one has ended, or cancel one")
            self._jobs[job.id] = job
        self._queue.put(job)
        return job

    def get(self, job_id: str | None) -> Job | None:
        """The job with this id, or None if there never was one or it has been forgotten."""
        return self._jobs.get(job_id or "")

    def all(self, kind: str | None = None) -> list[Job]:
        """Known jobs, newest first."""
        with self._lock:
            jobs = list(self._jobs.values())
        return [j for j in reversed(jobs) if kind in (None, j.kind)]

    def ahead(self, job: Job) -> int:
        """How many jobs run before this waiting one."""
        return sum(j.active and j.created < job.created for j in self.all())

    def cancel(self, job: Job) -> None:
        """Ask a job to stop; a waiting one ends at once, a running one within a micro-batch."""
        job.stop.set()
        with self._lock:
            if job.state == "waiting":
                job.state, job.ended, job.work = "cancelled", time.time(), None

    def forget(self, job_id: str) -> None:
        """Let go of a finished job and its result."""
        with self._lock:
            if (job := self._jobs.get(job_id)) and not job.active:
                del self._jobs[job_id]

    def _loop(self) -> None:
        give_way(JOBS)
        while True:
            self._run(self._queue.get())
            self._forget()

    def _run(self, job: Job) -> None:
        with self._lock:
            if job.state != "waiting":
                return
            job.state, job.started = "running", time.time()
        try:
            result = job.work(job)
            job.result, job.fraction, state = result, 1.0, "done"
        except Cancelled:
            state = "cancelled"
        except RcpuError as error:
            job.error, state = str(error), "failed"
        except (MemoryError, torch.OutOfMemoryError):
            job.error = "out of memory: take fewer or shorter windows, a narrower dtype or a smaller model"
            state = "failed"
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        except Exception as error:  # the app stays up whatever the work does; the log has the traceback
            log.exception("job %s (%s) failed", job.id, job.title)
            job.error, state = f"unexpected {type(error).__name__}: {error}", "failed"
        job.work = None  # lets go of what the work closed over
        job.ended, job.state = time.time(), state

    def _forget(self) -> None:
        with self._lock:
            for kind in {j.kind for j in self._jobs.values()}:
                ended = [j for j in self._jobs.values() if j.kind == kind and not j.active]
                for job in ended[: -self.kept.get(kind, KEPT)]:
                    del self._jobs[job.id]
