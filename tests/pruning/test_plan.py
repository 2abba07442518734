"""A plan tells what a run then does."""

import pytest

import rcpu
from tests import tiny
from tests.pruning.test_loop import UNITS, config


def test_plan_tells_before_the_run(gqa):
    plan = rcpu.plan(gqa, config(ratio=0.1, layers=(2, 0)))
    assert plan.unit == "channel"
    assert plan.layers == (0, 2)
    assert {name: tuple(layout.shape) for name, layout in plan.layouts.items()} == {
        "o_proj": (2, 8, 3),
        "down_proj": (1, 72, 1),
    }
    assert plan.removed == {(i, s): n for i in (0, 2) for s, n in (("o_proj", (0, 16)), ("down_proj", (7, 72)))}
    assert len(plan.notes) == 1
    assert "0.1 of 8 channels" in plan.notes[0]


@pytest.mark.parametrize("settings", [{}, {"compensation": "bias"}, {"layers": (1,), "sites": ("o_proj",)}], ids=str)
@pytest.mark.parametrize(("kind", "unit"), [*UNITS, ("tied", "channel")])
def test_plan_is_what_happens(kind, unit, settings, windows):
    net, asked = tiny.net(kind), config(unit, **settings)
    plan, result = rcpu.plan(net, asked), rcpu.prune(net, windows, asked)
    assert plan.before == rcpu.cost(net)
    assert plan.after == rcpu.cost(result.net)
    assert {s.layer for s in result.sites} == set(plan.layers)
    for s in result.sites:
        assert plan.removed[s.layer, s.site] == (s.units - s.kept, s.units)


@pytest.mark.parametrize("allocation", ["flap", "flap_heads", "influence"])
def test_what_holds_to_the_ratio_of_the_whole_is_planned_so(allocation, gqa, windows):
    asked = rcpu.Recipe(unit="kv_group", ratio=0.3, allocation=allocation, heads_removed=1)
    dense, planned = rcpu.cost(gqa).parameters, rcpu.plan(gqa, asked)
    assert not any("rounds down to none" in note for note in planned.notes), "nobody knows that before the look"
    left = rcpu.planned_share(gqa, asked)
    made = rcpu.prune(gqa, windows, asked).net
    decoder = sum(p.numel() for layer in gqa.model.layers for p in layer.parameters())
    assert left == pytest.approx(0.7, abs=0.01)
    assert 1 - (dense - rcpu.cost(made).parameters) / decoder == pytest.approx(left, abs=0.09), "units are coarse"


def test_a_ratio_of_a_layer_that_is_not_pruned_is_told(gqa):
    notes = rcpu.plan(gqa, config(layers=(0,), ratio=0.5, ratios=((1, 0.4),))).notes
    assert any("layer 1 has a ratio of its own, but" in note for note in notes)


def test_settings_that_change_nothing_are_told(gqa):
    told = rcpu.plan(gqa, rcpu.Recipe("z-pruner", pattern="2:4")).notes
    assert told == ("pattern 2:4 takes 2 of every 4 weights, whatever the ratio",)
    assert rcpu.plan(gqa, rcpu.Recipe("z-pruner")).notes == ()
    notes = rcpu.plan(gqa, config(unit="subspace", sites=("down_proj",))).notes
    assert any("unit 'subspace' is of o_proj, which is not pruned" in note for note in notes)
