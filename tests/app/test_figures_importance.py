"""Figures of Importance show every unit once, on its side of the cut, under its own number."""

import math

import numpy as np
import pytest
import torch

from app.figures import importance as figures
from app.figures.ranking import CLICKED, FEW, cut, unit_name
from rcpu.explain.whatif import FACTORS
from rcpu.methods.units import Removal, channel_units, remove
from tests.tables import to_csv


def removal(strata: int, units: int, ratio: float) -> Removal:
    scores = torch.rand(strata * units, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.01
    layout = channel_units(strata * units).view(strata, units, 1)
    return remove(scores, layout, ratio)


def many(strata: int = 2, ratio: float = 0.2) -> tuple:
    found = removal(strata, 2 * FEW // strata, ratio)
    return found.unit_scores, found.keep


def parts(count: int = 40) -> dict:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(count, generator=generator, dtype=torch.float64) + 0.1 for name in FACTORS}


def layer_scores(strata: int, units: int) -> dict:
    return {i: removal(strata, units, 0).unit_scores * (i + 1) for i in range(3)}


def all_figures() -> dict:
    found = removal(2, 30, 0.2)
    return {
        "cut": cut(found.unit_scores, found.keep, "channel", "layer 1, o_proj", 3),
        "cut of many": cut(*many(), "channel", "layer 1, down_proj"),
        "layers": figures.layers(
            layer_scores(1, 300), "channel", "down_proj", "rcpu", gone=dict.fromkeys(range(3), 60), to_median=True
        ),
        "layers of heads": figures.layers(
            layer_scores(1, 4), "head", "o_proj", "flap", gone={0: 1, 1: 0, 2: 2}, to_median=False
        ),
        "heads": figures.heads({i: s.flatten() for i, s in layer_scores(1, 24).items()}, 8, "rcpu"),
        "factors": figures.factors(parts(), "layer 1, down_proj"),
        "swaps": figures.swaps({"all": found.keep, "less": ~found.keep}, found.unit_scores, "channel"),
        "matrix": figures.matrix(["A", "B"], [[1, 0.5], [0.5, 1]], "Overlap", "share", 0),
        "activations": figures.activations(torch.randn(2, 50), "channel 4", signed=True),
    }


@pytest.mark.parametrize("name", all_figures())
def test_titles_units_hover_text_and_alternative_text(name):
    fig = all_figures()[name]
    assert fig.layout.title.text
    assert fig.layout.xaxis.title.text or name == "matrix"
    assert len(fig.layout.meta["alt"]) > 20
    assert all(trace.hovertemplate or trace.hoverinfo == "skip" for trace in fig.data)
    assert to_csv(fig).count("\n") > 2


@pytest.mark.parametrize(("strata", "units"), [(1, 50), (3, 16)])
def test_every_unit_is_a_point_on_its_side_of_the_cut(strata, units):
    found = removal(strata, units, 0.3)
    stays, goes = cut(found.unit_scores, found.keep, "channel", "here").data
    assert sorted([*stays.customdata, *goes.customdata]) == list(range(strata * units))
    kept = int(found.keep[0].sum())
    for trace, side in ((stays, True), (goes, False)):
        for x, y, unit in zip(trace.x, trace.y, trace.customdata, strict=True):
            assert bool(found.keep.flatten()[unit]) is side
            assert y == pytest.approx(found.unit_scores.flatten()[unit].item())
            assert bool(x <= kept) is side
            better = found.unit_scores[unit // units] > found.unit_scores.flatten()[unit]
            assert x == better.sum() + 1


@pytest.mark.parametrize("strata", [1, 4])
def test_many_units_are_lines_with_some_points_to_click(strata):
    scores, keep = many(strata)
    fig = cut(scores, keep, "channel", "here")
    lines, points = [t for t in fig.data if t.mode == "lines"], [t for t in fig.data if t.mode == "markers"]
    known = {}
    for trace in lines:
        whole = ~np.isnan(trace.x)
        known |= dict(zip(trace.customdata[whole], zip(trace.x[whole], trace.y[whole], strict=True), strict=True))
    assert sorted(known) == list(range(keep.numel()))
    assert all(y == scores.flatten()[int(unit)] for unit, (_, y) in known.items())
    for trace, side in zip(points, (True, False), strict=True):
        assert 0 < len(trace.x) <= CLICKED + 4 * strata + 12
        assert all(known[u] == (x, y) for u, x, y in zip(trace.customdata, trace.x, trace.y, strict=True))
        assert all(bool(keep.flatten()[u]) is side for u in trace.customdata)
    edges = {t.x.max() if s else t.x.min() for t, s in zip(points, (True, False), strict=True)}
    kept = int(keep[0].sum())
    assert edges == {kept, kept + 1}
    rows = to_csv(fig).splitlines()
    assert len(rows) == 1 + keep.numel()


def test_the_unit_looked_at_is_marked_where_its_score_is():
    found = removal(2, 20, 0.2)
    ring = cut(found.unit_scores, found.keep, "channel", "here", 27).data[-1]
    assert ring.y[0] == pytest.approx(found.unit_scores[1, 7].item())
    assert ring.name == "value channel 7 of KV head 1"
    assert len(cut(found.unit_scores, found.keep, "channel", "here", 99).data) == 2


def test_no_cut_is_drawn_where_nothing_goes():
    found = removal(1, 10, 0)
    assert not cut(found.unit_scores, found.keep, "channel", "here").layout.shapes


def test_units_are_called_what_they_are():
    assert unit_name(3, 1, 8, "head") == "head 3"
    assert unit_name(1, 1, 2, "kv_group") == "KV group 1"
    assert unit_name(700, 1, 1536, "channel") == "channel 700"


def test_layers_are_measured_in_their_median_and_cut_by_their_ratio():
    scores = layer_scores(1, 300)
    gone = {0: 60, 1: 0, 2: 150}
    fig = figures.layers(scores, "channel", "down_proj", "rcpu", gone=gone, to_median=True)
    heat, cut = fig.data
    top = scores[1].max() / scores[1].quantile(0.5)
    assert heat.customdata[0][1] == pytest.approx(top.item())
    assert heat.z[0][1] == pytest.approx(math.log10(top))
    assert cut.y[0] == pytest.approx(100 * 239.5 / 299)
    assert cut.y[2] == pytest.approx(100 * 149.5 / 299)


def test_few_units_have_a_row_each_and_crosses_where_they_go():
    scores = layer_scores(1, 4)
    fig = figures.layers(scores, "head", "o_proj", "rcpu", gone={0: 1, 1: 0, 2: 2}, to_median=False)
    heat, crosses = fig.data
    assert list(heat.y) == [f"head {i}" for i in range(4)]
    assert heat.customdata[2][1] == pytest.approx(scores[1][0, 2].item())
    order = scores[2][0].argsort().tolist()
    assert list(zip(crosses.x, crosses.y, strict=True))[-2:] == [(2, f"head {order[1]}"), (2, f"head {order[0]}")]


def test_heads_share_what_a_layer_has():
    fig = figures.heads({i: s.flatten() for i, s in layer_scores(1, 24).items()}, 8, "rcpu")
    for column in zip(*fig.data[0].z, strict=True):
        assert sum(column) == pytest.approx(100)


def test_swaps_have_one_edge_in_the_first_row():
    found = removal(3, 20, 0.25)
    other = removal(3, 20, 0.25)
    rows = figures.swaps({"all": found.keep, "other": other.keep.flip(1)}, found.unit_scores, "channel").data[0].z
    assert list(rows[0]) == [1] * 45 + [0] * 15
    assert sum(rows[1]) == 45


def test_a_correlation_that_is_not_defined_is_a_dash():
    fig = figures.matrix(["A", "B"], [[1, math.nan], [math.nan, 1]], "Rank correlation", "ρ", -1)
    assert fig.data[0].text[0][1] == "–"
    assert fig.data[0].z[0][1] is None


def test_every_token_is_in_the_histogram_once():
    for values in (torch.randn(3, 40), torch.zeros(2, 5), torch.tensor([[0.0, 100.0]])):
        assert sum(figures.activations(values, "it", signed=False).data[0].y) == values.numel()


def test_factors_show_the_middle_and_spread_of_neighbouring_ranks():
    found = parts(96)
    product = math.prod(found.values())
    band, line = figures.factors(found, "here").data[:2]
    group = product.argsort(descending=True)[2:4]  # 48 groups of two
    values = (found["weight"] / found["weight"].quantile(0.5))[group]
    assert line.x[1] == 3.5
    assert line.y[1] == pytest.approx(values.mean().item())
    assert (band.y[1] - band.y[-2]) == pytest.approx(0.8 * (values.max() - values.min()).item())


def test_dead_channels_can_be_drawn():
    dead = {name: torch.zeros(10, dtype=torch.float64) for name in FACTORS}
    assert all(min(t.y) > 0 for t in figures.factors(dead, "here").data)
    zero = {0: torch.zeros(1, 5, dtype=torch.float64)}
    assert np.isnan(figures.layers(zero, "head", "o_proj", "rcpu", gone={0: 2}, to_median=True).data[0].z[0][0])
    assert figures.heads({0: torch.zeros(8, dtype=torch.float64)}, 4, "rcpu").data[0].z[0][0] == 0
