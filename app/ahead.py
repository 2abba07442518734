"""Answers worked out before they are asked for: while a person looks at one, those of the next moves are solved.

One thread, and only while no job runs; with every new question what still waits is dropped.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable, Sequence

from app.jobs import AHEAD, give_way

Call = Callable[[], object]

log = logging.getLogger(__name__)

PAUSE = 0.5  # seconds after a question: first the browser draws the answer
LOOK = 2.0  # seconds after which a person seems to look at it rather than to go on in the same direction


class Ahead:
    """Works through the newest list of calls, whose answers their owner remembers."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        """``busy()``: whether the machine has better things to do now."""
        self._busy, self._calls, self._asked = busy, [], 0.0  # calls with their pauses
        self._changed, self._ended = threading.Condition(), False
        self._thread = threading.Thread(target=self._loop, name="rcpu-ahead", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def work_out(self, soon: Sequence[Call], later: Sequence[Call] = ()) -> None:
        """Forget what waits and begin with these: PAUSE and LOOK seconds after now."""
        with self._changed:
            self._calls = [*((PAUSE, call) for call in soon), *((LOOK, call) for call in later)]
            self._asked = time.monotonic()
            self._changed.notify()

    def close(self) -> None:
        """End after the call that is under way: a thread that is in torch when Python ends takes the process down."""
        with self._changed:
            self._calls, self._ended = [], True
            self._changed.notify()
        self._thread.join()

    def _loop(self) -> None:
        give_way(AHEAD)
        while True:
            with self._changed:
                while not self._ended and (
                    not self._calls or (wait := self._asked + self._calls[0][0] - time.monotonic()) > 0
                ):
                    self._changed.wait(wait if self._calls else None)
                if self._ended:
                    return
                _, call = self._calls.pop(0)
            if not self._busy():
                try:
                    call()
                except Exception as error:  # it is said when somebody asks; the next call may do better
                    log.info("not worked out ahead: %s", error)
