"""Prices against solving every level on its own, and ½ tr(Γ E C Eᵀ) against a loss that is a quadratic."""

from functools import partial

import pytest
import torch

from rcpu.methods import obs, prices, subspace
from rcpu.methods.units import attention_units, channel_units, keep_units, kept_columns
from rcpu.models.families import Heads
from tests.methods.test_obs import problem


def plain(weight, gram, kept, ridge):
    """W − V with V the ridge repair of these columns."""
    h = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    v = torch.zeros_like(weight)
    v[:, kept] = weight @ h[:, kept] @ torch.linalg.inv(h[kept][:, kept])
    return weight - v


@pytest.mark.parametrize("layout", [channel_units(12), attention_units(Heads(6, 2, 2), "channel")])
def test_nested_levels_are_the_levels(layout):
    weight, gram = problem()
    output = torch.randn(5, 5, dtype=torch.float64)
    output = output @ output.mT
    units = layout.shape[1]
    gone = (0, 1) if units == 2 else (0, 4, 9)
    found = prices.of_columns(
        weight, gram, layout, gone, partial(prices.price, c=gram, output=output), damping=0.01, ridge=0.3
    )
    scores = obs.one_shot(weight, gram, 0.01)
    for n, cost in zip(gone, found, strict=True):
        _, keep = keep_units(scores, layout, n / units)
        left = plain(weight, gram, kept_columns(layout, keep), 0.3)
        assert cost == pytest.approx(0.5 * (output @ left @ gram @ left.mT).trace().item(), abs=1e-9)
    assert found == sorted(found)
    assert found[0] == 0


def test_a_subspace_is_priced_as_it_is_repaired():
    heads = Heads(6, 2, 2)
    weight, gram = problem()
    (found,) = prices.of_subspace(weight, gram, heads, (1,), partial(prices.price, c=gram), damping=0.01, ridge=0.3)
    encoder = subspace.begin(weight, obs.damped(gram, 0.01), heads, 1)
    left = weight - subspace.widen(subspace.decoder(weight, obs.damped(gram, 0.3), encoder), encoder)
    assert found == pytest.approx(0.5 * (left @ gram @ left.mT).trace().item())


def test_counts_are_whole_and_each_once():
    assert prices.counts(10) == (0, 1, 2, 4, 5, 7)
    assert prices.counts(64)[-1] == 44
