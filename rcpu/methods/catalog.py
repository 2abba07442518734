"""Methods as data: one line for each. What a method is called, where it comes from, its options and how it is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rcpu.methods.columns import ColumnOptions, check_columns


@dataclass(frozen=True)
class Method:
    """A way to make a model smaller."""

    label: str
    summary: str  # one sentence
    source: str  # the paper
    options: type  # a frozen dataclass whose fields are options, see base/options.py
    run: Callable[..., Any] | None = None  # None: the layer loop of pruning/, which chooses columns
    check: Callable[[Any], None] = lambda recipe: None  # raises RcpuError for settings that do not combine


METHODS = {
    "columns": Method(
        "Columns by a score",
        "Columns of o_proj and down_proj go by a score, layer by layer, and the kept ones are repaired.",
        "RCPU (arXiv 2510.07782), WANDA-sp, FLAP (AAAI 2024)",
        ColumnOptions,
        check=check_columns,
    ),
}
