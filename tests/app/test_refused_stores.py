"""Benchmarks, Experiments and Runs where the store refuses: of a newer version, or on a disk that takes nothing."""

import json
import sqlite3

import pytest
import streamlit as st

from app import kept
from app.shared import models
from rcpu import Recipe
from rcpu.measure import tasks_sources
from rcpu.runs import open_store, prune_into
from tests import tiny
from tests.measure.test_tasks import _small_index
from tests.pages import charts, click, finish, open_page, texts

ROWS = [{"query": f"{i} and", "choices": [f"{i}", "no", "or"], "gold": i % 3} for i in range(12)]
WORDS = {"newer": "newer version", "read-only": "can be read, but not written"}


@pytest.fixture(autouse=True, scope="module")
def _imported():
    """lm-eval takes seconds to import, and jobs give way to all else: a busy machine would not be done in time."""
    import rcpu.measure.tasks_model  # noqa: F401


@pytest.fixture
def link(model, text_file, tmp_path, monkeypatch) -> dict[str, str]:
    """A loaded tiny model, and tasks to run."""
    monkeypatch.setenv("RCPU_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tasks_sources, "_index", _small_index)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "numbers.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    models().put((str(model.folder), "cpu", "fp32"), model)
    where = {"model": str(model.folder), "device": "cpu", "dtype": "fp32", "text": str(text_file)}
    study = {"samples": 6, "window": 16, "held_out": 2, "study_ratios": "0.3", "study_limit": 8}
    return {**where, **study, "eval_text": str(text_file), "tasks": "numbers", "tasks_folder": str(tmp_path / "tasks")}


@pytest.fixture(params=WORDS)
def refusal(request, home, model):
    """A store with one run that cannot be written; yields what it says."""
    prune_into(open_store(), model, tiny.calibration(), Recipe(samples=8, window=16, held_out=4), name="kept before")
    places = [home, *home.rglob("*")]
    if request.param == "newer":
        with sqlite3.connect(home / "runs.sqlite") as db:
            db.execute("PRAGMA user_version = 99")
    else:
        request.getfixturevalue("modes_hold")
        for place in places:
            place.chmod(0o555 if place.is_dir() else 0o444)
    st.cache_resource.clear()
    kept._place.cache_clear()
    yield request.param
    st.cache_resource.clear()
    kept._place.cache_clear()
    for folder in (place for place in places if place.is_dir()):
        folder.chmod(0o755)


def test_runs_says_so_and_shows_what_can_be_read(refusal):
    at = open_page("runs")
    assert WORDS[refusal] in texts(at, "warning")
    if refusal == "newer":
        assert "No run is kept yet" in texts(at, "markdown")
    else:
        assert list(at.dataframe[0].value["name"]) == ["kept before"]


def test_benchmarks_says_so_and_its_results_last_as_long_as_the_process(refusal, link):
    at = finish(click(open_page("benchmarks", **link), "Run tasks"), "bench")
    assert WORDS[refusal] in texts(at, "warning")
    assert list(at.dataframe[0].value["model"]) == ["dense", "chance", "always one answer"]
    again = open_page("benchmarks", **link)
    assert len(charts(again)) == 1


def test_experiments_says_so_and_a_study_runs(refusal, link):
    at = open_page("experiments", **link)
    assert WORDS[refusal] in texts(at, "warning")
    at = finish(click(at, "Run the study"), "experiment")
    assert len(charts(at)) == 1
    assert "Repairing both" in "".join(e.proto.body for e in at.get("html"))
