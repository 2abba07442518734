"""Drift from running sums against removing the columns, and along the layers against hidden states by hand."""

from copy import deepcopy

import pytest
import torch

import rcpu
from rcpu.explain.drift import constant_error, drift_curve, stream_drift
from rcpu.explain.whatif import Projection
from rcpu.methods.units import attention_units, channel_units, keep_units, kept_columns
from rcpu.models.families import heads_of, layers_of
from rcpu.statistics.kept import SiteData, collect
from rcpu.statistics.sums import Accumulator
from tests import tiny

RATIOS = (0.0, 0.125, 0.25, 0.3, 0.5, 0.9)


@pytest.mark.parametrize("unit", ["channel", "kv_group", "down"])
def test_the_curve_is_the_error_of_every_single_removal(model, unit):
    generator = torch.Generator().manual_seed(0)
    d_in = 72 if unit == "down" else 48
    layout = channel_units(72) if unit == "down" else attention_units(heads_of(model.net), unit)
    weight, x = torch.randn(20, d_in, generator=generator), torch.randn(90, d_in, generator=generator)
    scores = torch.rand(d_in, generator=generator).double().mul(4).round()  # with ties
    sums = Accumulator(d_in)
    sums.add(x)
    y = (weight @ x.T).double()
    found = drift_curve(weight, sums.result(), scores, layout, RATIOS)
    for ratio, error in zip(RATIOS, found, strict=True):
        k = kept_columns(layout, keep_units(scores, layout, ratio)[1])
        z = weight[:, k].double() @ x[:, k].T.double()
        assert error == pytest.approx(((y - z).norm() / y.norm()).item(), rel=1e-4, abs=1e-6)


def test_ratios_need_no_order(model):
    weight, sums = torch.randn(5, 8, generator=torch.Generator().manual_seed(1)), Accumulator(8)
    sums.add(torch.randn(30, 8, generator=torch.Generator().manual_seed(2)))
    up = drift_curve(weight, sums.result(), torch.arange(8.0), channel_units(8), (0.25, 0.5))
    assert drift_curve(weight, sums.result(), torch.arange(8.0), channel_units(8), (0.5, 0.25)) == up[::-1]


def test_stream_drift_is_the_mean_relative_distance_of_tokens(model):
    run = rcpu.prune(model.net, tiny.calibration(), rcpu.Recipe(ratio=0.5, layers=(1,)))
    ids, told = tiny.ids(3, 10, seed=5), []
    found = stream_drift(model.net, {"same": model.net, "pruned": run.net}, ids, progress=told.append)
    assert found["same"] == [0.0, 0.0, 0.0]
    assert not any(m._forward_hooks for net in (model.net, run.net) for m in net.modules())
    assert found["pruned"][0] == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        a, b = (deepcopy(n)(ids, output_hidden_states=True).hidden_states[2] for n in (model.net, run.net))
    assert found["pruned"][1] == pytest.approx(((a - b).norm(dim=-1) / a.norm(dim=-1)).mean().item(), rel=1e-4)
    assert told == [pytest.approx(i / 3) for i in (1, 2, 3)]


def test_stream_drift_can_be_cancelled_and_checks_its_windows(model):
    with pytest.raises(rcpu.Cancelled):
        stream_drift(model.net, {}, tiny.ids(1, 8), cancelled=lambda: True)
    with pytest.raises(rcpu.RcpuError, match="positions"):
        stream_drift(model.net, {}, tiny.ids(1, 300))


def test_a_constant_input_costs_nothing_where_a_bias_stands_in(model, tmp_path, monkeypatch):
    monkeypatch.setenv("RCPU_CACHE", str(tmp_path))
    found = collect(model, tiny.calibration())
    weight = layers_of(model.net)[1].mlp.down_proj.weight
    asked = Projection(weight, found.get(1, "down_proj"), layer=1, site="down_proj")
    columns = torch.arange(50)
    expected = asked.errors(columns)["bias"]
    error = constant_error(asked, columns)
    assert error.calibration == pytest.approx(expected.calibration, rel=1e-3)
    assert error.held_out == pytest.approx(expected.held_out, rel=1e-3)
    assert error.calibration <= asked.plain_error(columns).calibration
    x = torch.randn(40, 72, generator=torch.Generator().manual_seed(0))
    x[:, 50:] = 3.0
    sums = Accumulator(72)
    sums.add(x)
    constant = Projection(weight, SiteData(sums.result(), None, x[None].bfloat16()), layer=1, site="down_proj")
    error = constant_error(constant, columns)
    assert error.calibration == pytest.approx(0, abs=2e-3)
    assert error.held_out is None
    assert constant.plain_error(columns).calibration > 0.5
