"""The page Spectrum and rotation in Streamlit's test runner: every view, on a tiny LLaMA."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

import rcpu
from app import work_views
from app.answers import rotation as answers
from app.shared import ahead, jobs, models
from app.tiles import percent
from rcpu.methods import procrustes
from tests.pages import charts, click, finish, notes, numbers, open_page, texts, tiles

VIEWS = {"spectrum": 2, "angles": 4, "errors": 1, "space": 2}  # figures


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Statistics of these tests stay out of the user's cache."""
    monkeypatch.setenv("RCPU_CACHE", str(tmp_path_factory.getbasetemp() / "page-cache"))


@pytest.fixture
def settings(model, model_folder, text_file) -> dict:
    models().put((str(model_folder), "auto", "auto"), model)
    work_views.overviews.clear()
    return {"model": model_folder, "text": text_file, "samples": 8, "window": 16, "held_out": 2, "ratio": 0.25}


def opened(settings: dict, **others):
    at = open_page("rotation", **{**settings, **others})
    if any(b.label == "Measure the dense model" for b in at.button):
        at = finish(click(at, "Measure the dense model"), "collect")
    return at


def in_a_thread(call) -> None:
    """As it is worked out ahead, without a session."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(call).result()


def noted(call, calls: list):
    """The same call, noted if not made ahead: by the thread for that an earlier test may have left something to do."""

    def told(*args, **options):
        if threading.current_thread().name != "rcpu-ahead":
            calls.append(call)
        return call(*args, **options)

    return told


def test_without_a_model_the_page_points_to_one():
    assert "No model is loaded" in texts(open_page("rotation", model="/nothing/loaded"), "markdown")


def test_without_statistics_it_offers_to_measure(settings):
    at = open_page("rotation", **{**settings, "seed": 78})
    assert any(b.label == "Measure the dense model" for b in at.button)
    assert not tiles(at)


@pytest.mark.parametrize("site", ["o_proj", "down_proj"])
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_draws_at_every_unit_and_ratio(settings, view, site):
    at = opened(settings, spectrum=view, site=site, layer=1)
    for change in (
        lambda: at.selectbox(key="set_unit").select("kv_group"),
        lambda: at.slider(key="set_ratio").set_value(0.0),
        lambda: at.slider(key="set_ratio").set_value(0.9),
        lambda: at.selectbox(key="set_scorer").select("random"),
    ):
        assert not at.error
        assert len(charts(at)) == VIEWS[view]
        assert "dense model's own path" in texts(at, "caption")
        change().run()
        assert not at.exception
    assert "random" in at.query_params["scorer"]


@pytest.mark.parametrize("view", VIEWS)
def test_what_the_next_move_asks_for_is_solved_before(settings, view, monkeypatch):
    asked = []
    monkeypatch.setattr(ahead(), "work_out", lambda *calls: asked.append([*calls[0], *calls[1]]))
    at = opened(
        settings, spectrum=view, site="o_proj", layer=2, ratio=0.35, overlay="0.5", seed=list(VIEWS).index(view)
    )
    for call in asked[-1]:
        with contextlib.suppress(rcpu.RcpuError):  # this model cannot have whole heads
            in_a_thread(call)
    solved = []
    for name in ("solve", "singular_values"):
        monkeypatch.setattr(procrustes, name, noted(getattr(procrustes, name), solved))
    for name in ("SpectrumAnswer", "AnglesAnswer", "ErrorsAnswer", "SpaceAnswer"):
        monkeypatch.setattr(answers, name, noted(getattr(answers, name), solved))
    proper = [lambda: at.toggle(key="set_proper").set_value(True), lambda: at.toggle(key="set_proper").set_value(False)]
    own = {
        "angles": proper,
        "errors": [*(partial(lambda r: at.selectbox(key="set_ridge").select(r), r) for r in ("auto", "0.01")), *proper],
        "space": [*(partial(lambda t: at.slider(key="set_t").set_value(t), t) for t in (0.95, 1.0)), *proper],
    }
    for change in (
        *own.get(view, ()),
        lambda: at.slider(key="set_ratio").set_value(0.4),
        lambda: at.slider(key="set_ratio").set_value(0.35),
        lambda: at.selectbox(key="set_scorer").select("random"),
        lambda: at.selectbox(key="set_scorer").select("rcpu"),
        lambda: at.selectbox(key="set_unit").select("kv_group"),
        lambda: at.selectbox(key="set_unit").select("auto"),
        lambda: at.get("button_group")[1].set_value("down_proj"),
    ):
        change().run()
        assert not at.exception
        assert not solved
    assert at.query_params["site"] == "down_proj"


def test_ratios_lie_over_one_another_and_are_in_the_url(settings):
    at = opened(settings, overlay="0.1,0.5", layer=2)
    assert [t["name"] for t in charts(at)[0]["data"]] == ["25% removed", "10% removed", "50% removed"]
    assert list(numbers(at, "spectrum-by-ratio")["kept inputs"]) == [36, 48, 24]
    at.multiselect(key="set_overlay").set_value(["0", "0.25"]).run()
    assert [t["name"] for t in charts(at)[0]["data"]] == ["25% removed", "dense"]
    assert "0,0.25" in at.query_params["overlay"]
    at.multiselect(key="set_overlay").set_value([]).run()
    assert len(charts(at)[0]["data"]) == 1
    again = open_page("rotation", **{**settings, "overlay": "", "layer": 2})
    assert len(charts(again)[0]["data"]) == 1


def test_a_layer_with_a_ratio_of_its_own_is_shown_at_it(settings):
    at = opened(settings, ratios="1=0.5", layer=1)
    assert "ratio of its own: 0.5" in texts(at, "caption")
    assert tiles(at)["Inputs kept"] == "24"


def test_a_proper_rotation_is_asked_for_and_has_determinant_one(settings, monkeypatch):
    asked, solve = [], procrustes.solve
    monkeypatch.setattr(procrustes, "solve", lambda m, **of: (asked.append(of["proper"]), solve(m, **of))[1])
    monkeypatch.setattr(ahead(), "work_out", lambda *calls: None)
    at = opened(settings, spectrum="angles", layer=1, ratio=0.45, seed=91)
    assert tiles(at)["det Q"] in ("+1", "−1")
    at.toggle(key="set_proper").set_value(True).run()
    assert tiles(at)["det Q"] == "+1"
    assert asked == [False, True]


def test_a_ratio_that_keeps_the_same_is_still_called_what_it_is(settings):
    for ratio in (0.25, 0.26):
        at = opened(settings, overlay="", layer=2, ratio=ratio)
        assert [t["name"] for t in charts(at)[0]["data"]] == [f"{ratio:.0%} removed"]


def test_a_reflection_is_explained_where_points_move(settings):
    for ratio in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6):
        for site in ("o_proj", "down_proj"):
            at = opened(settings, spectrum="space", ratio=ratio, site=site, layer=1)
            reflected = tiles(at)["det Q"] == "−1"
            assert ("no path of rotations" in texts(at, "info")) == reflected


def test_t_moves_the_points_and_the_error(settings):
    at = opened(settings, spectrum="space", site="down_proj", layer=1, t=0.0)
    start = charts(at)[0]["data"]
    assert tiles(at)["Error at t = 0.00"] == tiles(at)["Error of Z"]
    at.slider(key="set_t").set_value(1.0).run()
    end = charts(at)[0]["data"]
    assert start[0] == end[0], "Y stays"
    assert start[2]["x"] != end[2]["x"]
    assert tiles(at)["Error at t = 1.00"] == tiles(at)["Error of QZ"]
    assert "window 0, place 0" in start[0]["customdata"][0]


def test_errors_react_to_the_ridge(settings):
    at = opened(settings, spectrum="errors", site="down_proj", layer=1)
    before = tiles(at)["Least squares"]
    at.selectbox(key="set_ridge").select("10").run()
    assert tiles(at)["Least squares"] != before
    at.selectbox(key="set_ridge").select("auto").run()
    assert not at.error
    assert numbers(at, "errors")["repair"][0] == "none"


def test_repairs_are_judged_on_held_out_windows(settings):
    at = opened(settings, spectrum="errors", ratio=0.5)
    assert notes(at)["Not repaired"] == "held-out"
    found, told = tiles(at), numbers(at, "errors")
    told = told.set_index("repair")["held-out"]
    for label, name in (("Not repaired", "none"), ("Rotation", "rotation"), ("Least squares", "least squares")):
        assert found[label] == percent(told[name])
    (best,) = (label for label in found if label.startswith("Best: "))
    assert found[best] == percent(told.min())


def test_errors_without_held_out_windows_are_of_the_calibration_windows(settings):
    at = opened(settings, spectrum="errors", held_out=0)
    assert notes(at)["Not repaired"] == "calibration"
    at.selectbox(key="set_ridge").select("auto").run()
    assert "held-out windows" in texts(at, "error")
    assert not at.exception


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("ridge", "abc", "ridge must be a number or auto, got 'abc'"),
        ("layers", "0-99", "layer"),
        ("ratios", "1", "ratio"),
    ],
)
def test_a_bad_setting_from_a_link_is_said_and_can_be_set_back(settings, setting, value, words):
    opened(settings, spectrum="errors")
    at = open_page("rotation", **{**settings, "spectrum": "errors", setting: value})
    assert words in texts(at, "error")
    assert not tiles(at)
    at = click(at, "Set back what is pruned and how")
    assert not at.error
    assert tiles(at)
    assert setting not in at.query_params
    assert at.query_params["samples"] == str(settings["samples"]), "what was measured stays chosen"


@pytest.mark.parametrize(
    ("others", "label"),
    [({}, "Set back the windows"), ({"ridge": "abc"}, "Set back the windows, and what is pruned and how")],
)
def test_windows_that_cannot_be_are_set_back_and_no_more_than_needs_be(settings, others, label):
    at = open_page("rotation", **{**settings, "samples": 0, "ratio": 0.35, **others})
    assert at.error
    at = click(at, label)
    assert "at least 1 window" not in texts(at, "error")
    assert "samples" not in at.query_params
    assert ("ratio" in at.query_params) == (not others)


def test_a_link_to_a_layer_that_is_not_there_shows_the_nearest(settings):
    for asked, shown in ((99, 2), (2, 2), (-1, 0)):
        at = opened(settings, layer=asked)
        assert at.select_slider(key="set_layer").value == shown
        assert at.query_params.get("layer", ["0"]) in (str(shown), [str(shown)])


def test_a_ridge_from_a_link_stays(settings):
    at = opened(settings, spectrum="errors", ridge="0.05")
    assert at.selectbox(key="set_ridge").value == "0.05"


def test_all_layers_are_solved_once_and_shown_three_ways(settings):
    at = opened(settings, spectrum="layers", site="down_proj")
    assert not charts(at)
    finish(click(at, "Solve 3 layers"), "all_layers_job")
    for picture in ("spectrum", "angles", "errors"):
        at.segmented_control(key="set_multiples").set_value(picture).run()
        assert not at.exception
        assert len(charts(at)[0]["layout"]["annotations"]) == 3
    assert list(numbers(at, "all-layers")["layer"]) == [0, 1, 2]
    again = open_page("rotation", **settings, spectrum="layers", site="down_proj")
    assert len(charts(again)) == 1, "without a job"
    again.slider(key="set_ratio").set_value(0.5).run()
    assert not charts(again)
    assert any(b.label == "Solve 3 layers" for b in again.button)


def test_all_layers_name_what_they_answer(settings):
    at = opened(settings, spectrum="layers")
    finish(click(at, "Solve 3 layers"), "all_layers_job")
    job = jobs().get(at.session_state["settings"].all_layers_job)
    assert "25% by rcpu" in job.title
    assert [o.layer for o in job.result] == [0, 1, 2]


def test_a_job_that_fails_says_why(settings):
    at = opened(settings, spectrum="layers", held_out=0, ridge="auto", seed=5)
    finish(click(at, "Solve 3 layers"), "all_layers_job")
    assert "held-out windows" in texts(at, "error")
    at.slider(key="set_ratio").set_value(0.5).run()
    assert not texts(at, "error"), "it was asked something else"


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"unit": "head"}, "needs one KV head"), ({"ridge": "much"}, "ridge must be"), ({"text": "/no/such"}, "no text")],
)
def test_bad_settings_are_said(settings, changes, words):
    at = open_page("rotation", **{**settings, **changes})
    assert not at.exception
    assert words in texts(at, "error")


def test_both_sides_are_turned_on_request(settings):
    at = opened(settings, spectrum="sides", site="o_proj", layer=1)
    assert not charts(at)
    at = finish(click(at, "Turn both sides"), "sides")
    assert {"Rotation", "Both sides", "Least squares", "λ of the singular values"} <= set(tiles(at))
    assert len(charts(at)) == 2
    at.slider(key="set_ratio").set_value(0.6).run()
    assert "have changed since" in texts(at, "info")
