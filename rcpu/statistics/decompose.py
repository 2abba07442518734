"""Decompositions of one matrix, small ones on few cores or one: more would wait for one another.

A thread that has few cores runs torch's. Elsewhere on the CPU they are numpy's, whose threads can be limited from any
thread, while torch's number of threads is also that of every thread to come. ``make bench`` compares times.
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
FEW = 2  # cores: a small decomposition takes 0.6 to 0.7 times as long on two of them as on one
#: Columns of M V as long as this share of the longest are orthogonal to 1e-8 as they are, see svd_of_sums.
AS_IS = 1e-4

_blas = ThreadpoolController()
#: The one thread that changes the number of BLAS threads: OpenBLAS 0.3.31 obeys the thread that changed it first and
#: no other, without a word.
_setter = ThreadPoolExecutor(1, "blas-threads")
_setter.submit(int)  # now, with this thread's priority: a job's would keep pages waiting
_lock = threading.Lock()
_this_thread = threading.local()
_running = 0  # small decompositions
_restore = None


@contextmanager
def few_threads(columns: int) -> Iterator[None]:
    """Torch has few threads in the block where matrices are so small that more would wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(FEW, threads) if columns <= 2 * SMALL else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def keep_to_one_core() -> None:
    """Have all small decompositions of this thread run beside what others do, whatever number torch has for them."""
    _this_thread.keeps_to_one_core = True


def working_dtype(x: Tensor) -> torch.dtype:
    """fp64 on the CPU and for small matrices; fp32 for large ones on a GPU, where fp64 is scarce."""
    return torch.float64 if x.device.type == "cpu" or len(x) <= SMALL else torch.float32


def svd(m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin U, singular values (descending) and thin Vᵀ."""
    return (
        tuple(torch.linalg.svd(m, full_matrices=False))
        if _by_torch(m)
        else _by_numpy(np.linalg.svd, m, full_matrices=False)
    )


def svd_of_sums(m: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`svd`, on a CPU in less time, for a square fp64 matrix of no more than that rank, added up in fp32.

    V are the eigenvectors of MᵀM, and M V = U R with R diagonal but for entries of some 1e-16 σ₁² / σᵢ in row i. U has
    ``rank`` columns (all on a GPU), orthogonal to 1e-8, those of V to rounding. U S Vᵀ differs from M by up to 5e-9 σ₁
    where singular values go down to 1e-7 σ₁, and by 2e-8 σ₁ whatever they are: less than fp32 rounds, 6e-8.
    """
    if m.device.type != "cpu":
        return svd(m)
    v = eigh(m.mT @ m)[1].flip(1)  # the largest first, or their rounding would drown the small ones in R
    y = m @ v
    rest = torch.linalg.vector_norm(y[:, rank:], dim=0)  # rounding, in no order
    u, signed = _orthogonal(y[:, :rank], AS_IS)
    s = signed.abs()
    u *= torch.ones_like(s).copysign(signed)
    if s.diff().gt(0).any():  # rounding has swapped some of the smallest
        s, order = s.sort(descending=True)
        u, v[:, :rank] = u[:, order], v[:, order]
    return u, torch.cat([s, rest]), v.mT


def singular_values(m: Tensor) -> Tensor:
    """Singular values alone, descending."""
    return torch.linalg.svdvals(m) if _by_torch(m) else _by_numpy(np.linalg.svd, m, compute_uv=False)


def eigh(m: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (ascending) and eigenvectors of a symmetric matrix."""
    return tuple(torch.linalg.eigh(m)) if _by_torch(m) else _by_numpy(np.linalg.eigh, m)


def eigenvalues(m: Tensor) -> Tensor:
    """Eigenvalues of a symmetric matrix alone, ascending."""
    return torch.linalg.eigvalsh(m) if _by_torch(m) else _by_numpy(np.linalg.eigvalsh, m)


def complement(u: Tensor) -> Tensor:
    """An orthonormal basis, (d, d − r), of what is orthogonal to the r orthonormal columns of U (d × r)."""
    complete = torch.linalg.qr(u, "complete") if _by_torch(u) else _by_numpy(np.linalg.qr, u, mode="complete")
    return complete[0][:, u.shape[1] :]


def _orthogonal(y: Tensor, as_is: float = 1.0) -> tuple[Tensor, Tensor]:
    """Q and the diagonal of R of Y = Q R, by Cholesky where columns are all but orthogonal already: that is cheaper.

    The first columns, those longer than this share of the longest, are then only scaled.
    """
    lengths = torch.linalg.vector_norm(y, dim=0)
    unit = y / lengths
    count = int((lengths > as_is * lengths.max()).long().cumprod(0).sum()) if len(lengths) else 0
    first, last = unit[:, :count], unit[:, count:]
    last = last - first @ (first.mT @ last)
    factor, failed = torch.linalg.cholesky_ex(last.mT @ last)
    if not failed and factor.diagonal().gt(0.99).all():
        last = torch.linalg.solve_triangular(factor.mT, last, upper=True, left=False)
        return torch.cat([first, last], 1), torch.cat([lengths[:count], lengths[count:] * factor.diagonal()])
    q, r = torch.linalg.qr(y) if _by_torch(y) else _by_numpy(np.linalg.qr, y)
    return q, r.diagonal()


def _by_torch(m: Tensor) -> bool:
    """On a GPU, and on a thread that has few cores."""
    few = torch.get_num_threads() <= FEW and not hasattr(_this_thread, "keeps_to_one_core")
    return few or m.device.type != "cpu"


def _by_numpy(decomposition: Callable, m: Tensor, **options) -> Any:
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
