"""Sums and decompositions need all of fp32, whatever a notebook or a server set for speed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def full_fp32() -> Iterator[None]:
    """No TF32 and no bf16 inside fp32 matrix products in the block, nor in a function that this decorates."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # somebody used torch's newer settings, which may not be mixed with this one
        backends = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
        before = [backend.fp32_precision for backend in backends]
        try:
            for backend in backends:
                backend.fp32_precision = "ieee"
            yield
        finally:
            for backend, value in zip(backends, before, strict=True):
                backend.fp32_precision = value
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
