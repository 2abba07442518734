"""The page Calibration in Streamlit's test runner, with a tiny LLaMA and texts of people's own."""

import re

import pytest

from app.demo import UPLOAD
from app.shared import models
from app.texts import uploads
from tests.pages import charts, click, finish, open_page, texts, tiles

TEXT = "A <b>text</b> of *my* own, with naïve 😀 characters. " * 20


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Statistics of these tests stay out of the user's cache."""
    monkeypatch.setenv("RCPU_CACHE", str(tmp_path_factory.getbasetemp() / "page-cache"))


@pytest.fixture
def settings(model, model_folder, text_file) -> dict:
    models().put((str(model_folder), "auto", "auto"), model)
    return {"model": model_folder, "text": text_file, "samples": 8, "window": 16, "held_out": 2}


def opened(settings: dict, **others):
    return open_page("calibration", **{**settings, **others})


def html(at) -> str:
    return "".join(e.value for e in at.get("html"))


def measured(settings: dict, **others):
    at = opened(settings, calibration_view="inputs", **others)
    if any(b.label == "Measure the dense model" for b in at.button):
        at = finish(click(at, "Measure the dense model"), "collect")
    return at


def test_without_a_model_the_page_points_to_one():
    at = open_page("calibration", model="/nothing/loaded")
    assert "No model is loaded" in texts(at, "markdown")
    assert not tiles(at)


def test_tiles_say_how_far_the_tokens_reach(settings):
    found = tiles(opened(settings))
    assert found["Calibration tokens"] == "128"
    assert found["Per o_proj input"] == "2.7"
    assert found["Per down_proj input"] == "1.8"
    assert int(found["Different tokens"]) <= 27
    assert "Statistics on disk" in found


def test_windows_are_shown_token_by_token(settings):
    at = opened(settings)
    assert len(re.findall("<span[^>]*border-left", html(at))) == 16
    assert "Calibration window 0 of 8" in texts(at, "markdown")
    first = html(at)
    at.slider(key="set_shown_window").set_value(9).run()
    assert not at.exception
    assert "Held-out window 1 of 2" in texts(at, "markdown")
    assert html(at) != first
    assert at.query_params["shown_window"] == "9"


def test_another_seed_draws_other_windows(settings):
    assert html(opened(settings)) == html(opened(settings))
    assert html(opened(settings)) != html(opened(settings, seed=1))


def test_a_single_window_needs_no_slider(settings):
    at = opened(settings, samples=1, held_out=0)
    assert not at.slider
    assert len(re.findall("<span[^>]*border-left", html(at))) == 16


def test_a_pasted_text_becomes_the_calibration_text_and_never_markup(settings):
    at = opened(settings)
    at.text_area(key="pasted").set_value(TEXT)
    click(at, "Use this text")
    name = at.query_params["text"]
    assert name.startswith(UPLOAD)
    assert uploads().get(name).calibration == TEXT
    assert "<b>" not in html(at)
    assert tiles(at)["Calibration tokens"] == "128"
    again = open_page("calibration", **{**settings, "text": name})
    assert html(again) == html(at)


def test_an_uploaded_file_becomes_the_calibration_text(settings):
    at = opened(settings)
    at.file_uploader[0].set_value(("mine.txt", TEXT.encode(), "text/plain")).run()
    assert not at.exception
    assert uploads().get(at.query_params["text"]).name == "mine.txt"
    assert not at.error


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\xff\xfe", "not UTF-8"), (b"   ", "is empty"), (b"short", "too little text")],
    ids=["binary", "blank", "short"],
)
def test_an_upload_that_cannot_serve_is_said(settings, content, words):
    at = opened(settings)
    at.file_uploader[0].set_value(("![mine](there).txt", content, "text/plain")).run()
    assert not at.exception
    assert words in texts(at, "error")
    assert "![" not in texts(at, "error"), "a name is no Markdown"


def test_an_empty_paste_is_said_and_the_text_stays(settings):
    at = opened(settings)
    click(at, "Use this text")
    assert "is empty" in texts(at, "error")
    assert at.query_params["text"] == str(settings["text"])


def test_an_upload_beyond_the_limit_is_refused(settings, monkeypatch):
    monkeypatch.setenv("RCPU_DEMO", "1")
    monkeypatch.setenv("RCPU_DEMO_MODELS", "embedded")
    at = open_page("calibration", **{**settings, "text": "embedded"})
    at.text_area(key="pasted").set_value("x" * (2**20 + 1))
    click(at, "Use this text")
    assert "bytes in the upload" in texts(at, "error")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": "/no/such/file"}, "no text '/no/such/file'"),
        ({"text": UPLOAD + "0" * 16}, "no longer in memory"),
        ({"samples": 4000}, "too little text"),
    ],
)
def test_bad_settings_are_said_and_can_be_changed(settings, changes, words):
    at = opened(settings, **changes)
    assert words in texts(at, "error")
    assert "Traceback" not in texts(at, "error")
    assert at.selectbox(key="set_text").value == str(changes.get("text", settings["text"]))
    at.selectbox(key="set_text").select("embedded")
    at.number_input(key="set_samples").set_value(8).run()
    assert not at.error


def test_a_data_set_of_the_hub_is_not_fetched_while_a_page_waits(settings):
    at = opened(settings, text="owner/data")
    assert not at.error
    assert "drawn when the dense model is measured" in texts(at, "info")
    at.segmented_control(key="set_calibration_view").set_value("inputs").run()
    assert "cannot get the data set 'owner/data'" in texts(
        finish(click(at, "Measure the dense model"), "collect"), "error"
    )


def test_over_fitting_counts_the_inputs_that_stay(settings):
    at = opened(settings, calibration_view="reach", ratio=0.5)
    table = at.dataframe[0].value
    assert list(table["inputs"]) == [48, 72]
    assert list(table["kept at ratio 0.5"]) == [24, 36]
    assert list(table["tokens per input"]) == [2.67, 1.78]
    assert len(charts(at)) == 1
    assert "unit 'head' needs" in texts(opened(settings, calibration_view="reach", unit="head"), "error")


def test_inputs_over_layers_after_one_pass(settings, model):
    at = measured(settings)
    found = tiles(at)
    assert found["Outlier channels"].isdigit()
    assert len(charts(at)) == 1
    assert "dense model's own path" in texts(at, "caption")
    before = found["Largest mean|x|"]
    at.segmented_control(key="set_site").set_value("down_proj").run()
    assert not at.exception
    assert tiles(at)["Largest mean|x|"] != before
    for quantity in ("variance", "relative"):
        at.segmented_control(key="set_heat").set_value(quantity).run()
        assert not at.exception
    assert at.query_params["heat"] == "relative"


def test_windows_not_measured_yet_offer_to_measure_them(settings):
    at = opened(settings, calibration_view="inputs", seed=99)
    assert any(b.label == "Measure the dense model" for b in at.button)
    assert not charts(at)
