"""After a restart everything is there: the process is new, the store is what it was, and a link shows the same."""

import contextlib
import sqlite3
from pathlib import Path

import pytest
import streamlit as st

from app import kept, opening
from app.kept import find, opened, place, store, visible_runs
from app.shared import jobs, models
from rcpu import Cancelled, Recipe
from rcpu.runs import open_store, prune_into
from tests import tiny
from tests.pages import charts, click, finish, open_page, texts, tiles


def restart() -> None:
    """Forget all that a process keeps in memory."""
    st.cache_resource.clear()
    kept._place.cache_clear()


@pytest.fixture(autouse=True)
def _own_store(home):
    restart()
    yield
    restart()


@pytest.fixture
def settings(model_folder, text_file) -> dict:
    return {
        "model": model_folder,
        "text": text_file,
        "eval_text": text_file,
        "samples": 8,
        "window": 16,
        "held_out": 2,
        "ratio": 0.5,
        "eval_window": 16,
        "eval_windows": 4,
        "tokens": 6,
        "prompt": "abc",
        "probe": "words of a text",
    }


@pytest.fixture
def link(settings) -> dict:
    """The URL of a session that has pruned, measured, continued and looked at tokens."""
    finish(click(open_page("model", **settings), "Load model"), "load")
    at = finish(click(open_page("prune", **settings), "Run"), "run")
    at = open_page("compare", **dict(at.query_params))
    for label, kind in (
        ("Measure perplexity", "measure"),
        ("Generate", "generate"),
        ("Look at the tokens", "view_tokens"),
    ):
        finish(click(at, label), kind)
    return dict(at.query_params)


def opened_page(page: str, link: dict):
    at = open_page(page, **link)
    while (job := jobs().get(at.session_state["settings"].open)) and job.active:
        job.finished.wait(30)
    return at.run()


def test_a_link_shows_the_same_run_numbers_and_figures_after_a_restart(link):
    def seen():
        at = opened_page("compare", link)
        assert not at.exception
        shown = [frame.value.to_dict() for frame in at.dataframe]
        return tiles(at), shown, charts(at), [h.proto.body for h in at.get("html")]

    before = seen()
    restart()
    assert not jobs().all()
    after = seen()
    assert after[0] == before[0]
    assert after[1] == before[1]
    assert len(after[2]) == len(before[2]) > 2
    assert [f["data"] for f in after[2]] == [f["data"] for f in before[2]]
    assert after[3] == before[3], "texts and tokens, too"


def test_prune_shows_what_was_found_after_a_restart_before_any_model_is_loaded(link):
    before = charts(open_page("prune", **link))
    restart()
    at = open_page("start", **link)
    assert "Your run" in texts(at, "caption")
    finish(click(open_page("model", **link), "Load model"), "load")
    at = open_page("prune", **link)
    assert [f["data"] for f in charts(at)] == [f["data"] for f in before]
    assert "stands in the calibration text" in texts(at, "warning"), "it was measured on what it was calibrated on"


@pytest.mark.parametrize(
    ("more", "last", "far"),
    [({}, "layer 1: o_proj solved", "1 of 3 layers"), ({"method": "flop", "steps": 3}, "step 3,", "2 of 3 steps")],
)
def test_a_run_that_ended_early_is_gone_on_with(settings, model, more, last, far):
    stopped = []

    def stop(p):
        stopped.extend([p.message] if p.message.startswith(last) else [])

    recipe = Recipe(**{k: str(v) if k in ("model", "text") else v for k, v in settings.items() if k in WINDOWS}, **more)
    drawn = kept.rcpu.calibration_windows(
        kept.rcpu.load_text(recipe.text), model.tokenizer, samples=8, window=16, held_out=2, seed=0
    )
    with contextlib.suppress(Cancelled):
        prune_into(store(), model, drawn, recipe, progress=stop, cancelled=lambda: bool(stopped))
    (run,) = visible_runs()
    finish(click(open_page("model", **settings), "Load model"), "load")
    at = open_page("prune", **settings, run=run.id, runs=run.id)
    assert f"cancelled after {far}" in texts(at, "warning")
    finish(click(at, "Go on"), "run")
    assert find(run.id).state == "done"
    assert "What was found" in texts(at, "subheader")


WINDOWS = ("model", "text", "samples", "window", "held_out", "ratio")


def test_models_leave_memory_and_come_back(settings, model):
    models().put(("x", "cpu", "fp32"), model)
    recipe = Recipe(model=str(model.folder), samples=8, window=16, held_out=4)
    ids = []
    for _ in range(6):
        run, result = prune_into(store(), model, tiny.calibration(), recipe)
        kept.bring(run, model, result)
        ids.append(run.id)
    assert [opened().get(i) is not None for i in ids] == [False, False, True, True, True, True]
    at = opened_page("compare", settings | {"runs": ids[0]})
    assert opened().get(ids[0]) is not None
    assert tiles(at)
    assert opened().get(ids[2]) is None


@pytest.mark.parametrize("spoil", ["newer", "file"])
def test_where_no_store_can_be_written_the_app_works_and_says_so(home, settings, spoil):
    if spoil == "newer":
        open_store()
        with sqlite3.connect(home / "runs.sqlite") as db:
            db.execute("PRAGMA user_version = 99")
    else:
        home.rmdir()
        home.write_text("a file in its place")
    restart()
    assert {"newer": "newer version", "file": "cannot make"}[spoil] in place().why_not
    finish(click(open_page("model", **settings), "Load model"), "load")
    at = finish(click(open_page("prune", **settings), "Run"), "run")
    assert len(charts(at)) == 6
    assert Path(store().folder) != home


def test_in_a_demo_nobody_sees_the_run_of_another_and_nothing_is_on_the_disk(home, model, monkeypatch):
    monkeypatch.setenv("RCPU_DEMO", "1")
    restart()
    run, _ = prune_into(store(), model, tiny.calibration(), Recipe(samples=8, window=16, held_out=4))
    assert not list(home.iterdir())
    assert [r.id for r in store().runs()] == [run.id]
    at = open_page("start", runs="")
    assert run.id not in str(at.query_params)
    assert opening.find(run.id) is not None, "whoever has the link may look"


def test_a_link_with_more_runs_than_memory_holds_opens_the_newest_and_stops(settings, model):
    models().put((str(model.folder), "auto", "auto"), model)
    recipe = Recipe(model=str(model.folder), samples=8, window=16, held_out=4)
    ids = [prune_into(store(), model, tiny.calibration(), recipe)[0].id for _ in range(6)]
    link = settings | {"runs": ",".join(ids)}
    for _ in range(3):
        at = opened_page("compare", link)
        link["open"] = at.session_state["settings"].open
    assert [opened().get(i) is not None for i in ids] == [False, False, True, True, True, True]
    assert len(jobs().all("open")) == 1
