"""Figures in a real browser: clicked, zoomed, boxed, redrawn in place, downloaded."""

import re

import plotly.graph_objects as go
import pytest
from playwright.sync_api import Page, expect

from tests.app.browsing import BROWSER, SECONDS, SIZES, rows, saved
from tests.pages import read_figure
from tests.tables import to_csv

pytestmark = BROWSER


def test_a_click_on_a_point_shows_its_unit_below(url, visit, prepared):
    visitor = visit()
    page = visitor.page
    page.goto(f"{url}/importance?{prepared}&site=down_proj")
    point = page.locator(".js-plotly-plot .scatterlayer .points path").nth(20)
    point.wait_for()
    page.wait_for_timeout(2 * SECONDS)
    box = point.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_url(re.compile(r"shown_unit=\d+"))
    unit = re.search(r"shown_unit=(\d+)", page.url)[1]
    page.get_by_role("heading", name=re.compile(f"Channel {unit} (stays|goes)")).wait_for()
    page.get_by_text("What am I looking at?").first.click()
    page.get_by_text("Units in the order of their scores").wait_for()
    visitor.is_well()


@pytest.mark.parametrize("view", ["importance?view=cut", "importance?view=factors", "rotation?spectrum=space"])
def test_figures_download_as_csv_json_and_a_page_of_their_own(url, visit, prepared, tmp_path, view):
    visitor = visit()
    page = visitor.page
    page.goto(f"{url}/{view}&{prepared}&site=down_proj")
    visitor.figures(2 if "cut" not in view else 1)
    figures = page.locator("[data-testid=stBidiComponentRegular]").filter(has_text="What am I looking at?")
    for figure in figures.all():
        as_json, as_csv = saved(page, figure, "JSON"), saved(page, figure, "CSV")
        assert as_csv.suggested_filename == as_json.suggested_filename.replace(".json", ".csv")
        expected = to_csv(go.Figure(read_figure(as_json.path().read_text())))
        assert rows(as_csv.path().read_text()) == rows(expected)
    html = saved(page, figures.last, "HTML")
    assert html.suggested_filename.endswith(".html")
    html.save_as(tmp_path / "figure.html")
    alone = visitor.context.new_page()
    alone.goto((tmp_path / "figure.html").as_uri())
    alone.locator(".js-plotly-plot .main-svg").first.wait_for()
    words = figures.last.locator("details > div").evaluate("e => e.textContent")
    shown = alone.locator("body > div").last.evaluate("e => e.textContent")
    assert "".join(words.split()) == "".join(shown.split())
    assert alone.title()
    assert alone.locator(".gtitle").text_content() == page.locator(".gtitle").last.text_content()
    visitor.is_well()


FIGURE = "document.querySelector('.js-plotly-plot')"


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Press the mouse at one place and let it go at another."""
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=5)
    page.mouse.up()


def test_a_figure_is_redrawn_in_place_and_stays_as_it_was_zoomed(url, visit, prepared):
    visitor = visit()
    page = visitor.page
    page.goto(f"{url}/importance?{prepared}&site=down_proj")
    visitor.figures()
    page.get_by_text("What am I looking at?").wait_for()
    area = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    at = [(area["x"] + area["width"] * share, area["y"] + area["height"] / 2) for share in (0.2, 0.7)]
    drag(page, *at)
    page.wait_for_function(f"{FIGURE}.layout.xaxis.range[0] > 0")
    zoomed = page.evaluate(f"window.seen = {FIGURE}.querySelector('.main-svg'), {FIGURE}.layout.xaxis.range")
    names = page.locator(".js-plotly-plot .legendtext").all_text_contents()
    slider = page.get_by_role("slider", name="Ratio")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_url(re.compile("ratio=0.25"))
    expect(page.locator(".js-plotly-plot .legendtext").first).not_to_have_text(names[0])
    assert page.evaluate(f"window.seen === {FIGURE}.querySelector('.main-svg')"), "the figure was built anew"
    assert page.evaluate(f"{FIGURE}.layout.xaxis.range") == zoomed
    # Another layer's axes mean something else.
    page.get_by_role("slider", name="Layer").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"{FIGURE}.layout.xaxis.range[0] < 0")
    page.locator(".js-plotly-plot").first.hover()
    buttons = page.locator(".js-plotly-plot").first.locator(".modebar-btn")
    titles = buttons.evaluate_all("all => all.map(button => button.dataset.title)")
    assert not [title for title in titles if re.search("cloud|share|select", title, re.IGNORECASE)], titles
    page.locator("[data-title='Full screen']").first.click()
    page.wait_for_function(f"{FIGURE}._fullLayout.width === {SIZES[0][0]}")
    page.evaluate("document.exitFullscreen()")
    page.wait_for_function(f"{FIGURE}._fullLayout.width < {SIZES[0][0]}")
    light = page.evaluate(f"{FIGURE}._fullLayout.paper_bgcolor")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"{FIGURE}._fullLayout.paper_bgcolor !== '{light}'")
    visitor.is_well()


def test_a_figure_out_of_sight_is_redrawn_when_it_is_scrolled_to(url, visit, prepared):
    visitor = visit(SIZES[1])
    page = visitor.page
    page.goto(f"{url}/rotation?{prepared}&spectrum=angles")
    visitor.figures(4)
    page.get_by_text("What am I looking at?").nth(3).wait_for()
    first, last = ([*page.locator(".js-plotly-plot").all()][i] for i in (0, -1))
    drawn = "figure => JSON.stringify(figure.data.map(trace => trace.y))"
    before, words = [figure.evaluate(drawn) for figure in (first, last)], last.get_attribute("aria-label")
    assert last.bounding_box()["y"] > 1.2 * SIZES[1][1]
    page.get_by_role("slider", name="Ratio").focus()
    page.keyboard.press("ArrowRight")
    expect(last).not_to_have_attribute("aria-label", words)
    changed = f"([figure, before]) => ({drawn})(figure) !== before"
    page.wait_for_function(changed, arg=[first.element_handle(), before[0]])
    page.wait_for_timeout(1 * SECONDS)
    assert last.evaluate(drawn) == before[1]
    last.scroll_into_view_if_needed()
    page.wait_for_function(changed, arg=[last.element_handle(), before[1]])
    visitor.is_well()


def test_a_box_on_the_map_picks_layers(url, visit, prepared):
    visitor = visit()
    page = visitor.page
    page.goto(f"{url}/prune?{prepared}")
    visitor.figures()
    page.get_by_text("3 of 30 layers").wait_for()
    figure = page.locator(".js-plotly-plot").first
    figure.evaluate("figure => figure.scrollIntoView({block: 'center'})")  # a click on a button below would scroll
    boxes = [square.bounding_box() for square in figure.locator(".points path").all()]
    columns = sorted({round(box["x"]) for box in boxes})
    top = min(box["y"] for box in boxes)
    bottom, wide = max(box["y"] + box["height"] for box in boxes), boxes[0]["width"]
    around = (columns[4] - 2, top - 4), (columns[6] + wide + 2, bottom + 4)
    only = page.get_by_role("button", name="Prune only layers 4-6")
    drag(page, *around)
    only.wait_for()
    page.mouse.dblclick(columns[10] - 4, (top + bottom) / 2)  # between two columns and two rows: nothing there
    expect(only).to_have_count(0)
    page.wait_for_timeout(SECONDS)  # nobody draws a box within a double click
    drag(page, *around)
    only.click()
    page.wait_for_url(re.compile("layers=4-6"))
    expect(only).to_have_count(0)
    page.wait_for_timeout(SECONDS)
    assert page.evaluate(f"{FIGURE}._context.doubleClickDelay") <= 250, "two quick clicks would be a double click"
    for column, names in ((8, "8"), (12, "8,12"), (16, "8,12,16")):
        page.mouse.click(columns[column] + wide / 2, top + wide / 2)
        page.get_by_role("button", name=f"Prune only layers {names}", exact=True).wait_for()
        page.wait_for_timeout(0.5 * SECONDS)
    page.mouse.click(columns[12] + wide / 2, top + wide / 2)  # once more lets go of it
    page.get_by_role("button", name="Prune only layers 8,16").wait_for()
    page.wait_for_url(re.compile("picked=8%2C16"))
    other = visit()
    other.page.goto(page.url)
    other.page.get_by_role("button", name="Prune only layers 8,16").wait_for()
    other.figures()
    assert other.page.evaluate(f"[...{FIGURE}.data.find(t => t.name === 'picked').x]") == [8, 8, 16, 16]
    visitor.is_well()
    other.is_well()


def test_a_note_about_a_reflection_leaves_the_figure_where_it_is(url, visit, prepared):
    visitor = visit()
    page = visitor.page
    page.goto(f"{url}/rotation?spectrum=space&{prepared}&site=o_proj&ratio=0.05")
    visitor.figures()
    note = page.get_by_text("no path of rotations leads from the identity to it")
    expect(note).to_have_count(0)
    page.evaluate(f"{FIGURE}.dataset.known = 'yes'")
    for _ in range(12):  # which ratios have a reflection depends on the model
        page.get_by_role("slider", name="Ratio").focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(2 * SECONDS)
        if note.count():
            break
    expect(note).to_be_visible()
    assert page.evaluate(f"{FIGURE}.dataset.known") == "yes"
    visitor.is_well()


def test_without_its_script_a_figure_says_so(url, visit, prepared):
    visitor = visit()
    page = visitor.page
    page.route("**/plotly.min.js*", lambda route: route.abort())
    page.goto(f"{url}/importance?{prepared}")
    page.get_by_text("The figure could not be drawn.").first.wait_for()
    # The next change of the figure tries again.
    page.unroute("**/plotly.min.js*")
    page.get_by_role("slider", name="Ratio").focus()
    page.keyboard.press("ArrowRight")
    visitor.figures()
    expect(page.get_by_text("The figure could not be drawn.")).to_have_count(0)
