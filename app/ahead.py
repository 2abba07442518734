"""Answers worked out before they are asked for: while a person looks at one ratio, its neighbours are solved.

One thread, and only while no job runs; what was asked for last goes first and the rest is dropped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

PAUSE = 0.5  # seconds after a question: first the browser draws the answer


class Ahead:
    """Works through the newest list of calls, whose answers their owner remembers."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        """``busy()``: whether the machine has better things to do now."""
        self._busy, self._calls, self._asked = busy, [], 0.0
        self._changed = threading.Condition()
        threading.Thread(target=self._loop, name="rcpu-ahead", daemon=True).start()

    def work_out(self, calls: list[Callable[[], object]]) -> None:
        """Forget what waits and begin with these."""
        with self._changed:
            self._calls, self._asked = list(calls), time.monotonic()
            self._changed.notify()

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not self._calls or self._asked + PAUSE > time.monotonic():
                    self._changed.wait(PAUSE if self._calls else None)
                call = self._calls.pop(0)
            if not self._busy():
                try:
                    call()
                except Exception as error:  # it is said when somebody asks; the next call may do better
                    log.info("not worked out ahead: %s", error)
