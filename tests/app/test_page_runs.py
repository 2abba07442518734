"""The page Runs: empty, ready, and with bad input."""

import shlex
import sqlite3

import pytest
import streamlit as st

from app import kept, run_panels
from app.figures import runs as figures
from app.kept import store, visible_runs
from app.shared import jobs, models
from rcpu import Perplexity, Recipe
from rcpu.runs import Row, dense_subject, keep_perplexity, open_store, prune_into, published
from tests import tiny
from tests.pages import charts, click, finish, open_page, texts, tiles


def restart() -> None:
    st.cache_resource.clear()
    kept._place.cache_clear()


@pytest.fixture(autouse=True)
def _own_store(home):
    restart()
    yield
    restart()


@pytest.fixture
def two(model) -> list[str]:
    """Ids of two runs with perplexities, the newest first, and of a dense model beside them."""
    ids = []
    for name, value, settings in (("first", 9.0, {}), ("second", 8.0, {"ratio": 0.3, "scorer": "flap"})):
        recipe = Recipe(model=str(model.folder), samples=8, window=16, held_out=4, **settings)
        run, _ = prune_into(store(), model, tiny.calibration(), recipe, name=name)
        keep_perplexity(store(), run.id, measured(value), "fp32")
        ids.insert(0, run.id)
    keep_perplexity(store(), dense_subject(model.fingerprint, "fp32"), measured(6.0), "fp32")
    return ids


def measured(value: float) -> Perplexity:
    losses = tuple(value / 10 + i / 100 for i in range(4))
    return Perplexity(value, 60, 16, 4, "some text", (0.1,) * 15, losses, "w")


def names(at) -> list[str]:
    return list(at.dataframe[0].value["name"])


def test_it_is_empty_at_first_and_says_what_to_do():
    at = open_page("runs")
    assert "No run is kept yet" in texts(at, "markdown")
    assert not at.dataframe


def test_it_lists_what_is_kept_and_shows_the_newest_in_full(two, model):
    at = open_page("runs")
    assert names(at) == ["second", "first"]
    assert list(at.dataframe[0].value["perplexity"]) == [8.0, 9.0]
    (figure,) = charts(at)
    runs = next(trace for trace in figure["data"] if trace["name"] == "runs")
    assert runs["y"] == pytest.approx([8 / 6, 9 / 6])
    assert any("LLaMA-7B" in trace["name"] for trace in figure["data"]), "published points name their model"
    assert "second" in texts(at, "subheader")
    assert tiles(at)["Perplexity, some text"] == "8.00"
    said = texts(at, "caption")
    for told in ("As **compact**: loads in :green-badge[transformers 5]", "As **stock**: not: layer 0 has values"):
        assert told in said
    assert "As **padded**: loads in" in said
    assert ":gray-badge[vLLM]" in said
    code = [block.value for block in at.code]
    assert "scorer: flap" in code[0]
    assert shlex.split(code[1])[:4] == ["python", "-m", "rcpu", "prune"]
    assert "rcpu.prune(model.net, windows, recipe)" in code[2]
    assert "8.000 [" in next(iter(at.dataframe[1].value["result"])), "a perplexity has its interval"
    assert {"Recipe", "Report"} <= {b.proto.label for b in at.get("download_button")}
    assert "some text" in run_panels._report(store().get(two[0]))
    at.toggle(key="set_runs_relative").set_value(False).run()
    assert next(t for t in charts(at)[0]["data"] if t["name"] == "runs")["y"] == [8.0, 9.0]


def test_it_filters_by_words_and_state(two):
    at = open_page("runs", runs_find="flap")
    assert names(at) == ["second"]
    at.text_input(key="set_runs_find").set_value("").run()
    assert names(at) == ["second", "first"]
    at.selectbox(key="set_runs_state").select("failed").run()
    assert "No run matches" in texts(at, "info")
    assert "No run matches" in texts(open_page("runs", runs_find="$^nothing[*"), "info")


def test_two_runs_stand_side_by_side_with_what_differs_first(two):
    at = open_page("runs", picked_runs=",".join(two))
    table = at.dataframe[1].value
    assert list(table["setting"][:2]) == ["ratio", "scorer"]
    assert list(table["second"][:2]) == ["0.3", "flap"]
    assert list(table["first"][:2]) == ["0.2", "rcpu"]
    assert list(table["differs"][:3]) == [True, True, False]
    told = dict(zip(table["setting"], table["second"], strict=True))
    assert told["perplexity [95%]"].startswith("8.000 [")
    assert "paired over windows" in texts(at, "caption")


def test_names_tags_and_note_are_kept(two):
    at = open_page("runs", picked_runs=two[1])
    at.text_input(key=f"name-{two[1]}").set_value("*my* run").run()
    at.text_input(key=f"tags-{two[1]}").set_value("a, b").run()
    at.text_input(key=f"note-{two[1]}").set_value("for the talk").run()
    run = open_store().get(two[1])
    assert (run.name, run.tags, run.note) == ("*my* run", ("a", "b"), "for the talk")
    assert names(open_page("runs", runs_find="talk")) == ["*my* run"]


def test_a_run_is_deleted_only_when_that_is_confirmed(two):
    at = open_page("runs", picked_runs=two[0], runs=",".join(two))
    assert len(visible_runs()) == 2
    click(at, "Yes, delete")
    assert [run.id for run in visible_runs()] == [two[1]]
    assert names(at) == ["first"]
    assert at.query_params["runs"] == [two[1]] or at.query_params["runs"] == two[1]


def test_a_run_is_run_again_and_its_settings_are_taken(two, model):
    models().put((str(model.folder), "auto", "auto"), model)
    at = open_page("runs", picked_runs=two[0], evaluate=0)
    click(at, "Run again")
    finish(at, "run")
    newest, *_ = visible_runs()
    assert (newest.name, newest.recipe) == ("second", store().get(two[0]).recipe)
    at = open_page("runs", picked_runs=two[1])
    click(at, "Take its settings")
    assert at.session_state["settings"].recipe() == Recipe.from_dict(store().get(two[1]).recipe)


def test_what_did_not_end_says_so_and_can_be_freed(two):
    with (
        pytest.raises(ValueError, match="broke"),
        store().begin(
            name="third",
            recipe=Recipe().to_dict(),
            content="",
            fingerprint="f",
            about={"model": "m", "dtype": "fp32", "device": "cpu", "layers": 3},
        ),
    ):
        raise ValueError("it broke")
    at = open_page("runs")
    assert "Failed after 0 of 3 layers\\: it broke" in texts(at, "warning")
    free = next(b for b in at.button if b.label == "Yes, delete" and "Free" in b.key)
    free.click()
    at.run()
    assert names(at) == ["second", "first"]


def test_a_recipe_with_unknown_keys_is_refused_in_a_sentence(two):
    at = open_page("runs")
    at.file_uploader(key="recipe_file").set_value(("r.yaml", b"ratio: 0.3\ncake: 1\n", "application/yaml")).run()
    assert "unknown settings in the recipe\\: cake" in texts(at, "error")
    at.file_uploader(key="recipe_file").set_value(("r.yaml", b"ratio: 0.35\nscorer: flap\n", "application/yaml")).run()
    assert at.session_state["settings"].ratio == 0.35
    assert at.session_state["settings"].scorer == "flap"


def test_unknown_runs_and_words_in_a_link_break_nothing(two):
    at = open_page("runs", picked_runs="gone,x", runs_x="colour", runs_y="taste", runs_on="nothing", runs_state="odd")
    assert names(at) == ["second", "first"]


def test_a_store_of_a_newer_version_is_said_and_left_alone(home):
    open_store()
    with sqlite3.connect(home / "runs.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    restart()
    at = open_page("runs")
    assert "newer version" in texts(at, "warning")
    assert "No run is kept yet" in texts(at, "markdown")


def test_a_store_that_cannot_be_written_is_read_all_the_same(two, monkeypatch):
    restart()
    plain = kept.open_store

    def unwritable(folder):
        found = plain(folder)
        found.refusal = "the run store can be read, but not written"
        return found

    monkeypatch.setattr(kept, "open_store", unwritable)
    at = open_page("runs", picked_runs=two[0])
    assert "can be read, but not written" in texts(at, "warning")
    assert names(at) == ["second", "first"]
    assert tiles(at)["Perplexity, some text"] == "8.00"


def test_in_a_demo_only_the_runs_of_the_link_are_seen(monkeypatch, model):
    monkeypatch.setenv("RCPU_DEMO", "1")
    restart()
    for name in ("mine", "another's"):
        prune_into(store(), model, tiny.calibration(), Recipe(samples=8, window=16, held_out=4), name=name)
    _, mine = store().runs()
    assert "No run is kept yet" in texts(open_page("runs"), "markdown")
    assert names(open_page("runs", runs=mine.id)) == ["mine"]
    assert names(open_page("runs", runs=f"{mine.id},{'0' * 16}")) == ["mine"]


def test_points_are_absolute_or_relative_and_missing_values_leave_a_run_out():
    def row(**values) -> Row:
        run = visible_run()
        return Row(run, **{"parameters": 80e6, "dense_parameters": 100e6, **values})

    x, y = figures.SIZES["parameters"], figures.QUALITIES["accuracy"]
    rows = [row(accuracy=0.6, dense_accuracy=0.8), row(accuracy=0.5), row()]
    assert [p[1:] for p in figures.placed(rows, x, y, False)] == [(80.0, 60.0), (80.0, 50.0)]
    assert [p[1:] for p in figures.placed(rows, x, y, True)] == [(0.8, pytest.approx(0.75))]
    drawn = figures.size_quality(rows, x, y, relative=True, picked=[], field=published())
    assert {t.name for t in drawn.data} == {"RCPU, LLaMA-7B", "dense", "runs"}, "without accuracy no point"
    assert drawn.layout.meta["alt"]


def visible_run():
    with store().begin(
        name="r<b>", recipe=Recipe().to_dict(), content="", fingerprint="f", about={"model": "m", "dtype": "fp32"}
    ) as run:
        run.finish({})
    return store().get(run.id)


def test_no_job_is_left():
    assert not [job for job in jobs().all() if job.active]


def test_a_demo_keeps_no_more_runs_than_its_memory(monkeypatch, model):
    monkeypatch.setenv("RCPU_DEMO", "1")
    restart()
    for _ in range(10):
        run, result = prune_into(store(), model, tiny.calibration(), Recipe(samples=8, window=16, held_out=4))
        kept.bring(run, model, result)
    assert len(store().runs()) == 8
    assert store().runs()[0].id == run.id


def test_a_run_of_another_version_is_listed_and_says_so(two):
    recipe = Recipe().to_dict()
    recipe["options"]["cake"] = 1
    about = {"model": "m", "dtype": "fp32", "device": "cpu", "layers": 3, "notes": []}
    with store().begin(name="odd", recipe=recipe, content="", fingerprint="f", about=about) as run:
        run.finish({})
    at = open_page("runs", picked_runs=run.id)
    assert names(at)[0] == "odd"
    assert "by another version" in at.dataframe[0].value["what it does"][0]
    assert "unknown settings in the recipe" in texts(at, "error")
    link = {"runs": f"{two[0]},{run.id}", "run": run.id}
    assert not open_page("start", **link).exception
