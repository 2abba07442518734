"""What methods and options are called on every page; the keys are those of the library and the command line."""

from __future__ import annotations

from collections.abc import Callable

import rcpu
from rcpu.base import named

#: The source of most formulas, in Markdown.
PAPER = "RCPU, [arXiv 2510.07782](https://arxiv.org/abs/2510.07782)"
SCORERS, COMPENSATIONS, UNITS, ORDERS = map(named, (rcpu.SCORERS, rcpu.COMPENSATORS, rcpu.UNITS, rcpu.ORDERS))
SITES = {"o_proj,down_proj": "both", "o_proj": "o_proj", "down_proj": "down_proj"}


def called(labels: dict[str, str]) -> Callable[[str], str]:
    """For ``format_func``: what a key is called; a method that has no label yet goes by its key."""
    return lambda key: labels.get(key, key)


def short(labels: dict[str, str], key: str) -> str:
    """What a key is called, without what explains it."""
    return labels.get(key, key).partition(":")[0]


def shortened(name: str, most: int = 60) -> str:
    """A name that may have any length, with its middle left out where it is long."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[len(name) + 1 - most // 2 :]}"
