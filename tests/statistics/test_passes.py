"""A pass moves all windows through the dense layers, kinds apart, and stops where and when it is told to."""

from copy import deepcopy

import pytest
import torch

import rcpu
from rcpu.models.families import layers_of
from rcpu.statistics.passes import Pass
from tests import tiny


def begun(net, windows, cancelled=lambda: False, told=None) -> Pass:
    told = [] if told is None else told
    return Pass(net, windows, micro_batch=3, passes=len(layers_of(net)), progress=told.append, cancelled=cancelled)


@torch.no_grad()
def test_hidden_states_are_those_of_the_model(gqa, windows):
    run, told = begun(gqa, windows), []
    run.progress = told.append
    ids = torch.cat([windows.calibration, windows.held_out])
    states = deepcopy(gqa).model(ids, output_hidden_states=True).hidden_states  # which leaves hooks behind
    for i in range(len(layers_of(gqa)) - 1):  # the last one of the model is normalised
        torch.testing.assert_close(run.hidden, states[i])
        for _ in run.layer(gqa, i, "running"):
            pass
        torch.testing.assert_close(run.hidden, states[i + 1])
    assert told[-1].fraction == pytest.approx((len(layers_of(gqa)) - 1) / len(layers_of(gqa)))


@torch.no_grad()
def test_a_micro_batch_holds_windows_of_one_kind_and_every_window_is_in_one(gqa, windows):
    seen = list(begun(gqa, windows).layer(gqa, 0, "running"))
    first = [s for s in seen if s.site.name == "o_proj"]
    assert [s.site.name for s in seen] == ["o_proj", "down_proj"] * len(first)
    places = [(i, s.held_out) for s in first for i in range(s.part.start, s.part.stop)]
    count = len(windows.calibration)
    assert places == [(i, i >= count) for i in range(count + len(windows.held_out))]
    assert all(len(s.x) == s.part.stop - s.part.start <= 3 for s in seen)


@torch.no_grad()
def test_it_ends_at_the_last_site_that_is_asked_for(gqa, windows):
    assert {s.site.name for s in begun(gqa, windows).layer(gqa, 0, "running", last="o_proj")} == {"o_proj"}


@torch.no_grad()
def test_it_stops_between_two_micro_batches(gqa, windows):
    stop = []
    run = begun(gqa, windows, cancelled=lambda: bool(stop))
    parts = run.layer(gqa, 0, "running")
    next(parts)
    stop.append(True)
    with pytest.raises(rcpu.Cancelled):
        list(parts)


def test_tokens_beyond_the_vocabulary_are_refused(gqa):
    windows = tiny.calibration()
    windows.calibration[0, 0] = gqa.config.vocab_size
    with pytest.raises(rcpu.RcpuError, match="vocabulary"):
        begun(gqa, windows)
