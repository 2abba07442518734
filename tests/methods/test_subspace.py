"""Value subspaces against reduced-rank regression, against channels, and against plain gradients."""

import pytest
import torch

from rcpu.methods import subspace
from rcpu.models.families import Heads


def problem(heads: Heads, d_out=20, seed=0):
    g = torch.Generator().manual_seed(seed)
    d_in = heads.query * heads.dim
    mix = torch.randn(d_in, d_in, generator=g, dtype=torch.float64)
    x = mix @ torch.randn(d_in, 300, generator=g, dtype=torch.float64)
    return torch.randn(d_out, d_in, generator=g, dtype=torch.float64), x @ x.mT / 300


def wide(encoder, heads):
    """Ē as a plain matrix, (query heads · rank, d_in)."""
    return torch.block_diag(*(encoder[h // (heads.query // heads.kv)] for h in range(heads.query)))


def error(weight, h, encoder, heads):
    e = wide(encoder, heads)
    left = weight - weight @ h @ e.mT @ torch.linalg.inv(e @ h @ e.mT) @ e
    return (left @ h @ left.mT).trace().item()


@pytest.mark.parametrize("heads", [Heads(4, 4, 5), Heads(6, 2, 4)])
def test_narrow_is_a_product_with_the_encoders(heads):
    weight, _ = problem(heads)
    e = torch.randn(heads.kv, 3, heads.dim, dtype=torch.float64)
    torch.testing.assert_close(subspace.narrow(weight, e), weight @ wide(e, heads).mT)
    assert subspace.narrow(weight, torch.tensor([1, 4])).equal(weight[:, [1, 4]])
    v = torch.randn(20, heads.query * 3, dtype=torch.float64)
    torch.testing.assert_close(subspace.widen(v, e), v @ wide(e, heads))
    columns = torch.tensor([0, 3, 5])
    assert subspace.widen(v[:, :3], columns, 7)[:, columns].equal(v[:, :3])


def test_one_head_is_reduced_rank_regression():
    heads = Heads(1, 1, 8)
    weight, h = problem(heads)
    values, vectors = torch.linalg.eigh(h)
    half = (vectors * values.sqrt()) @ vectors.mT
    lost = torch.linalg.svdvals(weight @ half)[3:].square().sum().item()
    assert error(weight, h, subspace.begin(weight, h, heads, 3), heads) == pytest.approx(lost)
    assert error(weight, h, subspace.value_subspace(weight, h, heads, 3), heads) == pytest.approx(lost)


def test_the_spectrum_is_what_dimensions_carry():
    heads = Heads(1, 1, 8)
    weight, h = problem(heads)
    values = subspace.spectrum(weight, h, heads)[0]
    assert values.tolist() == sorted(values.tolist(), reverse=True)
    lost = error(weight, h, subspace.begin(weight, h, heads, 3), heads)
    assert values[3:].sum().item() == pytest.approx(lost)


@pytest.mark.parametrize("heads", [Heads(4, 4, 5), Heads(6, 2, 4)])
def test_the_decoder_is_the_best_and_refining_lowers_the_error(heads):
    weight, h = problem(heads, seed=1)
    first = subspace.begin(weight, h, heads, 2)
    e = wide(first, heads)
    torch.testing.assert_close(subspace.decoder(weight, h, first), weight @ h @ e.mT @ torch.linalg.inv(e @ h @ e.mT))
    errors = [error(weight, h, subspace.refine(weight, h, first, rounds=r), heads) for r in range(4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.99 * errors[0]
    better = subspace.refine(weight, h, first)
    torch.testing.assert_close(better @ better.mT, torch.eye(2, dtype=torch.float64).expand(heads.kv, 2, 2))


def test_refining_ends_where_the_gradient_does():
    heads = Heads(4, 2, 4)
    weight, h = problem(heads, seed=2)
    e = subspace.refine(weight, h, subspace.begin(weight, h, heads, 2), rounds=200, steps=20).requires_grad_()
    d = subspace.decoder(weight, h, e).detach()
    left = weight - d @ wide(e, heads)
    (grad,) = torch.autograd.grad((left @ h @ left.mT).trace(), e)
    assert grad.abs().max() < 1e-3 * h.diagonal().mean() * weight.square().sum()


def test_a_subspace_loses_less_than_any_choice_of_channels():
    heads = Heads(6, 2, 4)
    weight, h = problem(heads, seed=3)
    found = error(weight, h, subspace.value_subspace(weight, h, heads, 3), heads)
    eye = torch.eye(4, dtype=torch.float64)
    for a in range(4):
        for b in range(4):
            channels = torch.stack([eye[[i for i in range(4) if i != a]], eye[[i for i in range(4) if i != b]]])
            assert found <= error(weight, h, channels, heads) * (1 + 1e-9)
