"""The two-sided turn that a page shows is the one that a run takes."""

import pytest
import torch

import rcpu
from rcpu.explain.bothsides import two_sides
from rcpu.explain.whatif import Projection
from rcpu.models.families import weight_of
from rcpu.statistics.kept import collect
from tests import tiny


@pytest.mark.parametrize("site", ["o_proj", "down_proj"])
def test_it_is_what_a_run_does_at_the_first_projection(model, site, tmp_path, monkeypatch):
    monkeypatch.setenv("RCPU_CACHE", str(tmp_path))
    windows = tiny.calibration(samples=12, held_out=6)
    asked = Projection(weight_of(model.net, 0, site), collect(model, windows).get(0, site), layer=0, site=site)
    recipe = rcpu.Recipe(ratio=0.5, compensation="two_sided", layers=(0,), sites=(site,), path="dense")
    (run,) = rcpu.prune(model.net, windows, recipe).sites
    seen = two_sides(asked, run.columns)
    assert seen.errors["two_sided"].calibration == pytest.approx(run.error_compensated, rel=1e-4)
    assert seen.errors["two_sided"].held_out == pytest.approx(run.error_compensated_held_out, rel=1e-4)
    assert seen.errors["two_sided"].calibration < seen.errors["none"].calibration
    assert seen.ridge == run.ridge
    assert (seen.before.diff() <= 0).all()
    assert len(seen.left) == len(seen.right) == len(seen.after) == len(seen.before)
    assert 0 < seen.left.max() <= 180


def test_it_can_be_stopped(model, windows, tmp_path, monkeypatch):
    monkeypatch.setenv("RCPU_CACHE", str(tmp_path))
    data = collect(model, windows).get(0, "o_proj")
    asked = Projection(weight_of(model.net, 0, "o_proj"), data, layer=0, site="o_proj")
    with pytest.raises(rcpu.Cancelled):
        two_sides(asked, torch.arange(40), cancelled=lambda: True)
