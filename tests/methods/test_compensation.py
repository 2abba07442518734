"""Compensators from sums alone against the same with X, Y and Z written out, in fp64."""

from dataclasses import replace

import pytest
import torch

from rcpu.base.errors import RcpuError
from rcpu.methods import procrustes
from rcpu.methods.compensation import COMPENSATORS, Compensated, Outputs, Problem, Shift, turned_error
from rcpu.methods.ridge import RIDGES
from rcpu.methods.subspace import narrow
from rcpu.statistics.sums import Accumulator, Statistics
from tests import reference

D_IN, KEPT = 20, 13


def inputs(tokens: int, seed: int, d_in: int = D_IN) -> torch.Tensor:
    """Correlated X (d_in × tokens) that has a mean; the correlation is the same for every seed."""
    mixing = torch.randn(d_in, d_in, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    noise = torch.randn(d_in, tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return mixing @ noise + torch.linspace(-1, 3, d_in)[:, None]


def statistics(x: torch.Tensor) -> Statistics:
    accumulator = Accumulator(len(x), dtype=torch.float64)
    accumulator.add(x.T)
    return accumulator.result()


def problem(
    d_out: int = 16, tokens: int = 200, kept: int = KEPT, proper: bool = False, seed: int = 0, **options
) -> tuple[Problem, torch.Tensor]:
    """A compensator's problem, and the inputs behind it."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(d_out, D_IN, generator=generator, dtype=torch.float64)
    columns = torch.randperm(D_IN, generator=generator)[:kept].sort().values
    x = inputs(tokens, seed + 1)
    sums = statistics(x)
    rotation = procrustes.solve(Outputs(weight, sums).cross_products(columns), proper=proper)
    return Problem(weight, sums, columns, rotation, **options), x


def error(p: Problem, x: torch.Tensor, name: str, **options) -> float:
    """‖Y − Ŷ‖_F of a compensator, written out."""
    found = COMPENSATORS[name](Problem(p.weight, p.x, p.columns, p.rotation, **options))
    output = found.weight @ x[p.columns] + (0 if found.bias is None else found.bias[:, None])
    return (p.weight @ x - output).norm().item()


def test_sums_give_the_products():
    p, x = problem()
    y, z = p.weight @ x, p.kept @ x[p.columns]
    outputs = Outputs(p.weight, p.x)
    torch.testing.assert_close(outputs.cross_products(p.columns), y @ z.T)
    assert "product" in vars(outputs), "it serves other columns"
    torch.testing.assert_close(outputs.cross_products_once(p.columns), y @ z.T)
    assert "product" not in vars(outputs), "as large as W, and nobody will ask"
    assert outputs.energy == pytest.approx(y.square().sum().item())
    assert p.removed.tolist() == sorted(set(range(D_IN)) - set(p.columns.tolist()))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("changed", [False, True])
def test_squared_error_is_the_direct_one(changed, with_bias):
    p, x = problem()
    weight = p.weight.clone()
    weight[0, ::2] = 0  # a zero in a column does not make it a column of zeros
    new = weight[:, p.columns] + (torch.rand_like(p.kept) if changed else 0)
    bias = torch.linspace(-1, 2, len(weight)).double() if with_bias else None
    direct = weight @ x - new @ x[p.columns] - (bias[:, None] if with_bias else 0)
    before = weight.clone()
    assert Outputs(weight, p.x).squared_error(p.columns, Compensated(new, bias)) == pytest.approx(
        direct.square().sum().item()
    )
    assert weight.equal(before)
    if not changed and not with_bias:
        assert Outputs(weight, p.x).lost(p.columns) == pytest.approx(direct.square().sum().item())


@pytest.mark.parametrize("d_out", [6, KEPT, 24])
@pytest.mark.parametrize("proper", [False, True])
def test_the_error_that_an_orthogonal_matrix_leaves(d_out, proper):
    p, x = problem(d_out, proper=proper)
    outputs, q = Outputs(p.weight, p.x), p.rotation.q
    y, z = p.weight @ x, p.kept @ x[p.columns]
    lost, m = outputs.lost(p.columns), outputs.cross_products(p.columns)
    assert turned_error(lost, m, q) == pytest.approx((y - q @ z).square().sum().item())
    assert turned_error(lost, m, torch.eye(d_out)) == lost
    assert turned_error(0.0, m, q) == 0.0  # rounding does not make it negative


@pytest.mark.parametrize("name", sorted(COMPENSATORS.keys() - {"two_sided"}))
@pytest.mark.parametrize("d_out", [6, KEPT, 24])
def test_weight_and_bias_are_the_references(d_out, name):
    p, x = problem(d_out, ridge=0.05)
    found = COMPENSATORS[name](p)
    weight, bias = reference.compensate(name, p.weight.numpy(), x.numpy(), p.columns.tolist(), ridge=0.05)
    torch.testing.assert_close(found.weight, torch.tensor(weight))
    assert (found.bias is None) == (bias is None)
    if bias is not None:
        torch.testing.assert_close(found.bias, torch.tensor(bias))


@pytest.mark.parametrize("d_out", [6, 24])
@pytest.mark.parametrize("name", COMPENSATORS)
def test_keeping_all_columns_changes_nothing(name, d_out):
    p, _ = problem(d_out, kept=D_IN, ridge=1e-3)
    found = COMPENSATORS[name](p)
    torch.testing.assert_close(found.weight, p.weight)
    assert found.bias is None or not found.bias.any()
    assert found.scale is None or found.scale == pytest.approx(1)


@pytest.mark.parametrize("name", COMPENSATORS)
def test_compensators_leave_the_problem_as_it_is(name):
    p, _ = problem(ridge=0.1)
    before = p.weight.clone(), p.x.gram.clone(), p.rotation.q.clone()
    found = COMPENSATORS[name](p)
    found.weight.zero_()
    assert p.weight.equal(before[0])
    assert p.x.gram.equal(before[1])
    assert p.rotation.q.equal(before[2])


@pytest.mark.parametrize("proper", [False, True])
@pytest.mark.parametrize("d_out", [4, 6, 24])
def test_scale_is_the_best_for_its_rotation(d_out, proper):
    for seed in range(6):  # of both signs of det Q
        p, x = problem(d_out, proper=proper, seed=seed, tokens=8)
        y, turned = p.weight @ x, p.rotation.q @ p.kept @ x[p.columns]
        found = COMPENSATORS["rotation_scale"](p)
        assert found.scale == pytest.approx(((y * turned).sum() / turned.square().sum()).item())
        torch.testing.assert_close(found.weight, found.scale * p.rotation.q @ p.kept)


def test_scale_of_dead_inputs_is_one():
    weight, dead = torch.ones(4, 3, dtype=torch.float64), statistics(torch.zeros(3, 5, dtype=torch.float64))
    columns = torch.tensor([0, 2])
    p = Problem(weight, dead, columns, procrustes.solve(Outputs(weight, dead).cross_products(columns)))
    found = COMPENSATORS["rotation_scale"](p)
    assert found.scale == 1
    torch.testing.assert_close(found.weight, p.kept)


@pytest.mark.parametrize("d_out", [6, 24])
def test_order_of_errors_on_the_calibration_data(d_out):
    p, x = problem(d_out)
    none, rotation, scaled = (error(p, x, name) for name in ("none", "rotation", "rotation_scale"))
    assert error(p, x, "least_squares", ridge=1e-10) < scaled <= rotation < none
    assert error(p, x, "bias") < none


def test_least_squares_between_no_ridge_and_a_wall():
    p, x = problem()

    def solved(ridge: float) -> torch.Tensor:
        return COMPENSATORS["least_squares"](Problem(p.weight, p.x, p.columns, p.rotation, ridge)).weight

    torch.testing.assert_close(solved(1e12), p.kept)
    free = torch.linalg.lstsq(x[p.columns].T, (p.weight @ x).T).solution.T
    torch.testing.assert_close(solved(1e-14), free)
    torch.testing.assert_close(solved(0.0), free)
    errors = [(p.weight @ x - solved(ridge) @ x[p.columns]).norm() for ridge in (1e-6, 1e-3, 1.0, 1e3)]
    assert errors == sorted(errors)


def test_automatic_ridge_is_the_best_on_held_out_inputs():
    chosen = set()
    for tokens in (14, 16, 20, 40, 2000):
        p, _ = problem(tokens=tokens)
        fresh = inputs(500, seed=77)
        held_out = statistics(fresh)
        found = COMPENSATORS["least_squares"](Problem(p.weight, p.x, p.columns, p.rotation, None, held_out))
        errors = {ridge: error(p, fresh, "least_squares", ridge=ridge) for ridge in RIDGES}
        assert found.ridge == min(errors, key=errors.get)
        chosen.add(found.ridge)
    assert len(chosen) > 1  # or this test could not tell a choice from a constant


def test_ridge_has_no_solution_without_enough_inputs():
    p, _ = problem(tokens=6, ridge=0.0)
    with pytest.raises(RcpuError, match=r"singular at λ = 0: 6 calibration tokens for 13 kept inputs; raise the ridge"):
        COMPENSATORS["least_squares"](p)


def test_automatic_ridge_needs_held_out_inputs():
    p, _ = problem()
    with pytest.raises(RcpuError, match="held-out windows: ask for at least one"):
        COMPENSATORS["least_squares"](p)


def written_out(p: Problem, x: torch.Tensor, delta: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """X̂ and target − W_K X̂, about their means where the problem is."""
    if p.columns.ndim == 1:
        inputs_kept = x[p.columns]
    else:
        wide = torch.block_diag(*p.columns.repeat_interleave(len(x) // p.columns.shape[0] // p.columns.shape[2], 0))
        inputs_kept = wide @ x
    left = p.weight @ x - p.kept @ inputs_kept + (0 if delta is None else delta)
    if p.centred:
        return inputs_kept - inputs_kept.mean(1, keepdim=True), left - left.mean(1, keepdim=True)
    return inputs_kept, left


def encoders(kv: int = 2, rank: int = 3, dim: int = 5) -> torch.Tensor:
    """Two query heads for each KV head, 20 inputs in all."""
    g = torch.Generator().manual_seed(5)
    return torch.linalg.qr(torch.randn(kv, dim, rank, generator=g, dtype=torch.float64))[0].mT.contiguous()


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("narrower", [False, True])
def test_every_target_start_and_centre_is_the_one_written_out(centred, shifted, narrower):
    p, x = problem(centred=centred, ridge=0.1)
    g = torch.Generator().manual_seed(8)
    delta = torch.randn(len(p.weight), x.shape[1], generator=g, dtype=torch.float64) + 0.5 if shifted else None
    shift = Shift(delta @ x.mT, delta.sum(1)) if shifted else None
    p = replace(p, shift=shift, columns=encoders() if narrower else p.columns)
    kept, left = written_out(p, x, delta)
    torch.testing.assert_close(p.inside, kept @ kept.mT)
    torch.testing.assert_close(p.bracket, left @ kept.mT)
    damping = 0.1 * (kept @ kept.mT).diagonal().mean() * torch.eye(len(kept), dtype=x.dtype)
    found = COMPENSATORS["least_squares"](p)
    change = left @ kept.mT @ torch.linalg.inv(kept @ kept.mT + damping)
    torch.testing.assert_close(found.weight, p.kept + change)
    zero = COMPENSATORS["least_squares"](replace(p, pull="zero"))
    whole = (left + p.kept @ kept) @ kept.mT
    torch.testing.assert_close(zero.weight, whole @ torch.linalg.inv(kept @ kept.mT + damping))
    m = p.turned_products(Outputs(p.weight, p.x).cross_products(p.columns))
    torch.testing.assert_close(m, whole @ p.kept.mT)
    turned = COMPENSATORS["rotation"](replace(p, rotation=procrustes.solve(m)))
    for new in (found, zero, turned):
        assert (new.bias is not None) == centred
        if centred:  # nothing is left of the mean of the target
            uncentred = x[p.columns] if not narrower else narrow(x.mT, p.columns).mT
            target = p.weight @ x + (0 if delta is None else delta)
            lost = target - new.weight @ uncentred - new.bias[:, None]
            torch.testing.assert_close(lost.mean(1), torch.zeros(len(lost), dtype=x.dtype), atol=1e-9, rtol=0)
    y = Outputs(p.weight, p.x)
    new = found
    output = new.weight @ (narrow(x.mT, p.columns).mT) + (new.bias[:, None] if centred else 0)
    assert y.squared_error(p.columns, new) == pytest.approx((p.weight @ x - output).square().sum().item())
    assert y.lost(p.columns) == pytest.approx(
        (p.weight @ x - p.kept @ narrow(x.mT, p.columns).mT).square().sum().item()
    )
    if shifted:
        expected = (p.weight @ x + delta - output).square().sum() - delta.square().sum()
        assert y.shifted_error(p.columns, new, shift) == pytest.approx(expected.item())


def test_cross_validation_chooses_among_the_same_ridges():
    few, many = (problem(tokens=t, choose="gcv")[0] for t in (15, 4000))
    chosen = [COMPENSATORS["least_squares"](p).ridge for p in (few, many)]
    assert set(chosen) <= set(RIDGES)
    assert chosen[0] > chosen[1]


def test_both_turns_lose_less_than_one_and_a_scale():
    for centred in (False, True):
        p, _ = problem(24, centred=centred)
        p = replace(p, rotation=procrustes.solve(p.turned_products(Outputs(p.weight, p.x).cross_products(p.columns))))
        y = Outputs(p.weight, p.x)
        errors = [y.squared_error(p.columns, COMPENSATORS[n](p)) for n in ("two_sided", "rotation_scale", "none")]
        assert errors == sorted(errors)


def test_blocks_of_a_rotation_are_rotations_of_blocks():
    p, _ = problem(16)
    m = Outputs(p.weight, p.x).cross_products(p.columns)
    found = procrustes.by_blocks(m, 4)
    for i in range(0, 16, 4):
        torch.testing.assert_close(found.q[i : i + 4, i : i + 4], procrustes.solve(m[i : i + 4, i : i + 4]).q)
    assert int((found.q != 0).sum()) == 4 * 16
    assert found.alignment == pytest.approx((found.q * m).sum().item())
    assert found.alignment <= procrustes.solve(m).alignment
    assert len(found.singular_values) == 16
