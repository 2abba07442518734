"""The lessons in Streamlit's own test runner: without a model, with one, from a link, and with bad input."""

import pytest

from app.lessons import LESSONS
from app.lessons.procrustes import EXAMPLES
from app.shared import jobs, models
from rcpu.explain import RUNGS
from tests.pages import charts, click, finish, open_page, texts, tiles

SETTINGS = {"samples": 8, "window": 16, "held_out": 2, "ratio": 0.5, "eval_window": 16}


@pytest.fixture
def measured(model, model_folder, text_file, tmp_path_factory, monkeypatch) -> dict:
    """A link to a loaded model whose dense path is measured."""
    monkeypatch.setenv("RCPU_CACHE", str(tmp_path_factory.getbasetemp() / "learn"))
    link = {**SETTINGS, "model": model_folder, "text": text_file, "eval_text": text_file}
    models().put((str(model_folder), "auto", "auto"), model)
    at = open_page("learn", **link)
    if any(b.label == "Measure this model" for b in at.button):
        finish(click(at, "Measure this model"), "collect")
    return {**link, "samples": 16, "held_out": 4}


def lesson(number: int, **link):
    """A lesson, counted from 1 as people do."""
    return open_page("learn", **link, lesson=number - 1)


@pytest.mark.parametrize("number", range(1, 7))
def test_without_a_model_every_lesson_can_be_read_and_offers_one_button(number):
    at = lesson(number, model="/nothing/loaded")
    shown = texts(at, "markdown")
    assert LESSONS[number - 1].question in shown
    assert LESSONS[number - 1].answer in shown
    offered = any(b.label == "Load the small model and measure it" for b in at.button)
    assert offered == (number != 3)
    assert bool(tiles(at)) == (number == 3)
    assert at.latex[0].value


def test_one_button_loads_and_measures_and_comes_back_to_the_lesson(
    model, model_folder, text_file, tmp_path, monkeypatch
):
    monkeypatch.setenv("RCPU_CACHE", str(tmp_path))
    monkeypatch.setattr("rcpu.load_model", lambda name, *_, **__: model)
    key = ("embedded", "auto", "auto")
    kept = models().get(key)
    models().drop(key)
    at = lesson(1, window=16, text=text_file)
    finish(click(at, "Load the small model and measure it"), "collect")
    assert "Parameters of the model" in tiles(at)
    assert at.query_params["samples"] == "16"
    assert "layers" not in at.query_params
    models().drop(key)
    if kept:
        models().put(key, kept)


def test_lesson_1_counts_and_draws_what_leaves(measured):
    at = lesson(1, **measured)
    before = tiles(at)["Parameters of the model"]
    assert len(charts(at)) == 1
    at.slider(key="set_ratio").set_value(0.0).run()
    assert tiles(at)["Parameters of the model"] != before
    assert "nothing leaves" in texts(at, "markdown")
    at.toggle(key="set_lesson_after").set_value(True).run()
    assert at.query_params["lesson_after"] == "1"
    assert not at.exception


def test_lesson_2_adds_up_the_drift_once_and_then_looks_it_up(measured):
    at = lesson(2, **measured)
    at = finish(at, "drift")
    assert len(charts(at)) == 2
    first = tiles(at)["Drift of o_proj, layer 0"]
    at.slider(key="set_ratio").set_value(0.75).run()
    assert tiles(at)["Drift of o_proj, layer 0"] != first
    again = lesson(2, **measured)
    assert len(charts(again)) == 2, "another session finds it ready"


def test_lesson_2_says_what_failed_and_tries_again_when_asked(measured):
    link = {**measured, "scorer": "flap"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.lessons.work.drift_curve", lambda *_: (_ for _ in ()).throw(ValueError("no")))
        at = finish(lesson(2, **link), "drift")
    assert "unexpected ValueError" in texts(at, "error")
    at = finish(click(at, "Add up the drift of every layer"), "drift")
    assert len(charts(at)) == 2


def test_lesson_3_needs_no_model_and_reads_points_from_the_link():
    at = lesson(3, points=EXAMPLES["Mirrored"])
    assert tiles(at)["det Q"] == "−1"
    assert tiles(at)["Error after"] in ("0.000", "0.001", "0.002", "0.003")
    at.toggle(key="set_proper").set_value(True).run()
    assert tiles(at)["det Q"] == "+1"
    assert "Mirror's axis" not in tiles(at)
    assert float(tiles(at)["Error after"]) > 0.3


@pytest.mark.parametrize("points", ["<script>", "1,2;3", "nan,nan;" * 9 + "1,1"])
def test_lesson_3_takes_its_example_where_a_link_holds_no_points(points):
    assert tiles(lesson(3, points=points)) == tiles(lesson(3))


def test_lesson_4_compares_both_scores(measured):
    at = lesson(4, **measured, site="down_proj")
    assert {"Channels that differ", "Error with Var", "Error without Var"} <= set(tiles(at))
    assert len(charts(at)) == 1
    at.slider(key="set_ratio").set_value(0.0).run()
    assert "Nothing is removed" in texts(at, "markdown")


def test_lesson_5_measures_over_windows_and_says_when_the_controls_have_moved(measured):
    at = finish(click(lesson(5, **measured), "Measure"), "curve")
    assert {"Not repaired", "Rotation", "Least squares"} <= set(tiles(at))
    assert len(charts(at)) == 1
    assert "With a ridge of 0.0001" in texts(at, "markdown")
    at.segmented_control(key="set_curve_ridge").set_value("0.1").run()
    assert "With a ridge of 0.1" in texts(at, "markdown")
    assert not texts(at, "info")
    at.slider(key="set_ratio").set_value(0.25).run()
    assert "have changed" in texts(at, "info")


def test_lesson_5_takes_the_ratio_of_its_slider(measured):
    at = finish(click(lesson(5, **{**measured, "ratio": 0.25, "ratios": "0-2=0.5"}), "Measure"), "curve")
    assert "25% removed" in charts(at)[0]["layout"]["title"]["text"]
    assert not texts(at, "info")


def test_lesson_6_knows_the_run_of_the_other_pages(measured):
    run = finish(click(open_page("start", **measured, eval_windows=2, tokens=2, prompt="abc"), "Run"), "run")
    at = lesson(6, **run.query_params)
    assert "your last run" in texts(at, "markdown")
    assert list(tiles(at)) == ["Dense", "Not repaired", "Repaired"]


def test_lesson_6_prunes_in_both_orders(measured):
    at = finish(click(lesson(6, **measured), "Prune in both orders"), "orders")
    assert {"Dense", "Not repaired", "Paper's order", "o_proj first"} <= set(tiles(at))
    assert len(charts(at)) == 2
    assert "After layer 2" in texts(at, "markdown")
    assert not texts(at, "info")
    at.slider(key="set_ratio").set_value(0.35).run()
    assert "have changed" in texts(at, "info")


def test_lesson_7_adds_one_ingredient_after_another(measured):
    at = finish(click(lesson(7, **{**measured, "ratio": 0.5}), "Measure"), "ladder")
    assert {"Best with 8 windows", "Best with 128 windows"} <= set(tiles(at))
    (figure,) = charts(at)
    assert [trace["name"] for trace in figure["data"]] == list(RUNGS.values())
    assert "With 8 windows" in texts(at, "markdown")
    at.segmented_control(key="set_site").set_value("down_proj").run()
    assert "have changed" in texts(at, "info")


@pytest.mark.parametrize(
    ("number", "button", "kind"),
    [(5, "Measure", "curve"), (6, "Prune in both orders", "orders"), (7, "Measure", "ladder")],
)
def test_a_job_that_cannot_run_says_why(measured, number, button, kind):
    at = finish(click(lesson(number, **{**measured, "text": "/no/such/file"}), button), kind)
    assert "no text '/no/such/file'" in texts(at, "error").replace("\\", "")


def test_bad_settings_are_said_and_no_traceback(measured):
    at = lesson(1, **{**measured, "samples": 4000})
    assert "too little text" in texts(at, "error")
    at = lesson(1, **{**measured, "layers": "99"})
    assert "layer 99 does not exist" in texts(at, "error")
    at = click(at, "Reset this lesson's controls")
    assert not at.error
    assert tiles(at)
    at = lesson(99, **measured)
    assert at.session_state["settings"].lesson == 6


def test_a_link_from_an_unmeasured_lesson_takes_its_few_windows_along(measured):
    def samples_there(**link) -> int:
        at = lesson(2, **{**measured, **link})
        next(b for b in at.button if b.label == LESSONS[1].links[0].label).click()
        return at.run().session_state["settings"].samples

    assert samples_there(model="/nothing/loaded", samples=77) == 16
    assert samples_there() == measured["samples"]


def test_next_back_reset_and_a_link_to_another_page(measured):
    at = click(lesson(1, **measured), f"Next: {LESSONS[1].short}")
    assert at.session_state["settings"].lesson == 1
    at = click(at, f"Back: {LESSONS[0].short}")
    assert at.query_params.get("lesson") is None
    at = click(at, "Reset this lesson's controls")
    assert at.session_state["settings"].ratio == 0.2
    next(b for b in at.button if b.label == LESSONS[0].links[0].label).click()
    at.run()
    assert at.session_state["settings"].site == "down_proj"
    assert "Importance" in texts(at, "title")


LINKS = [(number, link) for number, lesson in enumerate(LESSONS, 1) for link in lesson.links]


@pytest.mark.parametrize(("number", "link"), LINKS, ids=lambda v: getattr(v, "label", v))
def test_a_link_sets_what_it_promises_and_opens_its_page(measured, number, link):
    at = lesson(number, **measured, curve_ridge="0.1")
    next(b for b in at.button if b.label == link.label).click()
    at.run()
    assert not at.exception
    now = at.session_state["settings"]
    wanted = dict(link.settings)
    if "layer" in wanted:
        wanted["layer"] = min(wanted["layer"], 2)  # this model has three: the nearest
    assert {name: getattr(now, name) for name in wanted} == wanted
    assert texts(at, "title") == {"rotation": "Spectrum and rotation", "guide": "Field guide"}.get(
        link.page, link.page.capitalize()
    )
    assert all(getattr(now, there) == "0.1" for there in link.carried)


def test_an_unknown_job_in_a_link_is_said(measured):
    assert "no longer in memory" in texts(lesson(5, **measured, curve="nothing"), "info")
    assert jobs().get("nothing") is None


def test_a_lesson_sets_its_controls_when_entered_and_not_when_a_link_brings_them(measured):
    at = lesson(3, **measured, points=EXAMPLES["Mirrored"])
    assert at.session_state["settings"].ratio == 0.5
    at.segmented_control(key="set_lesson").set_value(3).run()
    assert not at.exception
    now = at.session_state["settings"]
    assert (now.lesson, now.ratio, now.site) == (3, 0.2, "down_proj")
    assert now.points == EXAMPLES["Mirrored"]
    at.slider(key="set_ratio").set_value(0.4).run()
    at.segmented_control(key="set_lesson").set_value(0).run()
    assert at.session_state["settings"].ratio == 0.2
    at.segmented_control(key="set_lesson").set_value(3).run()
    assert at.session_state["settings"].ratio == 0.4  # as it was left
    assert "Why the score looks at variance" in texts(at, "subheader")
