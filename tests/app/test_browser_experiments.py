"""Experiments, Runs and Benchmarks in a real browser at two sizes: empty, with a tiny model, and with bad input."""

import json
import re
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

import rcpu
from rcpu.runs import STUDIES, Bench, open_store, run_study, sized
from tests import serve, tiny
from tests.app.browsing import BROWSER, SIZES, Visitor

pytestmark = BROWSER


@pytest.fixture(scope="module")
def url(tmp_path_factory, text_file):
    """An app whose store has two studies of a tiny model."""
    home = tmp_path_factory.mktemp("home")
    model = rcpu.Model("tiny", tiny.net("gqa"), tiny.tokenizer(), Path("/nowhere"), "fingerprint-gqa")
    for name in ("table3", "fig2"):
        asked = sized(STUDIES[name], text=str(text_file), evaluation=str(text_file), limit=8)
        asked = replace(asked, settings={"samples": 6, "window": 16, "held_out": 2})
        run_study(STUDIES[name], asked, Bench(model), open_store(home))
    with serve.app(tmp_path_factory.mktemp("app") / "log.txt", RCPU_PREPARE="0", RCPU_HOME=str(home)) as address:
        yield address


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """An app whose store is of a newer version: it has no runs, and keeps none."""
    home = tmp_path_factory.mktemp("newer")
    with sqlite3.connect(open_store(home).file) as db:
        db.execute("PRAGMA user_version = 99")
    with serve.app(tmp_path_factory.mktemp("app") / "log.txt", RCPU_PREPARE="0", RCPU_HOME=str(home)) as address:
        yield address


@pytest.fixture(scope="module")
def loaded(url, chromium, model_folder) -> Path:
    """A tiny model that was loaded on the server, once for all visitors."""
    visitor = Visitor(chromium)
    visitor.page.goto(f"{url}/model?model={model_folder}")
    visitor.page.get_by_role("button", name="Load model").click()
    visitor.page.get_by_text("Query / KV heads").wait_for()
    visitor.context.close()
    return model_folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """A folder with a task, and one whose rows have no gold."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"query": f"{i} and", "choices": [f"{i}", "no", "or"], "gold": i % 3} for i in range(12)]
    (folder / "numbers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "nogold.jsonl").write_text('{"query": "a", "choices": ["b", "c"]}')
    return folder


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_experiments_at_both_sizes(url, visit, size):
    visitor = visit(size)
    page = visitor.page
    page.goto(f"{url}/experiments?study=fig3")
    page.get_by_text("Nothing of this study has been run here").wait_for()
    visitor.is_well()
    page.goto(f"{url}/experiments?study=fig2")
    visitor.figures(2)
    visitor.is_well()
    page.goto(f"{url}/experiments")
    visitor.figures(1)
    page.get_by_text("Repairing both is better than repairing o_proj alone.").last.wait_for()
    visitor.is_well()
    page.get_by_label("Ratios").fill("much")
    page.get_by_label("Ratios").press("Enter")
    page.get_by_text("Ratios must be numbers like 0.1,0.2,0.3; got 'much'").wait_for()
    page.wait_for_url(re.compile("study_ratios=much"))


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_runs_at_both_sizes(url, visit, size, tmp_path):
    visitor = visit(size)
    page = visitor.page
    page.goto(f"{url}/runs")
    visitor.figures(1)
    page.get_by_text("Do it again").wait_for()
    visitor.is_well()
    page.get_by_label("Find").fill("no such run")
    page.get_by_label("Find").press("Enter")
    page.get_by_text("No run matches").wait_for()
    visitor.is_well()
    (tmp_path / "odd.yaml").write_text("ratio: 0.3\ncake: 1\n")
    page.goto(f"{url}/runs")
    page.get_by_role("button", name="Open a recipe").click()
    page.locator("input[type=file]").set_input_files(tmp_path / "odd.yaml")
    page.get_by_text("unknown settings in the recipe: cake").wait_for()
    visitor.is_well()


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_benchmarks_at_both_sizes(url, visit, size, loaded, tasks):
    visitor = visit(size)
    page, link = visitor.page, f"model={loaded}&tasks_folder={tasks}&task_items=12"
    page.goto(f"{url}/benchmarks?{link}&tasks=nogold")
    page.get_by_text("No task was run yet").wait_for()
    visitor.is_well()
    page.get_by_role("button", name="Run tasks").click()
    page.get_by_text("has no gold: a row with query needs query, choices, gold").wait_for()
    visitor.is_well()
    page.goto(f"{url}/benchmarks?{link}&tasks=numbers")
    page.get_by_role("button", name="Run tasks").click()
    visitor.figures(1)
    visitor.is_well()
    if size == SIZES[0]:  # to tell a name from all that lm-eval has takes long
        page.goto(f"{url}/benchmarks?{link}&tasks=numberss")
        page.get_by_role("button", name="Run tasks").click()
        page.get_by_text("unknown task 'numberss'").wait_for()
        visitor.is_well()


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_pages_are_empty_where_the_store_is_of_a_newer_version_and_say_so(refused, visit, size):
    visitor = visit(size)
    page = visitor.page
    for view, words in (
        ("runs", ("Runs are kept only until this app ends", "newer version", "No run is kept yet")),
        ("experiments", ("Studies are kept only until this app ends", "Nothing of this study has been run here")),
        ("benchmarks", ("No model is loaded",)),
    ):
        page.goto(f"{refused}/{view}?model=/nothing/loaded")
        for said in words:
            page.get_by_text(said).first.wait_for()
        visitor.is_well()


def test_the_report_of_the_page_stands_alone_and_hovers(url, visit, tmp_path):
    page = visit().page
    page.goto(f"{url}/experiments")
    with page.expect_download() as caught:
        page.get_by_role("button", name="Report").click()
    caught.value.save_as(tmp_path / "report.html")
    other = page.context.new_page()
    other.route("**/*", lambda route: route.continue_() if route.request.url.startswith("file:") else route.abort())
    other.goto((tmp_path / "report.html").as_uri())
    other.locator(".figure .main-svg").first.wait_for()
    assert other.locator(".figure .main-svg").count() >= 2
    other.locator(".figure .scatterlayer .points path").first.scroll_into_view_if_needed()
    box = other.locator(".figure .scatterlayer .points path").first.bounding_box()
    for step in (30, 0):  # a mouse that moves
        other.mouse.move(box["x"] + box["width"] / 2 + step, box["y"] + box["height"] / 2)
    other.locator(".hoverlayer .hovertext").first.wait_for()
