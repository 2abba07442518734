"""Decompositions of one matrix, each where it runs fastest: on the CPU by numpy's LAPACK, on a GPU by torch's.

``make bench`` compares the two on one SVD and on two at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

SMALL = 1024  # columns

_blas = ThreadpoolController()
#: The one thread that changes the number of BLAS threads: OpenBLAS 0.3.31 obeys the thread that changed it first and
#: no other, without a word.
_setter = ThreadPoolExecutor(1, "blas-threads")
_setter.submit(int)  # now, with this thread's priority: a job's would keep pages waiting
_lock = threading.Lock()
_running = 0  # small decompositions
_restore = None


def working_dtype(x: Tensor) -> torch.dtype:
    """fp64 on the CPU and for small matrices; fp32 for large ones on a GPU, where fp64 is scarce."""
    return torch.float64 if x.device.type == "cpu" or len(x) <= SMALL else torch.float32


def svd(m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, singular values (descending) and Vᵀ of a square matrix."""
    return tuple(torch.linalg.svd(m)) if _elsewhere(m) else _on_cpu(np.linalg.svd, m)


def svd_of_sums(m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`svd`, on a CPU in four fifths of the time, for an fp64 matrix that was added up in fp32.

    V are the eigenvectors of MᵀM, and M V = U R with R diagonal but for entries of some 1e-16 σ₁² / σᵢ in row i. U and
    V are orthogonal to rounding. U S Vᵀ differs from M by up to 5e-9 σ₁ where singular values go down to 1e-7 σ₁, and
    by 2e-8 σ₁ whatever they are: less than the 6e-8 by which fp32 rounds.
    """
    return svd(m) if _elsewhere(m) else _on_cpu(_svd_by_eigh, m)


def singular_values(m: Tensor) -> Tensor:
    """Singular values alone, descending."""
    return torch.linalg.svdvals(m) if _elsewhere(m) else _on_cpu(np.linalg.svd, m, compute_uv=False)


def eigh(m: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (ascending) and eigenvectors of a symmetric matrix."""
    return tuple(torch.linalg.eigh(m)) if _elsewhere(m) else _on_cpu(np.linalg.eigh, m)


def eigenvalues(m: Tensor) -> Tensor:
    """Eigenvalues of a symmetric matrix alone, ascending."""
    return torch.linalg.eigvalsh(m) if _elsewhere(m) else _on_cpu(np.linalg.eigvalsh, m)


def _svd_by_eigh(m: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    v = np.linalg.eigh(m.T @ m)[1][:, ::-1]  # the largest first, or their rounding would drown the small ones in R
    u, r = np.linalg.qr(m @ v)
    signed = r.diagonal()
    order = np.argsort(-abs(signed))  # rounding may have swapped the smallest
    return (u * np.copysign(1, signed))[:, order], abs(signed)[order], v.T[order]


def _elsewhere(m: Tensor) -> bool:
    return m.device.type != "cpu"


def _on_cpu(decomposition: Callable, m: Tensor, **options) -> Any:
    with _threads_for(m):
        found = decomposition(m.detach().numpy(), **options)
    return tuple(map(torch.from_numpy, found)) if isinstance(found, tuple) else torch.from_numpy(found)


@contextmanager
def _threads_for(m: Tensor) -> Iterator[None]:
    """Small matrices get one thread each: several would wait for one another at every column, and longer if disturbed.

    The number of threads holds for the whole process, so the last of several decompositions at once sets it back.
    """
    global _running, _restore
    if len(m) > SMALL:
        yield
        return
    with _lock:
        if not _running:
            _restore = _setter.submit(_blas.limit, limits=1, user_api="blas").result()
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if not _running:
                _setter.submit(_restore.restore_original_limits).result()
