"""Figures of Calibration carry the numbers of the statistics."""

import math

import numpy as np
import pytest
import torch

from app.figures import calibration as figures
from rcpu.explain.channels import Outlier, inflation
from tests.tables import to_csv


def values(layers: int = 4, channels: int = 200) -> dict:
    generator = torch.Generator().manual_seed(0)
    return {i: torch.rand(channels, generator=generator, dtype=torch.float64) * 10**i + 1e-3 for i in range(layers)}


def test_a_heat_map_shows_largest_and_smallest_channel_of_every_layer():
    found = values()
    fig = figures.channels(found, "mean_absolute", "down_proj")
    heat = fig.data[0]
    assert list(heat.x) == [0, 1, 2, 3]
    assert (heat.y[0], heat.y[-1]) == (1, 200)
    for i, column in enumerate(zip(*heat.customdata, strict=True)):
        assert column[0] == found[i].max()
        assert column[-1] == found[i].min()
        assert list(column) == sorted(column, reverse=True)
    assert heat.z[0][2] == pytest.approx(math.log10(found[2].max()))
    assert f"{found[3].max():.3g} in layer 3" in fig.layout.meta["alt"]
    assert "log10 of mean|x|" in to_csv(fig)


@pytest.mark.parametrize("low_high", [(-0.2, 0.3), (0.1, 0.9), (-6, 5), (-2.5, 30), (0.31, 0.32)])
def test_ticks_of_a_colour_bar_are_round_few_and_inside(low_high):
    found = figures._ticks(*low_high)
    assert len(found) <= 8
    assert all(low_high[0] <= log <= low_high[1] for log in found)


def test_zero_and_infinite_channels_have_no_colour():
    fig = figures.channels({0: torch.tensor([float("inf"), 1.0, 0.0])}, "relative", "o_proj")
    np.testing.assert_array_equal(fig.data[0].z[:, 0], [np.nan, 0, np.nan])
    assert np.isnan(figures.channels({0: torch.zeros(3)}, "variance", "o_proj").data[0].z[0, 0])


def test_outliers_stand_in_a_table_largest_first_with_their_head():
    found = {3: [Outlier(70, 0.5, 25.0)], 1: [Outlier(9, 2.0, 90.04), Outlier(2, 1.0, 40.0)], 2: []}
    assert figures.outlier_table(found, 64) == {
        "layer": [1, 1, 3],
        "channel": [9, 2, 70],
        "query head": [0, 0, 1],
        "mean|x|": [2.0, 1.0, 0.5],
        "÷ median": [90.0, 40.0, 25.0],
    }
    assert "query head" not in figures.outlier_table(found, None)


def test_over_fitting_is_drawn_where_we_are():
    fig = figures.over_fitting({"o_proj": 468, "down_proj": 1229}, 2048, 128)
    points = [t for t in fig.data if t.mode == "markers"]
    assert [(p.x[0], p.y[0]) for p in points] == [(16, inflation(2048, 468)), (16, inflation(2048, 1229))]
    for line in (t for t in fig.data if t.mode == "lines"):
        assert list(line.y) == sorted(line.y, reverse=True)
        assert all(math.isfinite(y) for y in line.y)
    too_few = figures.over_fitting({"o_proj": 468, "down_proj": 1229}, 256, 16)
    assert not [t for t in too_few.data if t.mode == "markers"]
    assert "beyond 100" in too_few.layout.meta["alt"]
