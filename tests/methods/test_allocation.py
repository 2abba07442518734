"""Budgets over sites against exhaustive search and against FLAP's published steps, written plainly."""

import itertools

import pytest
import torch

from rcpu import RcpuError
from rcpu.methods import allocation
from rcpu.methods.allocation import Curve


def test_square_roots_are_interpolated():
    curve = Curve((0, 4, 8), (0.0, 4.0, 16.0), parameters=10, upkeep=3)
    torch.testing.assert_close(curve.at_each(), torch.arange(9).double().square() / 4)
    assert curve.removed().tolist() == [0, 7, 17, 27, 37, 47, 57, 67, 77]
    assert Curve((0,), (0.0,), 5).at_each().tolist() == [0]


@pytest.mark.parametrize("budget", [1, 30, 77, 110, 150])
def test_the_cheapest_counts_are_those_of_an_exhaustive_search(budget):
    """Convex curves: no other counts cost less and remove as much, but for the last unit's worth."""
    curves = {
        "a": Curve((0, 3, 6), (0.0, 0.9, 3.6), parameters=10),
        "b": Curve((0, 3, 6), (0.0, 0.09, 0.36), parameters=10),
        "c": Curve((0, 3, 6), (0.0, 0.225, 0.9), parameters=10),
    }
    chosen = allocation.by_price(curves, budget)
    gone = {k: c.removed() for k, c in curves.items()}
    cost = {k: c.at_each() for k, c in curves.items()}

    def total(of, counts):
        return sum(float(of[k][n]) for k, n in counts.items())

    assert total(gone, chosen) >= budget
    every = (dict(zip(curves, n, strict=True)) for n in itertools.product(range(7), repeat=3))
    best = min(total(cost, n) for n in every if total(gone, n) >= budget)
    assert total(cost, chosen) == pytest.approx(best)


def test_a_bias_is_paid_for():
    chosen = allocation.by_price({"a": Curve((0, 9), (0.0, 1.0), parameters=10, upkeep=25)}, 40)
    assert chosen == {"a": 7}


def test_a_budget_out_of_reach_is_refused():
    with pytest.raises(RcpuError, match="at most 90"):
        allocation.by_price({"a": Curve((0, 9), (0.0, 1.0), parameters=10)}, 91)


def test_shrunk_goes_from_uniform_to_chosen():
    chosen, uniform = {"a": 10, "b": 0}, {"a": 4, "b": 6}
    assert allocation.shrunk(chosen, uniform, 1) == chosen
    assert allocation.shrunk(chosen, uniform, 0) == uniform
    assert allocation.shrunk(chosen, uniform, 0.5) == {"a": 7, "b": 3}


def test_one_threshold_over_heads_and_neurons():
    g = torch.Generator().manual_seed(0)
    attention, mlp = torch.rand(4, 6, generator=g).double(), torch.rand(4, 50, generator=g).double()
    scores = {(i, "o"): attention[i] for i in range(4)} | {(i, "d"): mlp[i] for i in range(4)}
    costs = {key: 85 if key[1] == "o" else 1 for key in scores}
    found = allocation.by_threshold(scores, costs, 0.3)
    # As FLAP's code has it.
    every = torch.cat([attention.flatten(), mlp.flatten()])
    ordered, indices = torch.sort(every, descending=True)
    weight = torch.ones_like(indices)
    weight[indices < attention.numel()] = int(4 * 64 / 3)
    threshold = ordered[torch.argmin(torch.abs(torch.cumsum(weight, 0) - torch.sum(weight) * (1 - 0.3)))]
    for i in range(4):
        assert found[i, "o"] == 6 - int((attention[i] > threshold).sum())
        assert found[i, "d"] == 50 - int((mlp[i] > threshold).sum())


def test_standardised_uses_the_unbiased_deviation():
    assert allocation.standardised(torch.tensor([1.0, 2.0, 3.0])).tolist() == [-1, 0, 1]


def test_layers_that_change_little_lose_more_and_the_mean_stays():
    found = allocation.by_influence([0.5, 0.9, 0.99, 0.7], 0.3)
    assert sum(found) / 4 == pytest.approx(0.3)
    assert found[2] > found[1] > found[3] > found[0]
    weights = torch.softmax(-(1 - torch.tensor([0.5, 0.9, 0.99, 0.7]).double()) / 0.15, 0)
    torch.testing.assert_close(torch.tensor(found).double(), 4 * 0.3 * weights)


def test_no_layer_loses_more_than_it_may():
    found = allocation.by_influence([0.1, 0.2, 0.999, 0.1], 0.4, temperature=0.1)
    assert max(found) == pytest.approx(0.8)
    assert sum(found) / 4 == pytest.approx(0.4)
    found = allocation.by_influence([0.9, 0.85, 0.5, 0.4], 0.5)
    assert found[:2] == pytest.approx([0.8, 0.8]), "the second is filled by what is cut off from the first"
    assert sum(found) / 4 == pytest.approx(0.5)


def test_neurons_make_up_what_heads_leave():
    share = allocation.ratios_with_heads(0.2, 1, 9, 4 * 576 * 64, 1536, 3 * 576)
    assert int(share * 1536 + 1e-9) == int((0.2 * (9 * 4 * 576 * 64 + 1536 * 3 * 576) - 4 * 576 * 64) / (3 * 576))
    with pytest.raises(RcpuError, match="another number of heads"):
        allocation.ratios_with_heads(0.01, 8, 9, 4 * 576 * 64, 1536, 3 * 576)
    with pytest.raises(RcpuError, match="9 of 9 heads cannot go from a layer"):
        allocation.ratios_with_heads(0.9, 9, 9, 4 * 576 * 64, 1536, 3 * 576)
