"""Outputs from inputs in memory against the same with X, Y and Z written out, and against those from a Gram matrix."""

from dataclasses import replace

import pytest
import torch

import rcpu
from rcpu.methods import procrustes
from rcpu.methods.compensation import COMPENSATORS, Outputs, Problem, turned_error
from rcpu.pruning import direct
from rcpu.pruning.direct import DirectOutputs
from rcpu.statistics.sums import Accumulator
from tests import tiny

D_OUT, D_IN = 6, 20
COLUMNS = torch.tensor([0, 1, 2, 4, 5, 7, 8, 9, 11, 12, 13, 14, 15, 17, 19])


@pytest.fixture
def weight():
    return torch.randn(D_OUT, D_IN, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def batches():
    """Two batches of rows, as views of one buffer, as the layer loop hands them over."""
    buffer = torch.randn(3, 10, D_IN, generator=torch.Generator().manual_seed(2)) + 0.3
    return [buffer[:2].flatten(0, 1), buffer[2:].flatten(0, 1)]


def close(a: float, b: torch.Tensor) -> bool:
    return a == pytest.approx(b.item(), rel=1e-5)


@pytest.mark.parametrize("name", sorted(direct.METHODS))
def test_outputs_are_those_written_out(weight, batches, name):
    x = torch.cat(batches).clone().T
    sums = Accumulator(D_IN)
    sums.add(x.T)
    statistics, asked = sums.result(), []
    outputs = DirectOutputs(weight, COLUMNS, batches, lambda: asked.append(None))
    y, z = weight @ x, weight[:, COLUMNS] @ x[COLUMNS]
    torch.testing.assert_close(outputs.cross_products(COLUMNS), y @ z.T, rtol=1e-4, atol=1e-4)
    assert close(outputs.energy, y.square().sum())
    assert close(outputs.lost(COLUMNS), (y - z).square().sum())
    torch.testing.assert_close(torch.cat(batches)[:, :D_OUT].T, z)
    assert len(asked) == 2  # once a batch

    rotation = procrustes.solve(outputs.cross_products(COLUMNS), rank=D_OUT)
    new = COMPENSATORS[name](Problem(weight, statistics, COLUMNS, rotation))
    repaired = new.weight @ x[COLUMNS] + (0 if new.bias is None else new.bias[:, None])
    from_gram = Outputs(weight, statistics).squared_error(COLUMNS, new)
    if new.turn is None and new.bias is None:
        found = outputs.lost(COLUMNS)
    elif new.turn is None:
        found = outputs.squared_error(COLUMNS, new)
    else:
        found = turned_error(outputs.lost(COLUMNS), outputs.cross_products(COLUMNS), new.turn)
    assert close(found, (y - repaired).square().sum())
    assert found == pytest.approx(from_gram, rel=1e-4)
    torch.testing.assert_close(outputs.put_out(torch.cat(batches)).T, z)
    outputs.repair(new)
    torch.testing.assert_close(outputs.put_out(torch.cat(batches)).T, repaired, rtol=1e-4, atol=1e-4)


def test_another_set_of_columns_is_refused(weight, batches):
    outputs = DirectOutputs(weight, COLUMNS, batches)
    for ask in (outputs.cross_products, outputs.lost, lambda k: outputs.squared_error(k, None)):
        with pytest.raises(ValueError, match="another set"):
            ask(COLUMNS[1:])


@pytest.mark.parametrize(
    ("shape", "compensation", "dtype", "expected"),
    [
        ((6, 12), "rotation", torch.float32, True),
        ((6, 12), "none", torch.float32, True),
        ((6, 12), "bias", torch.float32, True),
        ((6, 11), "rotation", torch.float32, False),  # the Gram matrix is cheaper
        ((6, 12), "least_squares", torch.float32, False),  # needs the Gram matrix
        ((6, 12), "rotation_scale", torch.float32, False),
        ((6, 12), "rotation", torch.bfloat16, False),  # the repaired weight is rounded
    ],
)
def test_when_it_serves(shape, compensation, dtype, expected):
    recipe = rcpu.Recipe(compensation=compensation)
    assert direct.serves(torch.empty(shape, dtype=dtype), recipe, "down_proj") is expected
    for needs in ({"scorer": "greedy"}, {"target": 0.5}):
        if compensation != "none" or "target" not in needs:
            assert not direct.serves(torch.empty(shape, dtype=dtype), replace(recipe, **needs), "down_proj")
    elsewhere = direct.serves(torch.empty(shape, dtype=dtype), replace(recipe, repaired="o_proj"), "down_proj")
    assert elsewhere is direct.serves(torch.empty(shape, dtype=dtype), rcpu.Recipe(compensation="none"), "down_proj")


@pytest.fixture
def wide():
    """MLP channels are three times as many as outputs, so that both orders go directly at down_proj."""
    return tiny.llama(intermediate_size=96, mlp_bias=True)


@pytest.mark.parametrize("order", rcpu.ORDERS)
@pytest.mark.parametrize("compensation", sorted(direct.METHODS))
def test_a_run_finds_the_same_without_kept_inputs(wide, order, compensation):
    windows = tiny.calibration()
    config = rcpu.Recipe(
        samples=8, held_out=4, window=16, order=order, compensation=compensation, ratio=0.25, unit="head"
    )
    for kept, computed in zip(
        rcpu.prune(wide, windows, config).sites, rcpu.prune(wide, windows, config, batch_bytes=0).sites, strict=True
    ):
        assert kept.columns.equal(computed.columns)
        torch.testing.assert_close(kept.weight, computed.weight, rtol=1e-3, atol=1e-4)
        if compensation == "rotation":
            torch.testing.assert_close(kept.singular_values, computed.singular_values, rtol=1e-3, atol=1e-3)
        for name in (
            "error_none",
            "error_compensated",
            "error_none_held_out",
            "error_compensated_held_out",
            "determinant",
            "rank",
        ):
            expected = getattr(computed, name)
            assert getattr(kept, name) == (None if expected is None else pytest.approx(expected, rel=1e-3)), name


@pytest.mark.parametrize("order", rcpu.ORDERS)
def test_kept_inputs_need_no_gram_matrix(wide, order, monkeypatch):
    built = []
    plain = Accumulator.__init__

    def counted(self, d_in, device="cpu", dtype=torch.float32, gram=True):
        built.append((d_in, gram))
        plain(self, d_in, device, dtype, gram)

    monkeypatch.setattr(Accumulator, "__init__", counted)
    config = rcpu.Recipe(samples=8, held_out=4, window=16, order=order, ratio=0.25, unit="head")
    rcpu.prune(wide, tiny.calibration(), config)
    assert set(built) == {(32, True), (96, False)}
    built.clear()
    room = 12 * 16 * 32 * 4  # bytes: the inputs of o_proj alone
    rcpu.prune(wide, tiny.calibration(), config, batch_bytes=room)
    assert set(built) == {(32, True), (96, True)}


@pytest.mark.parametrize("compensation", sorted(direct.METHODS))
def test_where_nothing_goes_what_follows_is_as_without_kept_inputs(wide, compensation):
    config = rcpu.Recipe(
        samples=8,
        held_out=4,
        window=16,
        order="site",
        compensation=compensation,
        ratio=0.25,
        unit="head",
        ratios=((0, 0.0),),
    )
    kept, computed = (rcpu.prune(wide, tiny.calibration(), config, batch_bytes=room) for room in (2**30, 0))
    assert {layer for layer, _ in kept.cuts} == {1, 2}
    for a, b in zip(kept.sites, computed.sites, strict=True):
        torch.testing.assert_close(a.weight, b.weight, rtol=1e-3, atol=1e-4)


def test_broken_inputs_are_named_all_the_same(wide):
    wide.model.layers[1].mlp.up_proj.bias.data[3] = float("nan")
    config = rcpu.Recipe(samples=8, held_out=4, window=16, order="site", ratio=0.25, unit="head")
    with pytest.raises(rcpu.RcpuError, match="layer 1, down_proj: its inputs hold NaN"):
        rcpu.prune(wide, tiny.calibration(), config)


def test_a_subspace_is_chosen_from_the_gram_matrix_where_outputs_are_narrow():
    """o_proj puts out half as many values as it takes: its outputs could be summed up, and are not."""
    net = tiny.llama(head_dim=16)
    config = rcpu.Recipe(samples=8, held_out=4, window=16, ratio=0.3, unit="subspace", centred=True)
    kept, computed = (rcpu.prune(net, tiny.calibration(), config, batch_bytes=room) for room in (2**30, 0))
    assert {s.columns.ndim for s in kept.sites if s.site == "o_proj"} == {3}
    for a, b in zip(kept.sites, computed.sites, strict=True):
        torch.testing.assert_close(a.weight, b.weight, rtol=1e-3, atol=1e-4)
