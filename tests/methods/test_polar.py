"""The polar factor by products against the one from a decomposition."""

import pytest
import torch

import rcpu
from rcpu.methods import procrustes
from rcpu.methods.polar import polar_factor
from tests import tiny


def matrix(d: int, rank: int, decades: float, dtype=torch.float64, turned: float = 0.3) -> torch.Tensor:
    """Singular values that fall over so many decades, null spaces that are not far from one another."""
    draw = torch.Generator().manual_seed(d + rank)
    u = torch.linalg.qr(torch.randn(d, d, generator=draw, dtype=torch.float64)).Q
    v = torch.linalg.qr(turned * torch.randn(d, d, generator=draw, dtype=torch.float64) + u).Q
    s = torch.logspace(0, -decades, rank, dtype=torch.float64)
    return ((u[:, :rank] * s) @ v[:, :rank].mT).to(dtype)


def assert_orthogonal(q: torch.Tensor) -> None:
    error = (q.double().mT @ q.double() - torch.eye(len(q), dtype=torch.float64)).abs().max().item()
    assert error < (1e-12 if q.dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize(("d", "rank", "decades"), [(64, 64, 1), (64, 50, 3), (96, 96, 6), (200, 160, 5)])
def test_in_fp64_it_is_that_of_the_decomposition(d, rank, decades):
    m = matrix(d, rank, decades)
    q = polar_factor(m)
    assert_orthogonal(q)
    torch.testing.assert_close(q, procrustes.solve(m, rank=rank).q, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("d", "rank", "decades"), [(64, 64, 1), (64, 50, 3), (96, 96, 5), (200, 160, 5)])
def test_in_fp32_it_turns_as_well(d, rank, decades):
    m = matrix(d, rank, decades, torch.float32)
    q, best = polar_factor(m), procrustes.solve(m, rank=rank)
    assert_orthogonal(q)
    assert best.alignment - (q.double() * m.double()).sum().item() < 1e-6 * best.alignment


def test_scale_does_not_matter():
    m = matrix(48, 40, 2)
    for scale in (1e-12, 1e9):
        torch.testing.assert_close(polar_factor(scale * m), polar_factor(m), rtol=0, atol=1e-6)


def test_where_a_matrix_says_nothing_nothing_turns():
    m = torch.zeros(12, 12)
    assert polar_factor(m).equal(torch.eye(12))
    m[:4, :4] = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0])).flip(0)
    q = polar_factor(m)
    torch.testing.assert_close(q[4:, 4:], torch.eye(8))
    torch.testing.assert_close(q[:4, :4], torch.eye(4).flip(0))


def test_null_spaces_at_right_angles_are_left_to_a_decomposition():
    m = torch.zeros(6, 6, dtype=torch.float64)
    m[0, 1] = m[1, 2] = m[2, 3] = m[3, 4] = m[4, 5] = 1.0  # null spaces: e6 against e1
    q = polar_factor(m)
    assert q is None or (q.mT @ q - torch.eye(6)).abs().max() < 1e-9


@pytest.mark.parametrize("compensation", ["rotation", "rotation_scale"])
def test_a_prune_by_products_is_one_by_decompositions(compensation, monkeypatch):
    """As large matrices are on a GPU, with nothing told that would take a decomposition."""
    recipe = rcpu.Recipe(ratio=0.3, compensation=compensation)
    plain = rcpu.prune(tiny.net("gqa"), tiny.calibration(), recipe)
    monkeypatch.setattr(procrustes, "by_products", lambda m: True)
    monkeypatch.setattr(procrustes, "svd_of_sums", lambda *_: pytest.fail("decomposed"))
    fast = rcpu.prune(tiny.net("gqa"), tiny.calibration(), recipe)
    for a, b in zip(fast.sites, plain.sites, strict=True):
        assert a.columns.equal(b.columns)
        assert a.error_compensated == pytest.approx(b.error_compensated, rel=1e-3)
        assert a.singular_values is None
        assert a.summary().keys() == b.summary().keys()
    tiny.assert_same_function(fast.net, plain.net, 2e-2)
