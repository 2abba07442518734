"""The queue that keeps work off the script thread."""

import os
import sys
import threading
import time

import pytest

from app.jobs import KEPT, Job, Jobs
from rcpu import Cancelled, RcpuError


def wait(job: Job, seconds: float = 10) -> Job:
    end = time.monotonic() + seconds
    while job.active and time.monotonic() < end:
        time.sleep(0.005)
    assert not job.active, f"{job.title} did not end within {seconds} s"
    return job


def until_cancelled(job: Job) -> None:
    while True:
        if job.cancelled():
            raise Cancelled
        time.sleep(0.005)


def test_result_progress_and_partial_are_there():
    def work(job):
        job.report(0.5, "half")
        job.partial = (1,)
        return 2

    job = wait(Jobs().submit("any", "adds", work))
    assert (job.state, job.result, job.partial, job.fraction, job.message) == ("done", 2, (1,), 1.0, "half")
    assert job.seconds >= 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has threads with a priority of their own")
def test_pages_come_before_jobs(monkeypatch):
    monkeypatch.setattr("app.jobs.JOBS", 19)

    def priority(_) -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert wait(Jobs().submit("any", "priority", priority)).result == 19
    assert priority(None) < 19


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has threads with a priority of their own")
def test_jobs_run_where_priorities_are_refused(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    assert wait(Jobs().submit("any", "runs", lambda job: 1)).result == 1


def test_one_job_runs_at_a_time_in_order():
    jobs, running, order = Jobs(), threading.Lock(), []

    def work(job):
        assert running.acquire(blocking=False), "two jobs at once"
        time.sleep(0.01)
        order.append(job.title)
        running.release()

    submitted = [jobs.submit("any", str(i), work) for i in range(4)]
    assert [wait(j).state for j in submitted] == ["done"] * 4
    assert order == ["0", "1", "2", "3"]


def test_a_running_job_is_cancelled_and_a_waiting_one_never_starts():
    jobs = Jobs()
    running, waiting = jobs.submit("any", "a", until_cancelled), jobs.submit("any", "b", lambda _: 1 / 0)
    assert jobs.ahead(waiting) == 1
    jobs.cancel(waiting)
    assert waiting.state == "cancelled"
    jobs.cancel(running)
    assert wait(running).state == "cancelled"
    assert wait(jobs.submit("any", "c", lambda _: 3)).result == 3
    assert waiting.started is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RcpuError("lower the ratio"), "lower the ratio"),
        (MemoryError(), "out of memory"),
        (KeyError("x"), "unexpected KeyError"),
    ],
)
def test_a_failure_is_told_and_the_queue_goes_on(error, words):
    jobs = Jobs()

    def work(_):
        raise error

    job = wait(jobs.submit("any", "fails", work))
    assert job.state == "failed"
    assert words in job.error
    assert job.work is None, "a finished job lets go of what its work closed over"
    assert wait(jobs.submit("any", "next", lambda _: 1)).result == 1


def test_too_many_waiting_jobs_are_refused():
    jobs = Jobs()
    first = jobs.submit("any", "first", until_cancelled)
    while first.state == "waiting":
        time.sleep(0.005)
    waiting = [jobs.submit("any", "w", lambda _: None) for _ in range(8)]
    with pytest.raises(RcpuError, match=f"{8} jobs are waiting"):
        jobs.submit("any", "one too many", lambda _: None)
    jobs.cancel(first)
    assert [wait(j).state for j in waiting] == ["done"] * 8


def test_old_jobs_are_forgotten_and_new_ones_found_by_id():
    jobs = Jobs()
    submitted = [wait(jobs.submit("any", str(i), lambda _: None)) for i in range(KEPT + 3)]
    wait(jobs.submit("other", "last", lambda _: None))
    time.sleep(0.05)
    assert jobs.get(submitted[-1].id) is submitted[-1]
    assert jobs.get(submitted[0].id) is None
    assert jobs.get("") is None
    assert len(jobs.all("any")) == KEPT


def test_a_job_is_joined_by_who_asks_the_same_until_it_ends():
    jobs = Jobs()
    first = jobs.submit("any", "first", until_cancelled, ("a", 1))
    assert jobs.submit("any", "again", until_cancelled, ("a", 1)) is first
    other, alone = jobs.submit("any", "first", lambda _: 1, ("a", 2)), jobs.submit("any", "first", lambda _: 1)
    assert len({first, other, alone, jobs.submit("any", "first", lambda _: 1)}) == 4
    jobs.cancel(first)
    wait(first)
    wait(alone)
    assert wait(jobs.submit("any", "first", lambda _: 2, ("a", 1))).result == 2


def test_what_nobody_waits_for_gives_way_and_goes_on_after():
    jobs, begun, done = Jobs(), threading.Semaphore(0), []

    def long(job):
        begun.release()
        for _ in range(200 if len(done) == 0 else 1):  # until somebody comes
            if job.cancelled():
                raise Cancelled
            time.sleep(0.05)
        done.append("long")

    first = jobs.submit("any", "for all", long, shared=True, yields=True)
    assert begun.acquire(timeout=10)
    second = jobs.submit("any", "for me", lambda _: done.append("mine"))
    assert wait(second).state == "done"
    assert wait(first).state == "done"
    assert done == ["mine", "long"]


def test_what_gave_way_can_be_cancelled_like_any_other():
    jobs, begun = Jobs(), threading.Event()

    def long(job):
        begun.set()
        until_cancelled(job)

    job = jobs.submit("any", "for all", long, yields=True)
    assert begun.wait(10)
    jobs.cancel(job)
    assert wait(job).state == "cancelled"
