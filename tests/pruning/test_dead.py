"""Layers whose inputs are all 0: nothing can be fitted to them, and nothing goes wrong."""

import copy

import pytest

import rcpu
from tests import tiny


@pytest.mark.parametrize("ridge", [1.0, None], ids=["λ = 1", "auto"])
@pytest.mark.parametrize(("part", "site"), [("mlp.up_proj", "down_proj"), ("self_attn.v_proj", "o_proj")])
@pytest.mark.parametrize("compensation", rcpu.COMPENSATORS)
def test_a_dead_layer_keeps_its_weights(gqa, windows, part, site, compensation, ridge):
    net = copy.deepcopy(gqa)
    net.model.layers[1].get_submodule(part).weight.zero_()
    result = rcpu.prune(net, windows, rcpu.Recipe(ratio=0.3, compensation=compensation, ridge=ridge))
    dead = next(s for s in result.sites if (s.layer, s.site) == (1, site))
    owner = net.model.layers[1].mlp if site == "down_proj" else net.model.layers[1].self_attn
    if compensation in ("none", "least_squares", "bias"):
        assert dead.weight.equal(owner.get_submodule(site).weight[:, dead.columns])
    assert dead.weight.isfinite().all()
    assert tiny.logits(result.net).isfinite().all()
