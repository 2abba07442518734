"""Decompositions are those of the matrix, and leave the number of threads as it was, however many run at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from rcpu import decompose


def matrix(d: int = 24, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(d, d, generator=torch.Generator().manual_seed(d)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factors_multiply_back(dtype):
    m = matrix(dtype=dtype)
    u, s, vh = decompose.svd(m)
    assert u.dtype == s.dtype == vh.dtype == dtype
    torch.testing.assert_close(u @ torch.diag(s) @ vh, m)
    torch.testing.assert_close(decompose.singular_values(m), s)
    assert s.diff().max() <= 0
    symmetric = m + m.T
    values, vectors = decompose.eigh(symmetric)
    torch.testing.assert_close(vectors @ torch.diag(values) @ vectors.T, symmetric)
    torch.testing.assert_close(decompose.eigenvalues(symmetric), values)
    assert values.diff().min() >= 0


def test_transposed_and_empty_matrices_are_taken():
    m = matrix().T
    torch.testing.assert_close(decompose.svd(m)[1], torch.linalg.svdvals(m))
    assert decompose.svd(torch.zeros(0, 0))[1].numel() == 0


def threads() -> int:
    """Of numpy's BLAS."""
    (count,) = (
        pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas" and "numpy" in pool["filepath"]
    )
    return count


@pytest.fixture
def before():
    """A machine of several cores: tests have numpy on one thread otherwise."""
    limits = decompose._setter.submit(decompose._blas.limit, limits=2, user_api="blas").result()
    yield threads()
    decompose._setter.submit(limits.restore_original_limits).result()


def test_the_machine_of_these_tests_has_two_threads(before):
    assert before == 2
    assert threads() == 2


def test_small_ones_run_on_one_thread_each_and_the_last_sets_it_back(monkeypatch, before):
    """From whatever threads, as often as one likes: OpenBLAS obeys only the thread that set its number first."""
    seen = []
    both, original = threading.Barrier(2, timeout=20), np.linalg.svd

    def watched(m, **options):
        both.wait()
        seen.append(threads())
        return original(m, **options)

    monkeypatch.setattr(np.linalg, "svd", watched)
    for _ in range(3):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(decompose.svd, [matrix(), matrix(30)]))
        assert threads() == before
    assert seen == [1] * 6


def test_large_ones_may_use_all_threads(monkeypatch, before):
    monkeypatch.setattr(decompose, "SMALL", 8)
    seen, original = [], np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda m: (seen.append(threads()), original(m))[1])
    decompose.svd(matrix())
    assert seen == [before]


def test_a_failure_sets_the_threads_back(monkeypatch, before):
    def fails(m):
        raise np.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(np.linalg, "eigh", fails)
    with pytest.raises(np.linalg.LinAlgError):
        decompose.eigh(matrix())
    assert threads() == before


def test_precision():
    assert decompose.working_dtype(torch.zeros(3, 3)) == torch.float64
    assert decompose.working_dtype(torch.zeros(2000, 2000)) == torch.float64
    assert decompose.working_dtype(torch.zeros(2000, 2000, device="meta")) == torch.float32
    assert decompose.working_dtype(torch.zeros(1024, 1024, device="meta")) == torch.float64
