"""Answers that are kept with their questions, for threads that ask the same."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Answers:
    """The answers that were asked for last, at most ``kept`` of them; safe to ask from many threads."""

    def __init__(self, kept: int):
        self._kept, self._found, self._lock = kept, OrderedDict[tuple, Future](), threading.Lock()

    def ask(self, key: tuple, answer: Callable[[], Any]) -> Any:
        """The kept answer, or a new one; who asks while another thread is at it waits for that. Failures are not kept.

        The answer must not ask for its own key.
        """
        with self._lock:
            first = key not in self._found
            asked = self._found.setdefault(key, Future())
            self._found.move_to_end(key)
            while len(self._found) > self._kept:
                self._found.popitem(last=False)
        if first:
            try:
                asked.set_result(answer())
            except BaseException as error:
                with self._lock:
                    self._found.pop(key, None)
                asked.set_exception(error)
        return asked.result()

    def known(self, key: tuple) -> Any | None:
        """The kept answer, None if there is none yet."""
        asked = self._found.get(key)
        return asked.result() if asked and asked.done() and not asked.exception() else None
