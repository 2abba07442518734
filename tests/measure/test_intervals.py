"""Intervals against known distributions, and paired differences against the gap of each window."""

import dataclasses
import json
import math

import numpy as np
import pytest

import rcpu
from rcpu.measure import Interval, crossed_interval, difference, mean_interval
from rcpu.measure.intervals import percent
from tests import tiny


def measured(net, seed: int = 0, windows: int = 12) -> rcpu.Perplexity:
    return rcpu.perplexity(net, tiny.ids(windows, 16, seed=seed), text="random")


def test_the_interval_of_a_mean_is_about_two_standard_errors_wide():
    sample = np.random.default_rng(3).normal(5, 2, 400)
    found = mean_interval(sample)
    error = sample.std(ddof=1) / 20
    assert found.low == pytest.approx(sample.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(sample.mean() + 1.96 * error, abs=0.1 * error)
    assert mean_interval(sample) == found, "the seed is fixed"


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    draws = np.random.default_rng(0).exponential(1, (300, 60))
    assert 0.90 < np.mean([1.0 in mean_interval(row) for row in draws]) < 0.98


@pytest.mark.parametrize(("sample", "expected"), [((), None), ((1.0,), None), ((2.0,) * 5, Interval(2, 2))])
def test_too_few_values_have_no_interval_and_equal_ones_have_none_but_themselves(sample, expected):
    assert mean_interval(sample) == expected


def test_perplexity_lies_in_its_interval_and_losses_of_windows_are_those_of_each_alone(gqa):
    found = measured(gqa)
    assert found.interval.low < found.perplexity < found.interval.high
    alone = [math.log(rcpu.perplexity(gqa, row[None], text="one").perplexity) for row in tiny.ids(12, 16)]
    assert found.by_window == pytest.approx(alone, rel=1e-5)
    assert sum(found.by_window) / 12 == pytest.approx(math.log(found.perplexity))
    assert measured(gqa, windows=1).interval is None


def test_a_paired_difference_is_the_ratio_and_far_narrower_than_the_two_intervals(gqa):
    other = tiny.llama(0, **tiny.KINDS["gqa"])
    other.lm_head.weight.mul_(1.02)
    a, b = measured(gqa, windows=40), measured(other, windows=40)
    found = difference(a, b)
    assert found.value == pytest.approx(100 * (b.perplexity / a.perplexity - 1), rel=1e-6)
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.3 * 100 * (a.interval.high - a.interval.low) / a.perplexity
    back = difference(b, a)
    assert (1 + found.value / 100) * (1 + back.value / 100) == pytest.approx(1)
    same = difference(a, a)
    assert (same.value, same.low, same.high, same.decided) == (0, 0, 0, False)


def test_a_difference_is_decided_where_its_interval_leaves_out_zero(gqa):
    a = measured(gqa)
    worse = dataclasses.replace(a, by_window=tuple(x + 0.1 + 0.01 * i for i, x in enumerate(a.by_window)))
    assert difference(a, worse).decided
    swings = dataclasses.replace(a, by_window=tuple(x + (-1) ** i for i, x in enumerate(a.by_window)))
    assert not difference(a, swings).decided
    assert str(difference(a, worse)).endswith("]%")


@pytest.mark.parametrize("other", [{"seed": 1}, {"windows": 11}])
def test_other_windows_are_refused(gqa, other):
    with pytest.raises(rcpu.RcpuError, match=r"needs the same windows: .* 12 windows of 16 tokens of random"):
        difference(measured(gqa), measured(gqa, **other))
    with pytest.raises(rcpu.RcpuError, match="needs the losses of every window"):
        difference(measured(gqa), rcpu.Perplexity(2.0, 10, 11, 1, "x"))


def test_a_measurement_survives_json(gqa):
    found = measured(gqa)
    assert rcpu.Perplexity.from_dict(json.loads(json.dumps(found.to_dict(losses=True)))) == found
    assert (
        rcpu.Perplexity.from_dict({"perplexity": 2.0, "tokens": 1, "window": 2, "windows": 1, "text": "x"}).interval
        is None
    )


def test_a_hopeless_difference_is_infinite():
    assert percent(1e4) == math.inf
    assert percent(math.log(1.5)) == pytest.approx(50)


def test_with_one_seed_units_alone_are_drawn_again():
    values = np.random.default_rng(1).normal(size=200)
    crossed, plain = crossed_interval([[values]]), mean_interval(values)
    assert crossed.low == pytest.approx(plain.low, abs=0.02)
    assert crossed.high == pytest.approx(plain.high, abs=0.02)


def test_seeds_that_disagree_widen_the_interval_and_more_units_do_not_help():
    rng = np.random.default_rng(2)
    seeds = np.array([-1.0, 0.0, 1.0])[:, None]
    widths = [
        (found := crossed_interval([seeds + rng.normal(scale=0.1, size=(3, n))])).high - found.low for n in (20, 2000)
    ]
    assert all(1.0 < width < 2.5 for width in widths)


def test_strata_weigh_the_same_however_many_units_they_have():
    found = crossed_interval([np.zeros((2, 1000)), np.ones((2, 10))])
    assert (found.low, found.high) == pytest.approx((0.5, 0.5))


def test_a_crossed_interval_needs_two_units_and_the_same_seeds():
    assert crossed_interval([[[1.0]]]) is None
    with pytest.raises(ValueError, match="same seeds"):
        crossed_interval([np.zeros((1, 3)), np.zeros((2, 3))])


def test_the_crossed_interval_holds_the_truth_about_as_often_as_it_says():
    rng, inside = np.random.default_rng(3), 0
    for _ in range(100):
        table = rng.normal(size=(6, 1)) + rng.normal(size=(1, 40)) + rng.normal(size=(6, 40))
        inside += 0.0 in crossed_interval([table])
    assert inside >= 83, "of a hundred; with six seeds a bootstrap is a little too sure"
