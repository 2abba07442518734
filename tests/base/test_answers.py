"""Answers are made once for all who ask, and those asked for longest ago leave."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rcpu.base.answers import Answers


def test_two_threads_that_ask_the_same_share_one_answer():
    answers, go_on, made = Answers(8), threading.Event(), []

    def slow():
        made.append(1)
        assert go_on.wait(10)
        return object()

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(answers.ask, ("slow",), slow) for _ in range(2)]
        assert answers.known(("slow",)) is None, "it is not made yet"
        go_on.set()
        assert both[0].result() is both[1].result() is answers.known(("slow",))
    assert len(made) == 1


def test_a_failure_is_not_kept():
    answers = Answers(8)
    with pytest.raises(ZeroDivisionError):
        answers.ask(("fails",), lambda: 1 / 0)
    assert answers.known(("fails",)) is None
    assert answers.ask(("fails",), lambda: 7) == 7


def test_those_asked_for_longest_ago_leave():
    answers = Answers(3)
    for key in ("first", "second", "third"):
        answers.ask((key,), lambda: 1)
    assert answers.ask(("first",), lambda: 2) == 1  # asked again just now
    answers.ask(("fourth",), lambda: 1)
    assert answers.ask(("first",), lambda: 3) == 1
    assert answers.ask(("second",), lambda: 4) == 4
