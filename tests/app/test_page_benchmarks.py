"""The page Benchmarks: without a model, with dense alone, with runs, and with bad input."""

import json

import pytest

from app import demo, work_tasks
from rcpu.measure import tasks_sources
from tests.measure.test_tasks import _small_index
from tests.pages import charts, click, finish, open_page, texts, tiles

ROWS = [{"query": f"{i} <b>and</b>", "choices": [f"{i}", "**no**", "or"], "gold": i % 3} for i in range(30)]


@pytest.fixture(autouse=True, scope="module")
def _imported():
    """lm-eval takes seconds to import, and jobs give way to all else: a busy machine would not be done in time."""
    import rcpu.measure.tasks_model  # noqa: F401


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RCPU_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tasks_sources, "_index", _small_index)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "tasks"
    place.mkdir()
    (place / "numbers.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return place


@pytest.fixture
def link(model_folder, text_file, folder) -> dict:
    return {
        "model": model_folder,
        "text": text_file,
        "samples": 8,
        "window": 16,
        "held_out": 2,
        "ratio": 0.5,
        "tasks": "numbers",
        "tasks_folder": folder,
        "task_items": 24,
    }


@pytest.fixture
def loaded(link) -> dict:
    at = open_page(**link)
    if any(b.label == "Load model" and not b.disabled for b in at.button):
        finish(click(at, "Load model"), "load")
    return link


@pytest.fixture
def with_run(loaded) -> dict:
    return dict(finish(click(open_page("prune", **loaded), "Run"), "run").query_params)


def test_without_a_model_the_page_points_to_the_way_there():
    at = open_page("benchmarks", model="/nothing/loaded")
    assert any("No model is loaded" in m.value for m in at.markdown)
    assert not any(b.label == "Run tasks" for b in at.button)


def test_dense_alone_can_be_scored(loaded):
    at = open_page("benchmarks", **loaded)
    assert "No task was run yet" in texts(at, "markdown")
    finish(click(at, "Run tasks"), "bench")
    assert len(charts(at)) == 1
    assert list(tiles(at)) == ["dense: mean accuracy"]
    rows = at.dataframe[0].value
    assert list(rows["model"]) == ["dense", "chance", "always one answer"]
    assert rows["numbers (acc_norm, %)"][1] == "33.33"
    assert "±" in rows["numbers (acc_norm, %)"][0]


def test_models_are_compared_and_their_items_shown(with_run):
    at = finish(click(open_page("benchmarks", **with_run), "Run tasks"), "bench")
    assert len(charts(at)) == 2
    assert len(tiles(at)) == 3
    rows = at.dataframe[1].value
    assert list(rows["items"]) == [24]
    assert "points" in rows["difference [95%]"][0]
    assert 0 <= float(rows["McNemar p"][0]) <= 1
    shown = "".join(h.body for h in at.get("html"))
    assert "&lt;b&gt;and&lt;/b&gt;" in shown, "what a data set says is no markup"
    assert "<b>and" not in shown
    assert "**no**" not in texts(at, "markdown")
    choices = at.dataframe[2].value
    assert list(choices["choice"])[1:] == ["**no**", "or"]
    assert list(choices["right"]).count("✓") == 1
    at.segmented_control(key="set_metric").set_value("acc").run()
    assert "numbers (acc, %)" in at.dataframe[0].value
    assert at.query_params["metric"] == "acc"
    at.multiselect(key="set_compare").set_value(["dense"]).run()
    assert not at.exception
    assert len(charts(at)) == 1
    again = open_page("benchmarks", **dict(at.query_params))
    assert again.dataframe[0].value["model"][0] == "dense", "a link finds the results"


def test_results_are_found_without_their_job_and_not_for_other_items(with_run, folder):
    at = finish(click(open_page("benchmarks", **with_run), "Run tasks"), "bench")
    link = {name: value for name, value in dict(at.query_params).items() if name != "bench"}
    again = open_page("benchmarks", **link)
    assert list(again.dataframe[0].value["model"]) == list(at.dataframe[0].value["model"])
    assert "No task was run yet" in texts(open_page("benchmarks", **{**link, "task_items": 5}), "markdown")
    (folder / "numbers.jsonl").write_text("\n".join(map(json.dumps, ROWS[1:])))
    assert "No task was run yet" in texts(open_page("benchmarks", **link), "markdown")


def test_results_say_what_they_are_of_when_settings_have_moved_on(with_run):
    at = finish(click(open_page("benchmarks", **with_run), "Run tasks"), "bench")
    assert "have changed" not in texts(at, "info")
    at.number_input(key="set_task_items").set_value(3).run()
    assert "at most 24 items each, 0-shot" in texts(at, "info")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tasks": "boolqq"}, "unknown task 'boolqq': did you mean"),
        ({"tasks": "boolq"}, "cannot get the data of the task 'boolq' from the hub"),
        ({"tasks": "nogold"}, "nogold.jsonl, line 1: has no gold: a row with query needs query, choices, gold"),
        ({"tasks": ""}, "no task is chosen"),
    ],
)
def test_bad_input_is_said_in_place(loaded, folder, changes, told):
    (folder / "nogold.jsonl").write_text('{"query": "a", "choices": ["b", "c"]}')
    at = click(open_page("benchmarks", **{**loaded, **changes}), "Run tasks")
    if at.session_state["settings"].bench:
        finish(at, "bench")
    assert told in texts(at, "error").replace("\\", "")


def test_a_folder_that_is_none_is_said(loaded):
    at = open_page("benchmarks", **{**loaded, "tasks_folder": "/no/such"})
    assert "no folder '/no/such'" in texts(at, "error")


def test_the_demo_runs_its_own_tasks_only_and_keeps_nothing(model, monkeypatch, folder):
    monkeypatch.setenv("RCPU_DEMO", "1")
    for names, place, items, told in (
        (("boolq",), "", 10, "not offered by this public demo"),
        (("embedded",), str(folder), 10, "reads no folder"),
        (("embedded",), "", 10_000, "items a task were asked for"),
    ):
        with pytest.raises(Exception, match=told):
            work_tasks.tasks_job(model.tokenizer, {}, names, place, items, 0)
    demo.check_tasks(("embedded", "last_word"), "", demo.DEMO.task_items)


def test_published_numbers_name_their_model(loaded):
    rows = open_page("benchmarks", **loaded).dataframe[-1].value
    assert set(rows["model"]) == {"LLaMA-7B"}
    assert rows["mean"][0] == 66.0
