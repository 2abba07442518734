"""SPSA's gradient beside the true one: against a backward pass of the whole model, and against what theory expects."""

import copy

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

import rcpu
from rcpu.explain import likeness, true_gradient
from rcpu.explain.spsa import BINS, backward_cost
from rcpu.methods.minillm import mean_gradient, seed_of
from tests import tiny


@pytest.fixture
def recipe() -> rcpu.Recipe:
    return rcpu.Recipe(method="mini-llm", ratio=0.3, draws=6)


def plain_gradient(kind: str, windows: rcpu.Windows, index: int) -> dict[str, torch.Tensor]:
    """By one backward pass through everything."""
    net = copy.deepcopy(tiny.net(kind)).requires_grad_()
    ids = windows.calibration
    cross_entropy(net(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return {n: p.grad for n, p in net.model.layers[index].named_parameters() if p.ndim == 2}


@pytest.mark.parametrize("kind", ["gqa", "biased"])
@pytest.mark.parametrize("index", [0, 2])
def test_the_gradient_is_that_of_the_whole_model(kind, index, windows):
    net = tiny.net(kind)
    before, plain = tiny.snapshot(net), plain_gradient(kind, windows, index)
    for micro_batch in (None, 3):
        found = true_gradient(net, windows, index, micro_batch=micro_batch)
        assert found.keys() == plain.keys()
        for name, g in plain.items():
            torch.testing.assert_close(found[name], g, rtol=1e-4, atol=1e-6)
    tiny.assert_unchanged(net, before)
    assert not any(p.requires_grad for p in net.parameters())


def test_cosines_are_those_of_the_mean_over_draws(gqa, windows, recipe):
    slopes, told = torch.randn(6, generator=torch.Generator().manual_seed(0)).tolist(), []
    found = likeness(gqa, windows, recipe, slopes, 1, progress=lambda p: told.append(p.fraction))
    true = true_gradient(gqa, windows, 1)
    for draws in (1, 4, 6):
        seeds = [seed_of(recipe.seed, n, 1) for n in range(draws)]
        mean = mean_gradient(gqa.model.layers[1], slopes[:draws], seeds, "normal")
        for name, one in found.items():
            expected = cosine_similarity(mean[name].flatten(), true[name].flatten(), 0)
            assert one.cosines[draws - 1].item() == pytest.approx(expected.item(), abs=1e-5)
    assert told == sorted(told)
    one = found["mlp.down_proj.weight"]
    assert len(one.true) == len(one.found) == len(one.error) == BINS
    assert one.true.tolist() == sorted(one.true.tolist())
    assert one.true.mean().item() == pytest.approx(true["mlp.down_proj.weight"].mean().item(), abs=1e-6)
    signs = mean["mlp.down_proj.weight"].sign() == true["mlp.down_proj.weight"].sign()
    assert one.signs == pytest.approx(signs.double().mean().item())


def test_draws_come_as_near_as_theory_says(windows):
    net, recipe = tiny.net("gqa"), rcpu.Recipe(method="mini-llm", ratio=0.3, draws=48, step=1e-4)
    slopes = rcpu.prune(net, windows, recipe).found["slopes"].tolist()
    found = likeness(net, windows, recipe, slopes, 2)
    for one in found.values():
        assert one.expected.tolist() == sorted(one.expected.tolist())
        assert one.cosines[-1].item() == pytest.approx(one.expected[-1].item(), abs=3 * one.chance)
    assert sum(one.cosines[-1] for one in found.values()) > sum(one.chance for one in found.values())


def test_it_can_be_stopped(gqa, windows, recipe):
    for last in (0, 5, 30):
        calls = iter(range(1000))
        stop = lambda calls=calls, last=last: next(calls) >= last  # noqa: E731
        with pytest.raises(rcpu.Cancelled):
            likeness(gqa, windows, recipe, [1.0] * 40, 1, micro_batch=4, cancelled=stop)


def test_what_it_costs():
    assert backward_cost(30, 0) == 3.0
    assert backward_cost(30, 15) == 2.0
