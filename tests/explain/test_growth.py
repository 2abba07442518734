"""Errors over growing calibration windows against plain sums and fits on the very same inputs."""

import itertools

import pytest
import torch

import rcpu
from rcpu.explain import growth
from rcpu.explain.growth import crossing, grow, input_sums, squares
from rcpu.models.families import architecture_of, consumer_of, layers_of
from tests import tiny


def captured(net, ids, layer: int, site: str) -> torch.Tensor:
    """Inputs of a projection as a hook on the whole model sees them, (d_in, tokens)."""
    spec = next(s for s in architecture_of(net).sites if s.name == site)
    found = []
    hook = consumer_of(layers_of(net)[layer], spec).register_forward_pre_hook(lambda _, args: found.append(args[0]))
    with torch.no_grad():
        net(ids)
    hook.remove()
    return found[0].flatten(0, 1).T


@pytest.mark.parametrize("site", rcpu.SITES)
def test_input_sums_are_those_of_the_whole_model(model, site):
    ids = tiny.ids(3, 16, seed=4)
    x = captured(model.net, ids, 1, site).double()
    found = input_sums(model.net, ids, "random", 1, site)
    assert found.tokens == 48
    torch.testing.assert_close(found.gram.double(), x @ x.T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.absolute, x.abs().sum(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("site", rcpu.SITES)
def test_the_last_step_is_what_a_run_of_all_windows_finds(model, site):
    windows, told = tiny.calibration(), []
    steps = grow(model, windows, layer=0, site=site, ratio=0.3, counts=(2, 8, 99), progress=told.append)
    assert [s.windows for s in steps] == [2, 8]
    assert [s.tokens for s in steps] == [32, 128]
    assert [p.site for p in told if p.site] == steps
    assert told[-1].fraction == pytest.approx(1)
    assert all(a.fraction <= b.fraction + 1e-9 for a, b in itertools.pairwise(told))
    for compensation, key in (("rotation", "rotation"), ("least_squares", squares(1e-2))):
        config = rcpu.Recipe(ratio=0.3, layers=(0,), sites=(site,), compensation=compensation, ridge=1e-2)
        run = rcpu.prune(model.net, windows, config).sites[0]
        assert steps[-1].kept == len(run.columns)
        assert steps[-1].held_out["none"] == pytest.approx(run.error_none_held_out, rel=1e-3)
        assert steps[-1].held_out[key] == pytest.approx(run.error_compensated_held_out, rel=2e-3)
        assert steps[-1].calibration[key] == pytest.approx(run.error_compensated, rel=2e-3)


def test_a_ridge_without_solution_is_none_and_not_the_end(model, monkeypatch):
    monkeypatch.setitem(growth.COMPENSATORS, "least_squares", lambda _: (_ for _ in ()).throw(rcpu.RcpuError("no")))
    step = grow(model, tiny.calibration(), layer=0, site="o_proj", ratio=0.3, counts=(1,), ridges=(0.0,))[0]
    assert step.held_out[squares(0)] is None
    assert step.held_out["rotation"] is not None


def test_where_it_refuses(model):
    with pytest.raises(rcpu.RcpuError, match="layer 7 does not exist"):
        grow(model, tiny.calibration(), layer=7, site="o_proj", ratio=0.3)
    with pytest.raises(rcpu.RcpuError, match="held-out"):
        grow(model, tiny.calibration(held_out=0), layer=0, site="o_proj", ratio=0.3)
    with pytest.raises(rcpu.Cancelled):
        grow(model, tiny.calibration(), layer=0, site="o_proj", ratio=0.3, cancelled=lambda: True)


def steps(*pairs) -> list[growth.Step]:
    return [
        growth.Step(2**i, 2**i * 16, 10, {}, {"rotation": rotation, "squares": fit})
        for i, (rotation, fit) in enumerate(pairs)
    ]


def test_crossing_is_where_it_stays_better():
    assert crossing(steps((0.3, 0.5), (0.3, 0.2), (0.3, 0.4), (0.3, 0.2), (0.3, 0.1)), "squares") == (4, 8)
    assert crossing(steps((0.3, 0.2), (0.3, 0.1)), "squares") == (None, 1)
    assert crossing(steps((0.3, 0.2), (0.3, 0.4)), "squares") is None
    assert crossing(steps((0.3, None), (0.3, 0.1)), "squares") == (1, 2)
    assert crossing([], "squares") is None
