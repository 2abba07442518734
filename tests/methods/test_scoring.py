"""Every scorer against a loop written from the papers' formulas."""

import pytest
import torch

from rcpu.methods.scoring import FROM_GRAM, SCORERS
from rcpu.statistics.fluctuation import Fluctuation
from rcpu.statistics.sums import Accumulator
from tests import reference


@pytest.fixture(scope="module")
def problem():
    """W (7 × 5), X (5 × 40) with means of all signs, and the statistics of X."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    x = torch.randn(5, 40, generator=generator, dtype=torch.float64) + torch.linspace(-2, 2, 5)[:, None]
    accumulator = Accumulator(5, dtype=torch.float64)
    accumulator.add(x.T)
    return weight, x, accumulator.result()


def in_order(x):
    """Four windows of ten tokens."""
    seen = Fluctuation(len(x))
    seen.add(x.T.reshape(4, 10, len(x)))
    return seen


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("name", sorted(SCORERS.keys() - {"random"}))
def test_scores_follow_the_formula(problem, name, attention):
    weight, x, statistics = problem
    before = weight.clone()
    found = SCORERS[name](weight, statistics, attention=attention, seed=0, windows=in_order(x))
    expected = reference.score(name, weight.numpy(), x.numpy(), attention)
    accuracy = {"rtol": 1e-5, "atol": 1e-8} if name in ("wifv", "ifv") else {}
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), **accuracy)
    assert weight.equal(before)


def test_random_scores_depend_on_the_seed_alone(problem):
    weight, _, statistics = problem
    state = torch.get_rng_state()
    first, again, other = (SCORERS["random"](weight, statistics, attention=True, seed=s) for s in (3, 3, 4))
    assert torch.get_rng_state().equal(state)
    assert first.equal(again)
    assert not first.equal(other)
    assert first.shape == (5,)
    assert first.dtype == torch.float64
    assert (first >= 0).all()
    assert (first < 1).all()


@pytest.mark.parametrize("name", sorted(SCORERS.keys() - {"random", "magnitude"} - FROM_GRAM))
def test_an_input_that_is_always_zero_scores_zero(problem, name):
    weight, x, _ = problem
    accumulator = Accumulator(5, dtype=torch.float64)
    accumulator.add((x * torch.tensor([1, 1, 0, 1, 1])[:, None]).T)
    windows = in_order(x * torch.tensor([1, 1, 0, 1, 1])[:, None])
    scores = SCORERS[name](weight, accumulator.result(), attention=False, seed=0, windows=windows)
    assert scores[2] == 0
    assert (scores[[0, 1, 3, 4]] > 0).all()
