"""Decompositions are those of the matrix by either library, and leave the number of threads as it was."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from rcpu.statistics import decompose


@pytest.fixture(autouse=True, params=[1, 2, 3], ids=["one", "few", "many"])
def torchs_threads(request):
    """A thread of few cores has torch decompose, any other numpy."""
    count = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(count)


@pytest.fixture
def by_numpy(torchs_threads):
    if torchs_threads <= decompose.FEW:
        pytest.skip("numpy's threads: torch is asked")


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


def test_factors_of_a_tall_matrix_are_thin():
    m = matrix()[:, :5]
    u, s, vh = decompose.svd(m)
    assert (u.shape, s.shape, vh.shape) == ((24, 5), (5,), (5, 5))
    torch.testing.assert_close(u * s @ vh, m)


@pytest.mark.parametrize("smallest", [1.0, 1e-3, 1e-7])
def test_an_svd_of_fp32_sums_is_as_exact_as_they_are(smallest):
    """Whatever its spectrum: as far from M as 1e-16 ÷ the smallest share that counts, and orthogonal to 1e-9."""
    d = 40
    u, v = (torch.linalg.qr(matrix(d + i)[:d, :d])[0] for i in range(2))
    s = torch.logspace(0, np.log10(smallest), d, dtype=torch.float64)
    m = 300 * (u * s) @ v.T
    found = decompose.svd_of_sums(m, d)
    for factor, rounding in ((found[0], {1.0: 1e-13, 1e-3: 1e-10, 1e-7: 1e-9}[smallest]), (found[2], 1e-13)):
        torch.testing.assert_close(factor @ factor.T, torch.eye(d, dtype=torch.float64), rtol=0, atol=rounding)
    assert (found[0] * found[1] @ found[2] - m).abs().max() < 300 * 1e-15 / smallest
    torch.testing.assert_close(found[1], 300 * s, rtol=max(1e-13, min(1e-15 / smallest**2, 0.02)), atol=0)
    assert found[1].diff().max() <= 0
    polar = u @ v.T
    accuracy = {1.0: 1e-13, 1e-3: 1e-9, 1e-7: 0.03}[smallest]  # fp32 sums blur what 1e-7 of the largest says far more
    torch.testing.assert_close(found[0] @ found[2], polar, rtol=0, atol=accuracy)


def test_an_svd_of_fp32_sums_takes_what_has_no_full_rank():
    for m in (torch.zeros(5, 5, dtype=torch.float64), torch.diag(torch.tensor([0.0, 2.0, 0.0, 1.0]).double())):
        u, s, vh = decompose.svd_of_sums(m, len(m))
        torch.testing.assert_close(u * s @ vh, m)
        torch.testing.assert_close(u @ u.T, torch.eye(len(m)).double())
        torch.testing.assert_close(s, torch.linalg.svdvals(m))


def test_what_is_all_but_singular_has_orthogonal_factors():
    d, r = 40, 25
    m = matrix(d)[:, :r] @ matrix(d)[:r]  # beyond rank r M V is nothing but rounding
    for most in (d, r):
        u, s, vh = decompose.svd_of_sums(m, most)
        assert (u.shape, s.shape, vh.shape) == ((d, most), (d,), (d, d))
        torch.testing.assert_close(u.T @ u, torch.eye(most).double(), rtol=0, atol=1e-13)
        torch.testing.assert_close(vh @ vh.T, torch.eye(d).double(), rtol=0, atol=1e-13)
        torch.testing.assert_close(u * s[:most] @ vh[:most], m, rtol=0, atol=1e-6)
        assert s[r:].max() < 1e-6 < s[r - 1]
        torch.testing.assert_close(s[:r], torch.linalg.svdvals(m)[:r], rtol=1e-9, atol=0)


@pytest.mark.parametrize("r", [0, 1, 7, 24])
def test_a_complement_completes_a_basis(r):
    basis = torch.linalg.qr(matrix())[0]
    rest = decompose.complement(basis[:, :r])
    assert rest.shape == (24, 24 - r)
    both = torch.cat([basis[:, :r], rest], 1)
    torch.testing.assert_close(both.T @ both, torch.eye(24).double(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("slant", [1e-3, 1e-1, 10.0])
def test_cholesky_stands_for_qr(slant):
    """In columns that are all but orthogonal, and not in others."""
    d = 30
    y = (torch.linalg.qr(matrix(d))[0] + slant / d * matrix(d + 1)[:d, :d]) * torch.logspace(0, -5, d).double()
    q, diagonal = decompose._orthogonal(y)
    expected, r = torch.linalg.qr(y)
    signs = torch.ones(d).double().copysign(diagonal * r.diagonal())
    torch.testing.assert_close(diagonal * signs, r.diagonal(), rtol=1e-11, atol=0)
    torch.testing.assert_close(q * signs, expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(q.T @ q, torch.eye(d).double(), rtol=0, atol=1e-13)


def threads() -> int:
    """Of numpy's BLAS."""
    (count,) = (
        pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas" and "numpy" in pool["filepath"]
    )
    return count


@pytest.fixture
def before(by_numpy):
    """A machine of several cores: tests have numpy on one thread otherwise."""
    limits = decompose._setter.submit(decompose._blas.limit, limits=2, user_api="blas").result()
    yield threads()
    decompose._setter.submit(limits.restore_original_limits).result()


def test_a_thread_of_few_cores_asks_torch_and_any_other_numpy(monkeypatch, torchs_threads):
    asked = []
    for name, module in (("torch", torch.linalg), ("numpy", np.linalg)):
        for call in ("eigh", "svd"):
            original = getattr(module, call)
            monkeypatch.setattr(module, call, lambda m, name=name, f=original, **_: (asked.append(name), f(m))[1])
    decompose.svd(matrix())
    decompose.svd_of_sums(matrix(), 24)
    assert asked == ["numpy" if torchs_threads > decompose.FEW else "torch"] * 2


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
    monkeypatch.setattr(np.linalg, "svd", lambda m, **options: (seen.append(threads()), original(m))[1])
    decompose.svd(matrix())
    assert seen == [before]


def test_a_failure_sets_the_threads_back(monkeypatch, before):
    def fails(m):
        raise np.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(np.linalg, "eigh", fails)
    with pytest.raises(np.linalg.LinAlgError):
        decompose.eigh(matrix())
    assert threads() == before


@pytest.mark.parametrize(("columns", "few"), [(2 * decompose.SMALL, True), (2 * decompose.SMALL + 1, False)])
def test_a_block_of_small_matrices_has_few_threads(torchs_threads, columns, few):
    with decompose.few_threads(columns):
        assert torch.get_num_threads() == (min(torchs_threads, decompose.FEW) if few else torchs_threads)
    assert torch.get_num_threads() == torchs_threads


def test_precision():
    assert decompose.working_dtype(torch.zeros(3, 3)) == torch.float64
    assert decompose.working_dtype(torch.zeros(2000, 2000)) == torch.float64
    assert decompose.working_dtype(torch.zeros(2000, 2000, device="meta")) == torch.float32
    assert decompose.working_dtype(torch.zeros(1024, 1024, device="meta")) == torch.float64
