"""The polar factor against scipy, its completion against every other one, and its angles."""

from itertools import product

import numpy as np
import pytest
import scipy.linalg
import torch

from rcpu.methods import procrustes

D = 12


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(d: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(normal(d, d, seed=seed)).Q * normal(d, seed=seed + 500).sign()


def matrix(rank: int, seed: int = 0) -> torch.Tensor:
    """M of a given rank that is near a symmetric one, as Y Zᵀ is when Z is most of Y."""
    z = normal(D, rank, seed=seed) @ normal(rank, 60, seed=seed + 1)
    return (z + 0.7 * normal(D, 60, seed=seed + 2)) @ z.T


def matrix_with(rank: int, determinant: int) -> torch.Tensor:
    """M of a given rank whose solution has this determinant."""
    candidates = (normal(D, rank, seed=s) @ normal(rank, D, seed=s + 1) for s in range(100))
    return next(m for m in candidates if procrustes.solve(m).determinant == determinant)


def completions(m: torch.Tensor, rank: int, count: int = 200):
    """Random orthogonal matrices that solve the problem for M just as well."""
    u, _, vt = torch.linalg.svd(m)
    for seed in range(count):
        yield u[:, :rank] @ vt[:rank] + u[:, rank:] @ orthogonal(D - rank, seed) @ vt[rank:]


def fixed_trace(m: torch.Tensor, rank: int) -> torch.Tensor:
    """The part of tr Q that M decides."""
    u, _, vt = torch.linalg.svd(m)
    return (u[:, :rank] @ vt[:rank]).trace()


def null_cosines(m: torch.Tensor) -> torch.Tensor:
    """Cosines between the null spaces of Mᵀ and M, descending: the most that their completion can add to tr Q."""
    left, right = scipy.linalg.null_space(m.T.numpy()), scipy.linalg.null_space(m.numpy())
    return torch.tensor(np.linalg.svd(left.T @ right, compute_uv=False))


def askew(cosine: float, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """M whose null spaces hold two directions with this cosine between them, and its Q."""
    u, v = orthogonal(D), orthogonal(D)
    sine = (1 - cosine**2) ** 0.5
    v[:, [0, D - 1]] = u[:, [0, D - 1]] @ torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
    return (u[:, :rank] * torch.arange(3.0, 3 + rank)) @ v[:, :rank].mT, u @ v.mT


def assert_orthogonal(q: torch.Tensor) -> None:
    torch.testing.assert_close(q.T @ q, torch.eye(len(q), dtype=q.dtype), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [0, 1, 5, D - 1, D])
def test_q_is_orthogonal_and_m_is_described(rank, dtype):
    m = matrix(rank) if rank else torch.zeros(D, D, dtype=torch.float64)
    found = procrustes.solve(m.to(dtype))
    assert_orthogonal(found.q)
    assert found.rank == rank
    assert found.determinant == round(torch.linalg.det(found.q).item())
    expected = torch.tensor(np.linalg.svd(m.to(dtype).double().numpy(), compute_uv=False))
    rounding = 1e-12 if dtype == torch.float64 else 3e-8  # fp32 sums are rounded to 6e-8
    torch.testing.assert_close(found.singular_values, expected, rtol=1e-7, atol=rounding * max(1.0, expected[0].item()))
    assert found.principal_angles.shape == (rank,)


def test_full_rank_is_scipys_solution():
    y, z = normal(D, 50, seed=5), normal(D, 50, seed=6)
    expected, _ = scipy.linalg.orthogonal_procrustes(z.T.numpy(), y.T.numpy())  # min ‖Zᵀ R − Yᵀ‖, so R is Qᵀ
    found = procrustes.solve(y @ z.T)
    torch.testing.assert_close(found.q, torch.tensor(expected).T)
    for seed in range(20):
        assert (y - found.q @ z).norm() < (y - orthogonal(D, seed) @ z).norm()


@pytest.mark.parametrize("rank", [1, 5, D - 1])
def test_completion_is_the_nearest_to_the_identity(rank):
    m = matrix(rank)
    found = procrustes.solve(m)
    best = torch.linalg.svdvals(m).sum()
    torch.testing.assert_close((found.q * m).sum(), best)  # still a solution
    others = list(completions(m, rank))
    torch.testing.assert_close((others[0] * m).sum(), best)
    assert found.q.trace() >= max(q.trace() for q in others) - 1e-9
    torch.testing.assert_close(found.q.trace(), fixed_trace(m, rank) + null_cosines(m).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cosine", [0.0, 1e-9, 1e-5, 1e-3, 0.5])
def test_null_spaces_may_be_orthogonal_to_one_another(cosine, dtype):
    """A direction of one lies within the range of the other: nothing of it is left after a projection."""
    rank = D - 2
    m, q = askew(cosine, rank)
    for bound in (None, rank):
        found = procrustes.solve(m.to(dtype), rank=bound)
        assert found.rank == rank
        assert_orthogonal(found.q)
        expected = torch.tensor([0.0] * (rank - 1) + [np.degrees(np.arccos(cosine))], dtype=torch.float64)
        torch.testing.assert_close(found.principal_angles, expected, rtol=0, atol=0.1)
        torch.testing.assert_close((found.q * m).sum(), torch.linalg.svdvals(m).sum(), rtol=1e-6, atol=0)
        if cosine >= 1e-3:  # nearer to orthogonal, rounding decides on a sign
            torch.testing.assert_close(found.q, q, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-8)


@pytest.mark.parametrize("m", [*map(matrix, (1, 5, D - 1, D)), *(askew(c, D - 2)[0] for c in (1e-3, 0.5))])
def test_large_matrices_on_a_gpu_are_solved_in_fp32(monkeypatch, m):
    expected = procrustes.solve(m).q
    monkeypatch.setattr(procrustes, "working_dtype", lambda m: torch.float32)
    monkeypatch.setattr(procrustes, "svd_of_sums", lambda m, rank: procrustes.svd(m))  # as there
    found = procrustes.solve(m.float())
    torch.testing.assert_close(found.q.T @ found.q, torch.eye(D), rtol=0, atol=2e-5)
    torch.testing.assert_close(found.q.double(), expected, rtol=0, atol=1e-3)


def test_without_rank_nothing_is_turned():
    for m, rank in ((matrix(5), 0), (torch.zeros(D, D), None)):
        torch.testing.assert_close(procrustes.solve(m, rank=rank).q.double(), torch.eye(D).double())


@pytest.mark.parametrize("proper", [False, True])
@pytest.mark.parametrize("rank", [1, 5, D - 2, D])
def test_q_does_not_depend_on_the_null_space_basis(rank, proper):
    m = matrix(rank)
    expected = procrustes.solve(m, proper=proper).q
    permuted = torch.randperm(D, generator=torch.Generator().manual_seed(0))
    found = procrustes.solve(m[permuted][:, permuted], proper=proper).q
    torch.testing.assert_close(found, expected[permuted][:, permuted], rtol=0, atol=1e-9)
    turn = orthogonal(D, 3)
    torch.testing.assert_close(procrustes.solve(turn @ m @ turn.T, proper=proper).q, turn @ expected @ turn.T)
    torch.testing.assert_close(procrustes.solve(m.T, proper=proper).q, expected.T)


def test_rounding_is_not_rank():
    m, noise = matrix(5), normal(D, D, seed=9)
    expected = procrustes.solve(m).q
    rounded = procrustes.solve(m + 1e-15 * m.norm() * noise)
    assert rounded.rank == 5
    torch.testing.assert_close(rounded.q, expected, rtol=0, atol=1e-9)
    noisy = m + 1e-9 * m.norm() * noise
    assert procrustes.solve(noisy).rank == D
    bounded = procrustes.solve(noisy, rank=5)  # known from how M was made
    assert bounded.rank == 5
    summed = procrustes.solve(m.float(), rank=5).singular_values
    assert summed.diff().max() <= 0
    torch.testing.assert_close(bounded.q, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rank", [4, D])
def test_symmetric_positive_m_needs_no_rotation(rank):
    factor = normal(D, rank)
    found = procrustes.solve(factor @ factor.T)
    torch.testing.assert_close(found.q, torch.eye(D, dtype=torch.float64))
    assert found.angles.max() < 1e-4
    assert found.determinant == 1


@pytest.mark.parametrize("rank", [1, 5, D - 1, D])
def test_a_proper_solution_stays_as_it_is(rank):
    m = matrix_with(rank, determinant=1)
    torch.testing.assert_close(procrustes.solve(m, proper=True).q, procrustes.solve(m).q)


@pytest.mark.parametrize("rank", [1, 5, D - 1])
def test_the_null_space_pays_for_a_proper_rotation(rank):
    m = matrix_with(rank, determinant=-1)
    found = procrustes.solve(m, proper=True)
    assert_orthogonal(found.q)
    assert found.determinant == round(torch.linalg.det(found.q).item()) == 1
    torch.testing.assert_close((found.q * m).sum(), torch.linalg.svdvals(m).sum())
    cosines = null_cosines(m)
    torch.testing.assert_close(found.q.trace(), fixed_trace(m, rank) + cosines.sum() - 2 * cosines[-1])
    assert found.q.trace() >= max(q.trace() for q in completions(m, rank) if torch.linalg.det(q) > 0) - 1e-9


def test_the_smallest_singular_value_pays_where_there_is_no_null_space():
    m = matrix_with(D, determinant=-1)
    u, _, vt = torch.linalg.svd(m)
    signs = torch.ones(D, dtype=torch.float64)
    signs[-1] = -1
    found = procrustes.solve(m, proper=True)
    torch.testing.assert_close(found.q, u * signs @ vt)  # Kabsch 1976
    assert found.determinant == 1


@pytest.mark.parametrize(("mirrored", "turned", "still"), [n for n in product(range(7), (0, 2, 4), range(3)) if any(n)])
@pytest.mark.parametrize("known", ["angles", "eigen"])
def test_the_determinant_counts_eigenvalues_of_minus_one(mirrored, turned, still, known):
    d = mirrored + turned + still
    inside = torch.eye(d, dtype=torch.float64)
    inside[:mirrored, :mirrored] *= -1
    for i in range(mirrored, mirrored + turned, 2):
        inside[i : i + 2, i : i + 2] = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    basis = orthogonal(d)
    q = basis @ inside @ basis.mT
    found = procrustes.solve(q)
    torch.testing.assert_close(found.q, q)
    assert getattr(found, known) is not None
    assert found.determinant == (-1) ** mirrored == round(torch.linalg.det(q).item())


@pytest.mark.parametrize("proper", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_angles_are_the_phases_of_eigenvalues(seed, proper):
    found = procrustes.solve(normal(D, D, seed=seed), proper=proper)
    phases = torch.linalg.eigvals(found.q).angle().abs().rad2deg().sort().values
    torch.testing.assert_close(found.angles, phases, rtol=0, atol=1e-4)
    expected = [np.degrees(np.arccos(found.q[i, i].item())) for i in range(D)]
    torch.testing.assert_close(found.channel_angles, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("rank", [1, 4, D // 2, D - 3, D])
def test_principal_angles_are_scipys(rank):
    z = normal(D, rank, seed=1) @ normal(rank, 40, seed=2)
    found = procrustes.solve((z + normal(D, 40, seed=3)) @ z.T)
    u = np.linalg.svd(z.numpy())[0][:, :rank]
    expected = np.degrees(scipy.linalg.subspace_angles(u, found.q.numpy() @ u))[::-1]
    torch.testing.assert_close(found.principal_angles, torch.tensor(expected.copy()), rtol=0, atol=1e-4)


def test_bad_matrices_are_refused():
    with pytest.raises(ValueError, match=r"must be square, got \(3, 4\)"):
        procrustes.solve(torch.zeros(3, 4))
    for value in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="NaN or Inf"):
            procrustes.solve(torch.full((3, 3), value))
