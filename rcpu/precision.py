"""Sums and decompositions need all of fp32, whatever a notebook or a server set for speed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def full_fp32() -> Iterator[None]:
    """No TF32 and no bf16 inside fp32 matrix products in the block, nor in a function that this decorates."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
