"""Figures of Spectrum and rotation show the numbers of their results."""

import math

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from app.figures import all_layers, angles, repairs, space, spectrum
from app.figures.base import COLORS
from rcpu.explain import turns, whatif
from rcpu.explain.whatif import Errors, effective_rank
from rcpu.methods import procrustes
from rcpu.models.families import ARCHITECTURE, consumer_of, layers_of
from rcpu.statistics.kept import collect
from tests import tiny
from tests.tables import to_csv

SITES = {s.name: s for s in ARCHITECTURE.sites}


@pytest.fixture(scope="module")
def projections(model, tmp_path_factory) -> list[whatif.Projection]:
    """down_proj of every layer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RCPU_CACHE", str(tmp_path_factory.mktemp("cache")))
        found = collect(model, tiny.calibration())
        weights = [consumer_of(layer, SITES["down_proj"]).weight for layer in layers_of(model.net)]
        return [
            whatif.Projection(w, found.get(i, "down_proj"), layer=i, site="down_proj") for i, w in enumerate(weights)
        ]


@pytest.fixture(scope="module")
def asked(projections) -> whatif.Projection:
    return projections[1]


@pytest.fixture(scope="module")
def overviews(projections) -> list[turns.Overview]:
    return [turns.overview(p, torch.arange(50)) for p in projections]


def spectra(asked, ratios=(0.3, 0.0, 0.6)) -> list[spectrum.Spectrum]:
    found = []
    for ratio in ratios:
        kept = round(72 * (1 - ratio))
        values = asked.singular_values(torch.arange(kept))
        found.append(spectrum.Spectrum(ratio, values, whatif.numerical_rank(values, kept)))
    return found


def rotation(q: torch.Tensor) -> procrustes.Rotation:
    return procrustes.solve(q.double())


def reflection() -> procrustes.Rotation:
    """A plane turned by 30 degrees, a mirrored direction and one that stays."""
    c, s = math.cos(math.pi / 6), 0.5
    return rotation(torch.tensor([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]]))


def everything(asked, overviews) -> dict[str, go.Figure]:
    solved, path = asked.rotation(torch.arange(40)), turns.turning(asked, torch.arange(40))
    tokens = [f"token {i}" for i in path.directions.tokens.tolist()]
    return {
        "spectrum": spectrum.spectrum(spectra(asked)),
        "energy": spectrum.energy(spectra(asked)),
        "circle": angles.circle(solved),
        "distribution": angles.distribution(solved),
        "channel_angles": angles.channel_angles(solved),
        "principal_angles": angles.principal_angles(solved),
        "errors": repairs.errors(asked.errors(torch.arange(40))),
        "space": space.space(path, 0.4, tokens),
        "path_error": space.path_error(path, 0.4),
        **{f"layers {name}": draw(overviews, "down_proj, 30% removed") for name, draw in all_layers.MULTIPLES.items()},
    }


def test_every_figure_has_titles_hover_text_and_alternative_text(asked, overviews):
    for name, fig in everything(asked, overviews).items():
        assert fig.layout.title.text, name
        axes = fig.layout.scene if name == "space" else fig.layout
        assert axes.xaxis.title.text or axes.yaxis.title.text, name
        assert len(fig.layout.meta["alt"]) > 10, name
        assert all(trace.hovertemplate for trace in fig.data), name
        assert to_csv(fig).count("\n") > 3, name


def test_curves_are_known_by_names_that_a_page_can_have(asked):
    shown = [spectrum.Spectrum(r, torch.tensor([2.0, 1.0]), 2) for r in (0.25, 0.0, 0.125)]
    for fig in (spectrum.spectrum(shown), spectrum.energy(shown)):
        assert [t.uid for t in fig.data if t.uid] == ["first", "ratio-0", "ratio-125"]


def test_spectra_lie_over_one_another_up_to_their_ranks(asked):
    found = spectra(asked)
    traces = spectrum.spectrum(found).data
    assert [t.name for t in traces] == ["30% removed", "dense", "60% removed"]
    assert [t.line.color for t in traces[:2]] == [COLORS["compensated"], COLORS["dense"]]
    for trace, shown in zip(traces, found, strict=True):
        assert len(trace.y) == shown.rank
        np.testing.assert_allclose(trace.y, shown.values[: shown.rank].numpy())


def test_energy_reaches_99_percent_at_the_dots(asked):
    found = spectra(asked)
    *curves, dots = spectrum.energy(found).data
    for curve, x, y in zip(curves, dots.x, dots.y, strict=True):
        assert curve.y[x - 1] == pytest.approx(y)
        assert y >= 99 - 1e-9
        assert x == 1 or curve.y[x - 2] < 99
        assert curve.y[-1] == pytest.approx(100)
    table = spectrum.spectrum_table(found, [50, 72, 29])
    assert table["removed"] == ["30% removed", "dense", "60% removed"]
    assert table["values for 99% of Σσ"] == list(dots.x)
    assert table["effective rank"][0] == pytest.approx(effective_rank(found[0].signal), abs=0.06)


def test_a_spectrum_of_nothing_is_drawn_empty():
    nothing = [spectrum.Spectrum(0.5, torch.zeros(4).double(), 0)]
    assert len(spectrum.spectrum(nothing).data[0].y) == 0
    assert len(spectrum.energy(nothing).data[0].y) == 0
    assert spectrum.spectrum_table(nothing, [0])["effective rank"] == [0.0]


def test_eigenvalues_lie_on_the_circle_in_conjugate_pairs_and_reflections_apart():
    ring, turned, mirrored = angles.circle(reflection()).data
    np.testing.assert_allclose(np.hypot(ring.x, ring.y), 1)
    np.testing.assert_allclose(np.hypot(turned.x, turned.y), 1)
    np.testing.assert_allclose(np.degrees(np.arctan2(turned.y, turned.x)), turned.customdata, atol=1e-6)
    assert sorted(np.round(turned.customdata, 6)) == [-30.0, 0.0, 30.0]
    strokes = [part.split("L") for part in angles.circle(reflection()).layout.shapes[0].path.split("M")[1:]]
    ends = np.array([[[float(v) for v in end.split(",")] for end in stroke] for stroke in strokes])  # (n, 2, 2)
    np.testing.assert_allclose(ends.mean(1), np.stack([turned.x, turned.y], 1), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1), 0.1, atol=1e-3)
    assert mirrored.x == (-1.0,)
    assert "1 at −1" in angles.circle(reflection()).layout.meta["alt"]
    assert reflection().angles.max() == pytest.approx(180)
    assert angles.largest_turn(reflection()) < 179
    assert len(angles.circle(rotation(torch.eye(4))).data) == 2


def test_distributions_add_up_to_everything(asked):
    solved = asked.rotation(torch.arange(40))
    for trace in angles.distribution(solved).data:
        assert sum(trace.y) == pytest.approx(100, abs=0.01)
    np.testing.assert_allclose(angles.channel_angles(solved).data[0].y, solved.channel_angles.numpy())
    np.testing.assert_allclose(angles.principal_angles(solved).data[0].y, solved.principal_angles.numpy())


def test_principal_angles_of_a_full_range_are_said_to_be_none():
    fig = angles.principal_angles(rotation(torch.eye(5)))
    assert "fills the whole" in fig.layout.annotations[0].text
    assert len(angles.principal_angles(rotation(torch.zeros(5, 5))).data[0].y) == 0


def test_errors_carry_their_numbers_and_leave_out_held_out_windows_that_are_none(asked):
    found = asked.errors(torch.arange(40))
    bars = [t for t in repairs.errors(found).data if t.x[0] is not None]
    assert list(bars[0].x) == list(repairs.COMPENSATIONS.values())
    assert list(bars[0].y) == [found[n].calibration for n in repairs.COMPENSATIONS]
    assert list(bars[1].y) == [found[n].held_out for n in repairs.COMPENSATIONS]
    assert bars[0].marker.color[:2] == (COLORS["pruned"], COLORS["compensated"])
    alone = {name: Errors(e.calibration, None) for name, e in found.items()}
    assert {t.name for t in repairs.errors(alone).data} == {"calibration windows"}
    table = repairs.errors_table(found)
    row = table["repair"].index("rotation")
    gain = 100 * (found["rotation"].calibration / found["none"].calibration - 1)
    assert table["against none (%)"][row] == pytest.approx(gain, abs=0.01)
    assert repairs.errors_table(alone)["held-out against none (%)"] == [None] * 5


def test_the_3d_view_moves_only_the_turned_points_and_escapes_tokens(asked):
    path = turns.turning(asked, torch.arange(40))
    tokens = ["<b>bold</b>"] * len(path.directions.tokens)
    start, end = (space.space(path, t, tokens) for t in (0.0, 1.0))
    assert start.layout.scene == end.layout.scene, "the same axes and camera at every t"
    assert start.layout.uirevision == end.layout.uirevision
    assert start.data[0].customdata[0] == "&lt;b&gt;bold&lt;/b&gt;"
    for i in (0, 1):
        np.testing.assert_array_equal(start.data[i].x, end.data[i].x)
    np.testing.assert_allclose(start.data[2].x, start.data[1].x, atol=1e-6)
    np.testing.assert_allclose(end.data[2].z, path.at(1.0)[:, 2].numpy())
    np.testing.assert_allclose(np.stack([end.data[0].x, end.data[0].y, end.data[0].z], 1), path.directions.y.numpy())


def test_the_path_error_ends_where_the_errors_do(asked):
    found = asked.errors(torch.arange(40))
    curve, now = space.path_error(turns.turning(asked, torch.arange(40)), 0.5).data
    assert curve.y[0] == pytest.approx(found["none"].calibration, rel=1e-3)
    assert curve.y[-1] == pytest.approx(found["rotation"].calibration, rel=1e-3)
    assert now.y[0] == pytest.approx(curve.y[25])


@pytest.mark.parametrize("count", [1, 3, 5, 14, 30])
def test_small_multiples_have_a_panel_a_layer_that_share_no_space(overviews, count):
    many = [overviews[i % len(overviews)] for i in range(count)]
    for name, draw in all_layers.MULTIPLES.items():
        fig = draw(many, "here")
        layout = fig.layout.to_plotly_json()
        boxes = [(*layout[f"xaxis{n}"]["domain"], *layout[f"yaxis{n}"]["domain"]) for n in ["", *range(2, count + 1)]]
        assert len(fig.layout.annotations) == count, name
        for i, (left, right, low, high) in enumerate(boxes):
            assert 0 <= left < right <= 1 + 1e-9
            assert -1e-9 <= low < high <= 1 + 1e-9
            for a, b, c, d in boxes[:i]:
                assert right <= a or b <= left or high <= c or d <= low, (name, i)
        assert {t.xaxis for t in fig.data} == {"x", *(f"x{n}" for n in range(2, count + 1))}


def test_small_multiples_show_the_layers_numbers(overviews):
    turned = all_layers.angles_by_layer(overviews, "here")
    assert all(sum(t.y) == pytest.approx(100, abs=0.01) for t in turned.data)
    titles = [a.text for a in turned.layout.annotations]
    assert titles[2] == f"layer 2: {overviews[2].angles.mean():.1f}°, det {overviews[2].determinant:+d}".replace(
        "-", "−"
    )
    bars = [t for t in all_layers.errors_by_layer(overviews, "here").data if t.type == "bar"]
    assert bars[1].y[2] == overviews[1].errors["rotation"].calibration
    assert all_layers.spectra_by_layer(overviews, "here").data[0].y[0] == 1.0
    table = all_layers.layers_table(overviews)
    assert table["layer"] == [0, 1, 2]
    assert table["least squares, held-out"][1] == pytest.approx(overviews[1].errors["least_squares"].held_out, abs=1e-5)
