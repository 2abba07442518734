"""Figures of Compare carry their numbers, in the colour of the role and the dash or pattern of the run."""

import math

import pytest
import torch

import rcpu
from app.figures.base import COLORS
from app.figures.compare import by_position, difference_bars, next_token_bars, next_token_table, perplexity_bars, style
from rcpu.measure import Difference
from rcpu.measure.predictions import NextToken

STYLES = {
    "dense": style("dense", "dense"),
    "1:plain": style("first, not repaired", "pruned"),
    "1": style("<b>first</b>", "compensated"),
    "2": style("second", "compensated", 1),
}
CURVES = {key: torch.linspace(5, 2 + i, 127, dtype=torch.float64) for i, key in enumerate(STYLES)}
ROWS = (
    NextToken(7, "␣the", dict(zip(STYLES, (0.5, 0.25, 0.4, 0.3), strict=True)), dict.fromkeys(STYLES, 1)),
    NextToken(9, "<i>", dict(zip(STYLES, (0.25, 0.125, 0.2, 0.1), strict=True)), dict.fromkeys(STYLES, 2)),
)


def found() -> dict[str, rcpu.Perplexity]:
    return {key: rcpu.Perplexity(2.0 + i, 1016, 128, 8, "notes <1>.txt") for i, key in enumerate(STYLES)}


GAPS = {text: {k: Difference(10.0 + i, "%", 9.0, 12.0, 8) for i, k in enumerate(STYLES)} for text in ("a<b>.txt", "b")}
FIGURES = {
    "bars": perplexity_bars(found(), STYLES),
    "differences": difference_bars(GAPS, STYLES, "dense"),
    "positions": by_position(CURVES, STYLES, "8 windows"),
    "next": next_token_bars(ROWS, STYLES),
}


@pytest.mark.parametrize("name", FIGURES)
def test_title_units_hover_text_alternative_text_and_one_trace_a_model(name):
    fig = FIGURES[name]
    assert fig.layout.title.text
    assert fig.layout.xaxis.title.text or fig.layout.yaxis.title.text
    assert all(s.label in fig.layout.meta["alt"] for s in STYLES.values())
    assert all(trace.hovertemplate for trace in fig.data)
    assert [trace.name for trace in fig.data] == ["dense", "first, not repaired", "&lt;b&gt;first&lt;/b&gt;", "second"]
    fig.to_json()


@pytest.mark.parametrize("name", FIGURES)
def test_roles_have_colours_and_runs_have_dashes_or_patterns(name):
    looks = []
    for trace in FIGURES[name].data:
        lines = trace.type == "scatter"
        looks.append((trace.line.color, trace.line.dash) if lines else (trace.marker.color, trace.marker.pattern.shape))
    colors = [color for color, _ in looks]
    assert colors == [COLORS[role] for role in ("dense", "pruned", "compensated", "compensated")]
    assert len(set(looks)) == 4


def test_many_runs_go_round():
    assert style("x", "pruned", 99).dash
    assert len({(s.dash, s.pattern) for s in (style("x", "pruned", i) for i in range(8))}) == 8


def test_bars_show_text_window_and_tokens():
    fig = FIGURES["bars"]
    assert [trace.y[0] for trace in fig.data] == [2, 3, 4, 5]
    for part in ("notes &lt;1&gt;.txt", "8 windows", "128 tokens", "1,016 predictions"):
        assert part in fig.layout.title.text


def test_runs_of_one_name_have_a_bar_each():
    styles = {"1": style("run", "compensated"), "2": style("run", "compensated", 1)}
    fig = perplexity_bars({k: found()[k] for k in styles}, styles)
    assert [trace.x[0] for trace in fig.data] == ["1", "2"]
    assert fig.layout.xaxis.ticktext == ("run", "run")


def test_long_labels_stand_in_lines_below_their_bars():
    assert FIGURES["bars"].layout.xaxis.ticktext[1] == "first, not<br>repaired"
    assert FIGURES["bars"].layout.xaxis.ticktext[2] == "&lt;b&gt;first&lt;/b&gt;"


def test_bars_have_the_interval_of_their_perplexity():
    losses = tuple(1.0 + 0.1 * i for i in range(8))
    p = rcpu.Perplexity(math.exp(1.35), 1016, 128, 8, "x", by_window=losses)
    bar = perplexity_bars({"dense": p}, STYLES).data[0]
    assert bar.y[0] + bar.error_y.array[0] == pytest.approx(p.interval.high)
    assert bar.y[0] - bar.error_y.arrayminus[0] == pytest.approx(p.interval.low)


def test_differences_stand_by_text_with_their_intervals():
    fig = FIGURES["differences"]
    assert fig.data[2].x == ("a&lt;b&gt;.txt", "b")
    assert fig.data[2].y == (12, 12)
    assert fig.data[1].error_y.array == (1, 1)
    assert fig.data[1].error_y.arrayminus == (2, 2)
    assert difference_bars({"a": {"1": Difference(math.inf, "%", None, None, 1)}}, STYLES, "x").data[0].y == (None,)


def test_infinite_perplexity_is_named_and_not_drawn():
    fig = perplexity_bars({"dense": rcpu.Perplexity(math.inf, 10, 11, 1, "x")}, STYLES)
    assert fig.data[0].y == (None,)
    assert fig.data[0].text == ("∞",)


def test_positions_are_binned_and_none_is_lost():
    for key, trace in zip(CURVES, FIGURES["positions"].data, strict=True):
        assert trace.x[:2] == (4.5, 12.5)
        assert trace.customdata[0] == "1–8"
        assert trace.customdata[-1] == "121–127"
        assert trace.y[0] == pytest.approx(CURVES[key][:8].mean().exp().item())
        sizes = [8] * 15 + [7]
        mean = sum(n * math.log(y) for n, y in zip(sizes, trace.y, strict=True)) / 127
        assert mean == pytest.approx(CURVES[key].mean().item())
    assert FIGURES["positions"].layout.yaxis.type == "log"


def test_short_windows_show_every_position():
    trace = by_position({"dense": [1.0, 2.0, 1000.0]}, STYLES).data[0]
    assert trace.x == (1, 2, 3)
    assert trace.y[:2] == pytest.approx((math.e, math.e**2))
    assert math.isfinite(trace.y[2])


def test_next_tokens_as_bars_and_table():
    fig = FIGURES["next"]
    assert fig.data[1].x == (25, 12.5)
    assert fig.layout.yaxis.ticktext == ("␣the", "&lt;i&gt;")
    table = next_token_table(ROWS, STYLES)
    assert table["token"] == ["␣the", "<i>"]
    assert table["second (%)"] == [30, 10]
    assert table["dense rank"] == [1, 2]
