"""Channels and units against what one would reckon by hand, and over-fitting against regressions that were fitted."""

import math

import pytest
import torch

from rcpu.explain import channels
from rcpu.methods.units import attention_units, channel_units
from rcpu.models.families import Heads
from rcpu.statistics.sums import Accumulator
from rcpu.text.pieces import token_pieces


def statistics(x: torch.Tensor):
    sums = Accumulator(x.shape[1])
    sums.add(x)
    return sums.result()


def test_ranks_begin_with_the_first_end_with_the_last_and_never_repeat():
    for count in (1, 2, 7, 96, 97, 1536, 11008):
        for geometric in (False, True):
            found = channels.ranks(count, geometric=geometric)
            assert found[0] == 0
            assert found[-1] == count - 1
            assert len(found) <= 96
            assert (found.diff() > 0).all()
    assert channels.ranks(5).tolist() == [0, 1, 2, 3, 4]
    assert channels.ranks(1536, geometric=True)[:4].tolist() == [0, 1, 2, 3]


def test_units_are_ranked_within_the_stratum_in_which_they_compete():
    scores = torch.tensor([[1.0, 3.0, 2.0], [10.0, 30.0, 20.0]])
    assert channels.ranked(scores).tolist() == [16.5, 11.0, 5.5]


def test_an_outlier_is_found_with_its_size_and_others_are_not():
    x = torch.randn(400, 31, generator=torch.Generator().manual_seed(0))
    x[:, 7] *= 100
    x[:, 3] *= 30
    sums = statistics(x)
    found = channels.outliers(sums)
    assert [o.channel for o in found] == [7, 3]
    median = sums.mean_absolute.sort().values[15]
    assert found[0].times == pytest.approx((sums.mean_absolute[7] / median).item())
    assert found[0].mean_absolute == pytest.approx(x[:, 7].abs().mean().item(), rel=1e-5)
    assert channels.outliers(statistics(x), times=1e6) == []


def test_channels_that_are_never_active_make_no_outlier_of_nothing():
    assert channels.outliers(statistics(torch.zeros(4, 6))) == []


def test_quantities_are_those_of_the_statistics():
    sums = statistics(torch.randn(50, 9, generator=torch.Generator().manual_seed(1)))
    assert channels.QUANTITIES["mean_absolute"](sums).equal(sums.mean_absolute)
    assert channels.QUANTITIES["variance"](sums).equal(sums.variance)
    assert channels.QUANTITIES["relative"](sums).median() == pytest.approx(1)


def test_one_input_keeps_its_sign_and_several_give_their_norm():
    sample = torch.tensor([[[3.0, 4.0, -2.0]]], dtype=torch.bfloat16)
    assert channels.activations(sample, torch.tensor([2])).item() == -2
    assert channels.activations(sample, torch.tensor([0, 1])).item() == 5


def test_the_most_exciting_tokens_come_first_and_apart():
    values = torch.zeros(2, 20)
    values[0, 3], values[0, 5], values[1, 19], values[1, 2] = -9, 8, 5, 1
    found = channels.exciting(values, count=8, apart=6)
    assert [(e.window, e.position, e.value) for e in found] == [(0, 3, -9), (1, 19, 5), (1, 2, 1)]
    assert [e.position for e in channels.exciting(values, count=2, apart=0)] == [3, 5]
    assert channels.exciting(torch.full((1, 3), math.nan)) == []


def test_kept_inputs_count_whole_units_of_every_stratum():
    heads = Heads(query=6, kv=2, dim=8)
    assert channels.kept_inputs(attention_units(heads, "channel"), 0.2) == 48 - 2 * 1 * 3
    assert channels.kept_inputs(attention_units(heads, "kv_group"), 0.5) == 24
    assert channels.kept_inputs(channel_units(100), 0.25) == 75


def test_least_squares_over_fits_as_reckoned():
    n, k, repeats = 60, 20, 200
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(repeats, n, k, generator=generator, dtype=torch.float64)
    y = torch.randn(repeats, n, 1, generator=generator, dtype=torch.float64)  # nothing to learn: noise alone
    b = torch.linalg.lstsq(x, y).solution
    fresh = torch.randn(repeats, 500, k, generator=generator, dtype=torch.float64)
    new = torch.randn(repeats, 500, 1, generator=generator, dtype=torch.float64) - fresh @ b
    ratio = (new.square().mean() / (y - x @ b).square().mean()).sqrt().item()
    assert channels.inflation(n, k) == pytest.approx(ratio, rel=0.03)


def test_least_squares_on_too_few_tokens_fits_them_exactly():
    assert channels.inflation(20, 20) == channels.inflation(21, 20) == float("inf")
    assert channels.inflation(10**6, 20) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("text", ["plain words", "naïve 😀 שלום", "  two\n\n blanks", "é"])
def test_pieces_join_to_the_text(tokenizer, text):
    ids = tokenizer(text).input_ids
    pieces = token_pieces(tokenizer, ids)
    assert len(pieces) == len(ids) == len(text.encode())
    assert "".join(pieces) == text
    assert pieces[0] != ""


def test_a_window_that_begins_or_ends_within_a_character_shows_the_bytes(tokenizer):
    ids = tokenizer("a😀b😀").input_ids
    assert token_pieces(tokenizer, ids[3:-1]) == ("<98>", "<80>", "b", "<F0>", "<9F>", "<98>")
