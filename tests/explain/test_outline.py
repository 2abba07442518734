"""The drawn shapes are those of the model that pruning makes."""

import pytest
import torch

import rcpu
from rcpu.explain.outline import outline
from rcpu.models.families import layers_of
from tests import tiny


@pytest.mark.parametrize("unit", ["channel", "kv_group"])
def test_shapes_are_those_of_the_pruned_model(model, unit):
    run = rcpu.prune(model.net, tiny.calibration(), rcpu.Recipe(ratio=0.5, layers=(1,), unit=unit))
    found = outline(model.net, 1, {r.site: r.columns for r in run.sites})
    layer = layers_of(model.net)[1]
    pruned = run.net.model.layers[1]
    for block, matrices in (("self_attn", found["o_proj"]), ("mlp", found["down_proj"])):
        for m in matrices:
            assert (m.rows, m.columns) == tuple(layer.get_submodule(block).get_submodule(m.name).weight.shape)
            assert m.left == tuple(pruned.get_submodule(block).get_submodule(m.name).weight.shape)


def test_keeping_everything_leaves_everything(model):
    found = outline(model.net, 0, {"o_proj": torch.arange(48), "down_proj": torch.arange(72)})
    assert [m.name for m in found["o_proj"]] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert [m.name for m in found["down_proj"]] == ["gate_proj", "up_proj", "down_proj"]
    assert all(m.left == (m.rows, m.columns) for matrices in found.values() for m in matrices)
