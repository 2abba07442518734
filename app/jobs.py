"""Work off the script thread: a queue for the one accelerator, with progress, cancel, and jobs found again by id.

Knows nothing of Streamlit. A job outlives the page that started it; a page polls it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from rcpu import Cancelled, RcpuError
from rcpu.base import OUT_OF_MEMORY, out_of_memory

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
    shared: bool = False  # nobody started it: it is for all who come
    yields: bool = False  # to jobs that somebody waits for: it is stopped, keeps what it has, and goes on after them
    paused: bool = False
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
    finished: threading.Event = field(default_factory=threading.Event)

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
        self._changed = threading.Condition()
        threading.Thread(target=self._loop, name="rcpu-jobs", daemon=True).start()

    def submit(
        self,
        kind: str,
        title: str,
        work: Callable[[Job], Any],
        asks: Hashable = None,
        *,
        shared: bool = False,
        yields: bool = False,
        job_id: str = "",
    ) -> Job:
        """Queue ``work(job)``, whose return value becomes the job's result, or join the job that ``asks`` the same.

        ``job_id`` is the id of what the job makes, where that outlives it.

        Raises:
            RcpuError: too many jobs wait already.
        """
        job = Job(kind, title, work, asks, shared=shared, yields=yields)
        job.id = job_id or job.id
        with self._changed:
            for other in self._jobs.values():
                if asks is not None and (other.kind, other.asks) == (kind, asks) and other.active:
                    return other
            waiting = sum(j.state == "waiting" for j in self._jobs.values())
            if waiting >= self.waiting:
                raise RcpuError(f"{waiting} jobs are waiting already: try again when one has ended, or cancel one")
            self._jobs[job.id] = job
            for other in self._jobs.values():
                if other.state == "running" and other.yields and not yields:
                    other.paused = True
                    other.stop.set()
            self._changed.notify()
        return job

    def get(self, job_id: str | None) -> Job | None:
        """The job with this id, or None if there never was one or it has been forgotten."""
        return self._jobs.get(job_id or "")

    def asking(self, kind: str, asks: Hashable) -> Job | None:
        """The active job that asks this, whoever started it."""
        return next((job for job in self.all(kind) if job.active and job.asks == asks), None)

    def all(self, kind: str | None = None) -> list[Job]:
        """Known jobs, newest first."""
        with self._changed:
            jobs = list(self._jobs.values())
        return [j for j in reversed(jobs) if kind in (None, j.kind)]

    def ahead(self, job: Job) -> int:
        """How many jobs run before this waiting one."""
        return sum(j.active and j is not job and (j.yields, j.created) < (job.yields, job.created) for j in self.all())

    def cancel(self, job: Job) -> None:
        """Ask a job to stop; a waiting one ends at once, a running one within a micro-batch."""
        with self._changed:
            job.paused = False
            job.stop.set()
            if job.state == "waiting":
                job.state, job.ended, job.work = "cancelled", time.time(), None
                job.finished.set()

    def forget(self, job_id: str) -> None:
        """Let go of a finished job and its result."""
        with self._changed:
            if (job := self._jobs.get(job_id)) and not job.active:
                del self._jobs[job_id]

    def _loop(self) -> None:
        give_way(JOBS)
        while True:
            self._run(self._next())
            self._forget()

    def _next(self) -> Job:
        """The job that waits longest, those that yield after all others."""
        with self._changed:
            while True:
                waiting = [job for job in self._jobs.values() if job.state == "waiting"]
                if waiting:
                    job = min(waiting, key=lambda job: job.yields)
                    job.state, job.started = "running", job.started or time.time()
                    return job
                self._changed.wait()

    def _run(self, job: Job) -> None:
        try:
            result = job.work(job)
            job.result, job.fraction, state = result, 1.0, "done"
        except Cancelled:
            with self._changed:
                if job.paused:
                    job.paused, job.state = False, "waiting"
                    job.stop.clear()
                    return
            state = "cancelled"
        except RcpuError as error:
            job.error, state = str(error), "failed"
        except Exception as error:  # the app stays up whatever the work does; the log has the traceback
            if out_of_memory(error):
                job.error, state = OUT_OF_MEMORY, "failed"
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
            else:
                log.exception("job %s (%s) failed", job.id, job.title)
                job.error, state = f"unexpected {type(error).__name__}: {error}", "failed"
        job.work = None  # lets go of what the work closed over
        job.ended, job.state = time.time(), state
        job.finished.set()

    def _forget(self) -> None:
        with self._changed:
            for kind in {j.kind for j in self._jobs.values()}:
                ended = [j for j in self._jobs.values() if j.kind == kind and not j.active]
                for job in ended[: -self.kept.get(kind, KEPT)]:
                    del self._jobs[job.id]
