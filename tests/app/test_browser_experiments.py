"""Experiments in a real browser at two sizes: empty, with the findings of a tiny model, and with bad input."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import rcpu
from rcpu.runs import STUDIES, Bench, open_store, run_study, sized
from tests import serve, tiny
from tests.app.browsing import BROWSER, SIZES

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
    page.get_by_text("Ratios must be numbers like 1,2,3; got 'much'").wait_for()
    page.wait_for_url(re.compile("study_ratios=much"))


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
