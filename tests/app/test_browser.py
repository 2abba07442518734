"""The app in a real browser with the embedded model: every page at two sizes, texts, lessons, what is side by side."""

import re

import pytest
from playwright.sync_api import expect

from tests.app.browsing import BROWSER, PATIENCE, SECONDS, SIZES, rows, saved

pytestmark = BROWSER


def test_every_page_and_view_shows_its_figures_at_both_sizes(url, visit, prepared):
    visitor = visit()
    page = visitor.page
    views = [
        "/model?",
        "/calibration?calibration_view=inputs&",
        *(f"/importance?view={view}&" for view in ("cut", "layers", "factors", "scorers", "unit")),
        *(f"/rotation?spectrum={view}&" for view in ("spectrum", "angles", "errors", "space")),
        "/prune?",
        "/learn?lesson=0&",
    ]
    for i, view in enumerate(views):  # at one size when it is opened, then at the other
        page.goto(url + view + prepared)
        visitor.figures()
        visitor.is_well()
        visitor.resize(SIZES[1 - i % 2])
        visitor.is_well()
    page.goto(f"{url}/learn?lesson=2&{prepared}")  # a picture of its own, to drag
    for size in SIZES:
        visitor.resize(size)
        page.get_by_role("group", name="Targets Y").wait_for()
        visitor.is_well()


def test_texts_and_tokens_side_by_side(url, visit, prepared):
    visitor = visit()
    page = visitor.page
    page.goto(f"{url}/compare?{prepared}")
    page.get_by_role("button", name="Generate").click()
    # Reload in the middle: the page finds its job again and the texts go on.
    page.wait_for_url(re.compile("generate="))
    page.reload()
    page.get_by_text("tokens/s decoding").nth(2).wait_for()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0, timeout=PATIENCE)
    assert "lighthouse" not in page.url, "the default prompt stays out of the URL"
    page.get_by_role("button", name="Measure perplexity").click()
    visitor.figures(2)
    labels = [row[1] for row in rows(saved(page, page, "CSV").path().read_text())[1:]]
    assert labels[0] == "dense", "labels and not keys"
    assert labels[1].endswith("not repaired")
    assert "<" not in "".join(labels)
    page.get_by_role("button", name="Look at the tokens").click()
    visitor.figures(3)
    page.locator("span[title*='KL from the reference']").nth(10).wait_for()
    visitor.is_well()
    visitor.resize(SIZES[1])
    visitor.is_well()


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_a_lesson_stands_beside_its_picture_where_there_is_room(url, visit, prepared, size):
    page = visit(size).page
    for number in range(6):
        page.goto(f"{url}/learn?lesson={number}&{prepared}")
        text, picture = page.locator(".katex-display").first, page.get_by_text("Try it.")
        text.wait_for()
        beside = picture.bounding_box()["x"] > text.bounding_box()["x"] + text.bounding_box()["width"]
        assert beside == (size == SIZES[0])
        wide = text.evaluate("e => e.scrollWidth - e.clientWidth")
        assert wide <= 0, f"the formula of lesson {number + 1} needs sideways scrolling by {wide}"


def test_tiles_stand_in_one_row_beside_a_scrollbar(url, visit, prepared):
    visitor = visit()
    page = visitor.page
    for view, tiles in (("spectrum", 4), ("angles", 5), ("space", 4)):
        page.goto(f"{url}/rotation?spectrum={view}&{prepared}")
        found = page.locator(".rcpu-tiles > div")
        found.nth(tiles - 1).wait_for()
        heights = found.evaluate_all("tiles => [...new Set(tiles.map(t => Math.round(t.getBoundingClientRect().y)))]")
        assert len(heights) == 1, view
    left, right = page.locator(".js-plotly-plot").first, page.locator(".js-plotly-plot").nth(1)
    right.wait_for()
    assert right.bounding_box()["x"] > left.bounding_box()["x"]
    visitor.resize(SIZES[1])
    page.wait_for_function(
        "[a, b] = document.querySelectorAll('.js-plotly-plot'),"
        " Math.abs(a.getBoundingClientRect().x - b.getBoundingClientRect().x) < 2"
    )  # where there is no room beside it, it stands below


def test_the_answer_of_the_next_lesson_stays_shut(url, visit, prepared):
    visitor = visit()
    page = visitor.page
    page.goto(f"{url}/learn?lesson=2&{prepared}")
    said = page.get_by_text("Nothing has to be turned")
    page.get_by_text("Answer", exact=True).click()
    expect(said).to_be_visible()
    page.get_by_role("button", name="Next: Why variance").click()
    page.get_by_role("heading", name="4. Why the score looks at variance").wait_for()
    visitor.figures()
    expect(page.get_by_text("What is lost is almost the same vector")).not_to_be_visible()
    page.get_by_role("button", name="Back: Procrustes").click()
    page.get_by_role("heading", name="3. The best rotation").wait_for()
    page.wait_for_timeout(2 * SECONDS)
    expect(said).not_to_be_visible()
    visitor.is_well()
