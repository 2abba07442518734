"""Geometry of outputs: laws that hold for any model, and a plain reference."""

import pytest
import torch

import rcpu
from rcpu import Cancelled
from rcpu.measure import geometry
from rcpu.measure.shapes import KINDS, Geometry
from tests import tiny


def test_a_model_has_its_own_geometry(gqa):
    before = tiny.snapshot(gqa)
    found = geometry(gqa, gqa, tiny.ids(3, 16))
    assert all(v == pytest.approx(0, abs=1e-6) for v in (*found.by_window["norm"], *found.by_window["inner"]))
    assert found.by_window["cosine"] == pytest.approx([1.0] * 3)
    tiny.assert_unchanged(gqa, before)


def test_it_is_what_hooks_and_loops_say(gqa, windows):
    net = rcpu.prune(gqa, windows, rcpu.Recipe(ratio=0.3)).net
    ids = tiny.ids(2, 12, seed=5)
    found = geometry(gqa, net, ids)
    assert found.sites == ("o_proj", "down_proj")
    seen = {}
    for key, one in (("dense", gqa), ("pruned", net)):
        module = one.model.layers[1].mlp.down_proj
        hook = module.register_forward_hook(lambda m, i, out, key=key: seen.__setitem__(key, out))
        with torch.no_grad():
            one(ids)
        hook.remove()
    norms, cosines, inner = [], [], []
    for y, z in zip(seen["dense"], seen["pruned"], strict=True):
        y, z = y[1:].double(), z[1:].double()
        norms += [abs(float(b.norm() / a.norm()) - 1) for a, b in zip(y, z, strict=True)]
        cosines += [float(a @ b / a.norm() / b.norm()) for a, b in zip(y, z, strict=True)]
        inner.append(float((z @ z.T - y @ y.T).norm() / (y @ y.T).norm()))
    expected = {"norm": norms, "cosine": cosines, "inner": inner}
    for kind in KINDS:
        mean = sum(expected[kind]) / len(expected[kind])
        assert found.by_layer[kind][1][1] == pytest.approx(mean, rel=1e-4), kind
    assert Geometry.from_dict(found.to_dict()) == found


def test_it_stops_when_asked(gqa):
    with pytest.raises(Cancelled):
        geometry(gqa, gqa, tiny.ids(3, 16), cancelled=lambda: True)
    assert not any(m._forward_hooks for m in gqa.modules())
