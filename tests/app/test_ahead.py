"""Answers before they are asked for: the newest first, none while a job runs, and no failure stops the thread."""

import os
import subprocess
import sys
import threading
import time

import pytest

from app.ahead import LOOK, PAUSE, Ahead
from rcpu import RcpuError


def test_the_newest_calls_are_worked_through_and_older_ones_dropped():
    ahead, begun, go_on, done = Ahead(lambda: False), threading.Event(), threading.Event(), threading.Event()
    seen = []

    def first():
        begun.set()
        assert go_on.wait(10)
        seen.append("first")

    ahead.work_out([first, lambda: seen.append("dropped")])
    assert begun.wait(10)
    ahead.work_out([lambda: seen.append("second"), done.set])
    go_on.set()
    assert done.wait(10)
    assert seen == ["first", "second"]


@pytest.mark.parametrize("failure", [RcpuError, RuntimeError, MemoryError])
def test_a_failure_does_not_stop_it(failure):
    ahead, done = Ahead(lambda: False), threading.Event()

    def fails():
        raise failure("no such thing")

    ahead.work_out([fails, done.set])
    assert done.wait(10)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has threads with a priority of their own")
def test_it_gives_way_to_pages_and_not_to_jobs():
    seen, done = [], threading.Event()
    ahead = Ahead(lambda: False)
    ahead.work_out([lambda: seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())), done.set])
    assert done.wait(10)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < seen[0] < 19


def test_nothing_is_worked_out_while_a_job_runs():
    busy, asked = [True], threading.Event()

    def is_busy() -> bool:
        asked.set()
        return busy[0]

    ahead, seen, done = Ahead(is_busy), [], threading.Event()
    ahead.work_out([lambda: seen.append(1)])
    assert asked.wait(10)
    busy[0] = False
    ahead.work_out([done.set])
    assert done.wait(10)
    assert not seen


def test_an_answer_is_drawn_before_anything_is_worked_out_ahead():
    ahead, done, asked = Ahead(lambda: False), threading.Event(), time.monotonic()
    ahead.work_out([])
    ahead.work_out([done.set])
    assert done.wait(10)
    assert time.monotonic() - asked >= PAUSE


def test_what_may_be_asked_later_waits_longer_and_is_dropped_by_a_new_question():
    ahead, done, seen = Ahead(lambda: False), threading.Event(), []
    ahead.work_out([lambda: seen.append("soon")], [lambda: seen.append("dropped")])
    time.sleep(PAUSE + (LOOK - PAUSE) / 2)
    assert seen == ["soon"]
    asked = time.monotonic()
    ahead.work_out([lambda: seen.append("soon again")], [done.set])
    assert done.wait(10)
    assert time.monotonic() - asked >= LOOK
    assert seen == ["soon", "soon again"]


def test_python_ends_in_peace_while_a_call_is_under_way():
    script = (
        "import threading, torch; from app.ahead import Ahead; begun = threading.Event(); m = torch.randn(600, 600)\n"
        "def call():\n    begun.set()\n    for _ in range(5): torch.linalg.eigvals(m)\n    print('done')\n"
        "Ahead(lambda: False).work_out([call, lambda: print('dropped')]); begun.wait()"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")
