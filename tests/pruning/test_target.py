"""The ratio that leaves a wanted number of parameters: what is planned is what comes, for every method."""

from dataclasses import replace

import pytest

import rcpu
from rcpu.models.sizes import layer_parameters
from tests import tiny


def share(net, dense) -> float:
    """Parameters of the decoder layers that are not zero, as a share of those of the dense model."""
    left = sum(int((p != 0).sum()) for layer in net.model.layers for p in layer.parameters())
    return left / sum(p.numel() for layer in dense.model.layers for p in layer.parameters())


@pytest.mark.parametrize("method", rcpu.METHODS)
def test_every_method_meets_a_target(method, gqa):
    recipe = rcpu.with_target(gqa, rcpu.Recipe(method), 0.8)
    planned = rcpu.planned_share(gqa, recipe)
    assert planned == pytest.approx(0.8, abs=0.05), "as near as the units of a tiny model allow"
    near = [rcpu.planned_share(gqa, replace(recipe, ratio=recipe.ratio + step)) for step in (-0.05, 0.05)]
    assert all(abs(planned - 0.8) <= abs(other - 0.8) + 1e-9 for other in near)
    if method == "flop":
        return  # gates say what they leave when they have learnt it
    made = rcpu.prune(gqa, tiny.calibration(samples=4, held_out=2), recipe).net
    assert share(made, gqa) == pytest.approx(planned, abs=2e-3 if method != "z-pruner" else 6e-3)


@pytest.mark.parametrize("options", [{}, {"unit": "kv_group"}, {"compensation": "bias"}])
def test_columns_meet_a_target_of_the_whole_model(options, gqa):
    recipe = rcpu.with_target(gqa, rcpu.Recipe(**options), 0.85, of="model")
    made = rcpu.prune(gqa, tiny.calibration(samples=4, held_out=2), recipe).net
    found = rcpu.cost(made).parameters / rcpu.cost(gqa).parameters
    assert found == pytest.approx(rcpu.planned_share(gqa, recipe, of="model"), abs=1e-12)
    assert found == pytest.approx(0.85, abs=0.05)


@pytest.mark.parametrize(
    ("recipe", "target", "message"),
    [
        ({}, 0.0, "a target is the share of parameters that stay, above 0 and at most 1; got 0"),
        ({}, float("nan"), "a target is the share"),
        ({}, 1.5, "got 1.5"),
        ({"layers": (0,)}, 0.3, "30% of the parameters of its layers cannot be reached: these settings leave at least"),
        ({"ratios": ((0, 0.1),)}, 0.8, "give a target or those, not both"),
    ],
)
def test_what_cannot_be_met_is_said(recipe, target, message, gqa):
    with pytest.raises(rcpu.RcpuError, match=message):
        rcpu.with_target(gqa, rcpu.Recipe(**recipe), target)


def test_an_unknown_whole_is_said(gqa):
    with pytest.raises(rcpu.RcpuError, match="unknown target 'head': choose one of decoder, model"):
        rcpu.with_target(gqa, rcpu.Recipe(), 0.8, of="head")


def test_layers_are_counted_as_they_are(gqa):
    made = rcpu.prune(gqa, tiny.calibration(samples=4, held_out=2), rcpu.Recipe(ratio=0.4)).net
    counted = sum(layer_parameters(made.config, i) for i in range(3))
    assert counted == sum(p.numel() for layer in made.model.layers for p in layer.parameters())
