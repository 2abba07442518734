"""A step along the natural gradient against the minimum of its quadratic, and on tiny models."""

import copy

import pytest
import torch

import rcpu
from rcpu.base.errors import RcpuError
from rcpu.methods import obs, step
from rcpu.methods.prices import price
from rcpu.models.families import weight_of
from rcpu.runs.streaming import check_streamed
from rcpu.statistics.curvature import Curvature
from tests import tiny
from tests.pruning.test_together import OURS


def curvature(seed: int = 0) -> Curvature:
    draw = torch.Generator().manual_seed(seed)
    x, g = (torch.randn(40, n, generator=draw, dtype=torch.float64) for n in (7, 5))
    return Curvature(None, x.mT @ x / 40, x.mean(0), g.mT @ g / 40, g.mT @ x / 40)


def test_the_direction_is_the_minimum_of_the_damped_quadratic():
    """Its gradient S + (Γ + δI) D (C + δI) is 0, found by autograd of the loss as it is written."""
    seen = curvature()
    d, nats = step.direction(seen)
    d = d.clone().requires_grad_()
    one = [torch.eye(len(m), dtype=m.dtype) * m.diagonal().mean() for m in (seen.output, seen.gram)]
    left, right = seen.output + step.DAMPING * one[0], seen.gram + step.DAMPING * one[1]
    loss = (seen.slope * d).sum() + 0.5 * (left @ d @ right @ d.mT).trace()
    assert torch.autograd.grad(loss, d)[0].norm() < 1e-9 * seen.slope.norm()
    assert loss < 0
    assert nats == pytest.approx(0.5 * (seen.output @ d @ seen.gram @ d.mT).trace().item())


def test_large_matrices_on_a_gpu_are_fp32_beside_small_ones(monkeypatch):
    seen = curvature()
    expected, nats = step.direction(seen)
    monkeypatch.setattr(obs, "working_dtype", lambda m: torch.float64 if len(m) <= 5 else torch.float32)
    found, about = step.direction(seen)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert about == pytest.approx(nats, rel=1e-4)


def test_all_sites_together_are_priced_at_the_nats_asked_for():
    seen = [curvature(seed) for seed in range(3)]
    found = [step.direction(s) for s in seen]
    eta = step.length((nats for _, nats in found), 0.01)
    assert sum(price(eta * d, s.gram, s.output) for s, (d, _) in zip(seen, found, strict=True)) == pytest.approx(0.01)
    assert step.length([0.0, 0.0], 0.01) == 0, "nothing pulls, nothing moves"


@pytest.mark.parametrize("kind", ["mha", "gqa", "biased", "tied"])
def test_a_step_alone_lowers_the_loss_and_changes_no_size(kind, windows):
    net = tiny.net(kind)
    before = tiny.snapshot(net)
    result = rcpu.prune(net, windows, rcpu.Recipe(ratio=0.0, step=0.001, sites=("down_proj",), layers=(0, 2)))
    tiny.assert_unchanged(net, before)
    dense, moved = (rcpu.perplexity(n, windows.calibration, text="calibration").perplexity for n in (net, result.net))
    assert moved < dense
    assert rcpu.cost(result.net) == rcpu.cost(net)
    assert set(result.edits.layers) == {0, 2}
    assert all(s.error_compensated == s.error_none == 0 for s in result.sites), "nothing is repaired"
    for i, name in ((0, "down_proj"), (1, "down_proj"), (2, "down_proj"), (0, "o_proj")):
        path = "mlp.down_proj" if name == "down_proj" else "self_attn.o_proj"
        same = result.net.model.layers[i].get_submodule(path).weight.equal(weight_of(net, i, name))
        assert same == (i == 1 or name == "o_proj"), f"layer {i}, {name}"


def test_longer_steps_go_further_the_same_way(gqa, windows):
    def moved(nats: float) -> torch.Tensor:
        return rcpu.prune(gqa, windows, rcpu.Recipe(ratio=0.0, step=nats)).sites[0].weight - weight_of(gqa, 0, "o_proj")

    short, long = moved(0.001), moved(0.004)
    torch.testing.assert_close(long, 2 * short, rtol=1e-4, atol=1e-7)


def test_repair_is_of_the_weight_after_the_step(gqa, windows):
    """Pruning with a step is a step, and then pruning what it made: without a look at the model, to the last bit."""
    recipe = rcpu.Recipe(ratio=0.3, compensation="least_squares", ridge=0.1, step=0.001)
    together = rcpu.prune(gqa, windows, recipe)
    alone = rcpu.prune(gqa, windows, rcpu.Recipe(ratio=0.0, step=0.001))
    moved = copy.deepcopy(tiny.net("gqa"))
    for s in alone.sites:
        weight_of(moved, s.layer, s.site).copy_(s.weight)
    after = rcpu.prune(moved, windows, rcpu.Recipe(ratio=0.3, compensation="least_squares", ridge=0.1))
    for a, b in zip(together.sites, after.sites, strict=True):
        assert a.weight.equal(b.weight)
        assert a.error_compensated == b.error_compensated
        assert a.stepped
        assert not b.stepped


def test_what_cannot_be_streamed_says_so(gqa):
    with pytest.raises(RcpuError, match="a step along them"):
        check_streamed(gqa, rcpu.Recipe(step=0.01))


def test_ours_with_a_step_is_no_larger(gqa, windows):
    recipes = (rcpu.Recipe(ratio=0.3, **OURS, step=nats) for nats in (0.0, 0.01))
    plain, stepped = (rcpu.cost(rcpu.prune(gqa, windows, r).net).parameters for r in recipes)
    assert stepped == plain
