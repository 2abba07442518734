"""Greedy removal against the plain one: invert H anew for what stays, try every unit, take the cheapest."""

import pytest
import torch

from rcpu import RcpuError
from rcpu.methods import obs


def problem(d_out=5, d_in=12, tokens=60, seed=0):
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d_in, d_in, generator=g, dtype=torch.float64)
    x = mix @ torch.randn(d_in, tokens, generator=g, dtype=torch.float64)
    return torch.randn(d_out, d_in, generator=g, dtype=torch.float64), x @ x.mT


def error(weight, gram, kept, ridge):
    """min over V of tr((W − V) H (W − V)ᵀ) with V zero outside ``kept``."""
    h = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    v = torch.zeros_like(weight)
    v[:, kept] = weight @ h[:, kept] @ torch.linalg.inv(h[kept][:, kept])
    return ((weight - v) @ h @ (weight - v).mT).trace().item()


def plain(weight, gram, layout, gone, ridge):
    """Every unit tried every time."""
    strata, units, _ = layout.shape
    out, costs, before = [], [], 0.0
    while len(out) < strata * gone:
        found = {}
        for u in range(strata * units):
            taken = [o // units for o in out].count(u // units)
            if u in out or taken == gone:
                continue
            lost = set(layout.flatten(0, 1)[[*out, u]].flatten().tolist())
            found[u] = error(weight, gram, [j for j in range(weight.shape[1]) if j not in lost], ridge)
        best = min(found, key=found.get)
        out.append(best)
        costs.append(found[best] - before)
        before = found[best]
    return out, costs


LAYOUTS = {
    "columns": torch.arange(12).view(1, 12, 1),
    "heads": torch.arange(12).view(1, 4, 3),
    "value channels": torch.arange(12).view(2, 2, 3).transpose(1, 2),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("ridge", [1e-2, 0.3])
def test_the_cheapest_goes_next_and_costs_what_it_costs(name, ridge):
    weight, gram = problem()
    gone = 5 if name == "columns" else 2
    found = obs.greedy(weight, gram, LAYOUTS[name], gone, ridge=ridge)
    order, costs = plain(weight, gram, LAYOUTS[name], gone, ridge)
    assert found.order.tolist() == order
    torch.testing.assert_close(found.costs, torch.tensor(costs, dtype=torch.float64), rtol=1e-8, atol=1e-8)
    assert (~found.keep).sum(1).tolist() == [gone] * len(found.keep)
    assert not found.keep.flatten()[found.order].any()


@pytest.mark.parametrize("name", LAYOUTS)
def test_blocks_cost_exactly_what_their_removal_costs(name):
    weight, gram = problem(seed=3)
    gone = 6 if name == "columns" else 2
    found = obs.greedy(weight, gram, LAYOUTS[name], gone, ridge=0.01, block=4)
    kept = LAYOUTS[name][found.keep].flatten().sort().values
    assert found.costs.sum().item() == pytest.approx(error(weight, gram, kept, 0.01))


def test_the_one_shot_score_is_the_cost_of_one_column():
    weight, gram = problem(seed=1)
    scores = obs.one_shot(weight, gram, 0.1)
    for j in (0, 7):
        kept = [i for i in range(12) if i != j]
        assert scores[j].item() == pytest.approx(error(weight, gram, kept, 0.1))


def test_a_metric_of_the_outputs_is_a_turned_weight():
    """In Γ = FᵀF the order is that of the problem with outputs F y."""
    weight, gram = problem(seed=2)
    f = torch.diag(torch.tensor([10.0, 1, 1, 1, 0.1], dtype=torch.float64))
    turned = obs.greedy(f @ weight, gram, LAYOUTS["columns"], 6, ridge=0.01)
    assert turned.order.tolist() == plain(f @ weight, gram, LAYOUTS["columns"], 6, 0.01)[0]
    assert turned.order.tolist() != obs.greedy(weight, gram, LAYOUTS["columns"], 6, ridge=0.01).order.tolist()


def test_singular_moments_are_said_to_be():
    weight, _ = problem()
    with pytest.raises(RcpuError, match="raise the ridge"):
        obs.greedy(weight, torch.ones(12, 12), LAYOUTS["columns"], 2, ridge=0.0)


def test_any_of_dead_inputs_may_go():
    weight, _ = problem()
    found = obs.greedy(weight, torch.zeros(12, 12), LAYOUTS["columns"], 2, ridge=0.0)
    assert found.costs.isfinite().all()
