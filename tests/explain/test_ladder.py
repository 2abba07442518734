"""The ladder: each rung is what a run with those settings finds at the first layer, and few windows are told apart."""

import pytest

import rcpu
from rcpu.explain.ladder import DAMPING, RIDGE, RUNGS, climb
from tests import tiny


@pytest.mark.parametrize("site", ["o_proj", "down_proj"])
def test_rungs_are_what_runs_find_at_the_first_projection(model, site):
    windows = tiny.calibration(samples=12, held_out=6)
    (found,) = climb(model, windows, layer=0, site=site, ratio=0.5, counts=(12,))
    squares = {"compensation": "least_squares", "ridge": RIDGE}
    greedy = {"scorer": "greedy", "damping": DAMPING, "block": 8, "centred": True}
    options = {
        "none": {"compensation": "none"},
        "rotation": {"compensation": "rotation"},
        "ridge": squares,
        "bias": squares | {"centred": True},
        "greedy": squares | greedy,
        "subspace": squares | greedy | {"unit": "subspace"},
    }
    assert list(found.held_out) == [name for name in RUNGS if name != "subspace" or site == "o_proj"]
    for name in found.held_out:
        chosen = {"unit": "channel", "path": "dense", "sites": (site,), "layers": (0,)} | options[name]
        recipe = rcpu.Recipe(ratio=0.5, **chosen)
        (result,) = rcpu.prune(model.net, windows, recipe).sites
        assert found.calibration[name] == pytest.approx(result.error_compensated, rel=1e-3)
        assert found.held_out[name] == pytest.approx(result.error_compensated_held_out, rel=1e-3)


def test_rungs_climb_on_the_windows_that_they_are_fitted_to(model):
    told = []
    windows = tiny.calibration(samples=8, held_out=2)
    found = climb(model, windows, layer=1, site="o_proj", ratio=0.4, counts=(2, 8, 99), progress=told.append)
    assert [f.windows for f in found] == [2, 8]
    assert [p.site for p in told if p.site] == found
    for f in found:
        assert f.calibration["bias"] <= f.calibration["ridge"] + 1e-6 <= f.calibration["none"] + 2e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [({"layer": 9}, "layer 9 does not exist"), ({"ratio": 0.01}, "rounds down to none: take a larger ratio")],
)
def test_bad_settings_are_said(model, change, message):
    with pytest.raises(rcpu.RcpuError, match=message):
        climb(model, tiny.calibration(), **{"layer": 0, "site": "o_proj", "ratio": 0.5} | change)
