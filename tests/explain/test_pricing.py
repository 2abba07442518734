"""Prices are those that a run shares its budget by, and what they choose costs no more than sharing alike."""

import pytest

import rcpu
from rcpu.explain.pricing import price_model
from tests import tiny

BEST = {"compensation": "least_squares", "ridge": 0.3, "centred": True}


@pytest.mark.parametrize("unit", ["channel", "subspace"])
@pytest.mark.parametrize("gradients", [True, False])
def test_the_allocation_is_that_of_a_run(model, unit, gradients):
    windows, told = tiny.calibration(samples=6, held_out=2), []
    recipe = rcpu.Recipe(ratio=0.4, unit=unit, gradients=gradients, **BEST)
    found = price_model(model, windows, recipe, progress=lambda p: told.append(p.fraction))
    run = rcpu.prune(
        model.net, windows, rcpu.Recipe(ratio=0.4, unit=unit, gradients=gradients, allocation="prices", **BEST)
    )
    assert {(s.layer, s.site): (s.units - s.kept) for s in run.sites} == {
        key: n * (2 if key[1] == "o_proj" else 1) for key, n in found.chosen.items()
    }
    assert found.nats is gradients
    assert set(found.curves) == {(i, site) for i in range(3) for site in rcpu.SITES}
    assert found.cost(found.chosen) <= found.cost(found.uniform) * 1.02
    assert found.cost(dict.fromkeys(found.curves, 0)) == 0
    assert told == sorted(told)


def test_a_bad_recipe_is_a_sentence(model):
    with pytest.raises(rcpu.RcpuError, match="layer 9 does not exist"):
        price_model(model, tiny.calibration(), rcpu.Recipe(layers=(9,)))
