"""Figures show the numbers of their results, with units, one colour a model, and a text for those who cannot see."""

import pytest

import rcpu
from app.figures import base, model, prune, repairs, sites
from app.figures.base import COLORS, new_figure
from app.widgets import count
from tests.tables import to_csv


@pytest.fixture(scope="module")
def results(gqa, windows) -> rcpu.PruneResult:
    return rcpu.prune(gqa, windows, rcpu.Recipe(ratio=0.5))


def all_figures(results, gqa) -> dict:
    site = results.sites[0]
    return {
        "scores": sites.scores(site),
        "spectrum": sites.spectrum(site),
        "angles": sites.angles(site),
        "site_errors": sites.site_errors(site),
        "layer_errors": sites.layer_errors(results.sites, site.site),
        "layer_map": prune.layer_map(rcpu.Recipe(ratios=((1, 0.5),)), (0, 1), 3),
        "parameters": model.parameters(rcpu.models.parts(gqa)),
    }


def test_every_figure_has_title_axis_title_hover_text_and_alternative_text(results, gqa):
    for name, fig in all_figures(results, gqa).items():
        assert fig.layout.title.text, name
        assert fig.layout.xaxis.title.text or fig.layout.yaxis.title.text, name
        assert len(fig.layout.meta["alt"]) > 10, name
        assert all(trace.hovertemplate for trace in fig.data), name
        assert to_csv(fig).count("\n") > 1, name


def test_scores_show_every_unit_once_sorted_on_the_right_side_of_the_cut(results):
    for site in results.sites:
        stays, goes = sites.scores(site).data
        assert len(stays.x) == site.kept
        assert len(goes.x) == site.units - site.kept
        strata, units = site.keep.shape
        heights = {}
        for trace in (stays, goes):
            for x, y, unit in zip(trace.x, trace.y, trace.customdata, strict=True):
                heights.setdefault(unit // units, {})[int(x)] = y
        for own in heights.values():
            assert sorted(own) == list(range(1, units + 1))
            assert [own[x] for x in sorted(own)] == sorted(own.values(), reverse=True)
        assert len(heights) == strata
        assert sum(y for own in heights.values() for y in own.values()) == pytest.approx(site.unit_scores.sum().item())


def test_spectrum_shows_all_singular_values_and_where_the_rank_ends(results):
    site = results.sites[0]
    traces = sites.spectrum(site).data
    assert len(traces[0].x) == site.rank
    assert sum(len(t.x) for t in traces) == len(site.singular_values)
    assert traces[0].y[1] == pytest.approx((site.singular_values[1] / site.singular_values[0]).item())


def test_errors_carry_the_numbers_of_the_run_in_the_models_colours(results):
    site = results.sites[0]
    pruned, compensated = sites.site_errors(site).data
    assert list(pruned.y) == [site.error_none, site.error_none_held_out]
    assert list(compensated.y) == [site.error_compensated, site.error_compensated_held_out]
    assert (pruned.marker.color, compensated.marker.color) == (
        COLORS["pruned"],
        COLORS["compensated"],
    )
    lines = sites.layer_errors(results.sites, "down_proj").data
    assert list(lines[0].y) == [s.error_none for s in results.sites if s.site == "down_proj"]


def test_the_map_tells_what_will_be_pruned():
    fig = prune.layer_map(rcpu.Recipe(ratios=((1, 0.5),), sites=("o_proj",)), (0, 1), 3)
    stays, goes = fig.data
    assert list(goes.customdata) == [0, 1]
    assert list(goes.text) == ["20%", "50%"]
    assert len(stays.x) == 4
    fig = prune.layer_map(rcpu.Recipe(sites=("o_proj",)), (0, 1), 3, picked=[1, 2])
    assert list(zip(fig.data[2].x, fig.data[2].y, strict=True)) == [
        (1, "o_proj"),
        (1, "down_proj"),
        (2, "o_proj"),
        (2, "down_proj"),
    ]
    assert to_csv(fig).count("\n") == 7, "a row a square and the header: no square twice"


def test_csv_of_a_heat_map_has_a_row_a_cell():
    fig = new_figure("t", "layer", "unit", "alt")
    fig.add_heatmap(x=[0, 1], y=["a", "b"], z=[[1, 2], [3, 4]], name="heat")
    assert to_csv(fig).splitlines() == [
        "trace,layer,unit,value",
        "heat,0,a,1",
        "heat,1,a,2",
        "heat,0,b,3",
        "heat,1,b,4",
    ]


def test_csv_of_points_in_space():
    fig = new_figure(
        "t", "", "", "alt", scene={"xaxis_title": "first", "yaxis_title": "second", "zaxis_title": "third"}
    )
    fig.add_scatter3d(x=[1], y=[2], z=[3], name="Y")
    assert to_csv(fig).splitlines() == ["trace,first,second,third", "Y,1,2,3"]


def test_parts_add_up_to_all_parameters(gqa, tied):
    for net in (gqa, tied):
        assert sum(rcpu.models.parts(net).values()) == rcpu.cost(net).parameters


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (134_515_008, "", "134.5 M"),
        (538_060_032, "B", "513.1 MiB"),
        (12, "B", "12 B"),
        (0, "", "0"),
        (2.5e9, "", "2.5 B"),
        (2.5e9, "FLOPs", "2.5 GFLOPs"),
    ],
)
def test_count(value, unit, text):
    assert count(value, unit) == text


def axis_of(*values: float) -> dict:
    figure = base.new_figure("t", "x", "y", "alt")
    figure.add_scatter(x=[1] * len(values), y=list(values))
    figure.add_scatter(x=[1, 2], y=[0.0, float("nan")])
    return base.log_ticks(figure, "y").layout.yaxis.to_plotly_json()


def test_a_log_axis_over_few_powers_of_ten_names_whole_numbers_and_one_over_many_powers_alone():
    assert axis_of(40, 90) == {**axis_of(41, 80)}
    assert axis_of(8, 90)["dtick"] == "D2"
    assert "dtick" not in axis_of(40, 90), "plotly finds round steps within one power"
    assert all(axis_of(*v)["tickformat"] == "~g" for v in ((40, 90), (8, 90), (1, 250)))
    wide = axis_of(1e-9, 1)
    assert wide["minorloglabels"] == "none"
    assert "tickformat" not in wide
    assert axis_of()["type"] == "log"


@pytest.mark.parametrize(("last", "step"), [(2, 1), (12, 1), (23, 2), (29, 5), (60, 5), (79, 10), (200, 20)])
def test_layers_alone_have_ticks_a_dozen_at_most(last, step):
    axis = base.layer_axis(0, last)
    assert axis["dtick"] == step == int(step)
    assert last / step <= 12.5


def test_least_squares_has_one_colour():
    color = base.COLORS["least_squares"]
    assert repairs.color_of("least_squares") == color
    assert len(set(base.COLORS.values())) == 4
    assert repairs.color_of("rotation") == base.COLORS["compensated"]
