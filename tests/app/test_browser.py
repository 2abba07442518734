"""The app in a real browser with the embedded model: every page at two sizes, links, reloads, cancelling, console."""

import csv
import io
import os
import re

import plotly.graph_objects as go
import pytest
from playwright.sync_api import Download, Locator, Page, expect

from tests import serve
from tests.pages import read_figure
from tests.tables import to_csv

SECONDS = 1000  # playwright counts milliseconds
PATIENCE = 240 * SECONDS
SETTINGS = "samples=8&held_out=2&layers=0-2&layer=1&tokens=12&eval_windows=4"
SIZES = ((1440, 900), (1024, 768))

pytestmark = [
    pytest.mark.browser,
    pytest.mark.embedded,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        serve.CHROMIUM is None and not os.environ.get("CI"), reason="needs Chromium: apt-get install chromium"
    ),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with serve.app(tmp_path_factory.mktemp("app") / "log.txt", RCPU_PREPARE="0") as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    with serve.browser() as chromium:
        yield chromium


class Visitor:
    """A browser context of its own, with everything that went wrong in it."""

    def __init__(self, chromium, size=SIZES[0]):
        self.context = chromium.new_context(viewport={"width": size[0], "height": size[1]})
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.broken: list[str] = []
        self.page.on("pageerror", lambda error: self.broken.append(str(error)))
        self.page.on("console", self._heard)

    def _heard(self, message) -> None:
        if message.type == "error":
            self.broken.append(f"{message.text} {message.location}")

    def figures(self, count: int = 1) -> None:
        """Wait for this many figures, with something drawn in the last."""
        self.page.locator(".js-plotly-plot .main-svg").nth(count - 1).wait_for()

    def is_well(self) -> None:
        """Nothing broke, no page shows an error, and nothing needs sideways scrolling."""
        assert not self.broken
        assert not self.page.locator("[data-testid=stException]").count()
        wide = self.page.evaluate(
            "[document.scrollingElement, document.querySelector('[data-testid=stMain]')]"
            ".map(e => e.scrollWidth - e.clientWidth)"
        )
        assert max(wide) <= 1, f"{self.page.url} is wider than its window by {wide}"


@pytest.fixture
def visit(chromium):
    """Makes visitors who leave at the end of the test: pages that stay open go on drawing and polling."""
    visitors = []

    def comes(size=SIZES[0]) -> Visitor:
        visitors.append(Visitor(chromium, size))
        return visitors[-1]

    yield comes
    for visitor in visitors:
        visitor.context.close()


@pytest.fixture(scope="module")
def prepared(url, chromium) -> str:
    """The URL behind the question mark of a session that loaded, measured and pruned the embedded model by hand."""
    visitor = Visitor(chromium)
    page = visitor.page
    page.goto(f"{url}/model?{SETTINGS}")
    page.get_by_role("button", name="Load model").click()
    page.get_by_text("Query / KV heads").wait_for()
    page.get_by_role("link", name="Importance", exact=True).click()
    page.get_by_role("button", name="Measure the dense model").or_(page.locator(".js-plotly-plot")).first.wait_for()
    if page.get_by_role("button", name="Measure the dense model").is_visible():
        page.get_by_role("button", name="Measure the dense model").click()
    visitor.figures()
    page.get_by_role("link", name="Prune", exact=True).click()
    page.get_by_text("3 of 30 layers").wait_for()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("heading", name="What was found").wait_for()
    visitor.figures(6)
    visitor.is_well()
    assert re.search(r"[?&]run=[\w-]", page.url)
    query = page.url.partition("?")[2]
    visitor.context.close()
    return query


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_every_page_and_view_shows_its_figures(url, visit, prepared, size):
    visitor = visit(size)
    page = visitor.page
    views = [
        "/model?",
        "/calibration?calibration_view=inputs&",
        *(f"/importance?view={view}&" for view in ("cut", "layers", "factors", "scorers", "unit")),
        *(f"/rotation?spectrum={view}&" for view in ("spectrum", "angles", "errors", "space")),
        "/prune?",
        "/learn?lesson=0&",
    ]
    for view in views:
        page.goto(url + view + prepared)
        visitor.figures()
        visitor.is_well()
    page.goto(f"{url}/learn?lesson=2&{prepared}")  # a picture of its own, to drag
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
    page.set_viewport_size(dict(zip(("width", "height"), SIZES[1], strict=True)))
    page.wait_for_timeout(2 * SECONDS)  # figures are drawn anew
    visitor.is_well()


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


def rows(text: str) -> list[list[str | float]]:
    """A CSV file, numbers as numbers: Python and browsers write them differently."""

    def read(cell: str) -> str | float:
        try:
            return float(f"{float(cell):.9g}")  # what single precision needs, and as much as it has
        except ValueError:
            return cell

    return [[read(cell) for cell in row] for row in csv.reader(io.StringIO(text))]


def saved(page: Page, figure: Locator | Page, kind: str) -> Download:
    """A download of a figure, of the first one of a page."""
    with page.expect_download() as found:
        figure.get_by_title(f"Download as {kind}").first.click()
    return found.value


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
    squares = page.locator(".js-plotly-plot").first.locator(".points path")
    boxes = [square.bounding_box() for square in squares.all()]
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
    page = visit().page
    for view, tiles in (("spectrum", 4), ("angles", 5), ("space", 4)):
        page.goto(f"{url}/rotation?spectrum={view}&{prepared}")
        found = page.locator(".rcpu-tiles > div")
        found.nth(tiles - 1).wait_for()
        heights = found.evaluate_all("tiles => [...new Set(tiles.map(t => Math.round(t.getBoundingClientRect().y)))]")
        assert len(heights) == 1, view
    left, right = page.locator(".js-plotly-plot").first, page.locator(".js-plotly-plot").nth(1)
    right.wait_for()
    assert right.bounding_box()["x"] > left.bounding_box()["x"]
    page.set_viewport_size(dict(zip(("width", "height"), SIZES[1], strict=True)))
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


def test_a_copied_link_shows_the_same_view_elsewhere(url, visit, prepared):
    one, two = visit(), visit()
    one.page.goto(f"{url}/rotation?{prepared}")
    one.figures()
    slider = one.page.get_by_role("slider", name="Ratio")
    slider.focus()
    for _ in range(3):
        one.page.keyboard.press("ArrowRight")
    one.page.wait_for_url(re.compile("ratio=0.35"))
    one.page.get_by_role("button", name="Angles").or_(one.page.get_by_role("radio", name="Angles")).first.click()
    one.page.wait_for_url(re.compile("spectrum=angles"))
    one.figures()
    two.page.goto(one.page.url)
    two.figures()
    assert float(two.page.get_by_role("slider", name="Ratio").input_value()) == pytest.approx(0.35)
    titles = [v.page.locator(".gtitle").first.text_content() for v in (one, two)]
    assert titles[0] == titles[1]
    # What one changes, the other does not see.
    two.page.get_by_role("slider", name="Ratio").focus()
    two.page.keyboard.press("ArrowRight")
    two.page.wait_for_url(re.compile("ratio=0.4"))
    assert "ratio=0.35" in one.page.url
    one.is_well()
    two.is_well()


def test_back_and_forward_restore_what_was_set_and_keep_results(url, visit, prepared):
    visitor = visit()
    page, slider = visitor.page, visitor.page.get_by_role("slider", name="Ratio")
    gone = page.locator(".rcpu-tiles dd").first
    page.goto(f"{url}/importance?{prepared}&site=down_proj")
    visitor.figures()
    before = gone.text_content()
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_url(re.compile("ratio=0.25"))
    page.get_by_text("Three factors").click()
    page.wait_for_url(re.compile("view=factors"))
    page.go_back()
    page.wait_for_url(lambda address: "view=factors" not in address and "ratio=0.25" in address)
    expect(gone).to_have_text(f"{round(1536 * 0.25):,}")
    page.go_back()
    page.wait_for_url(lambda address: "ratio" not in address)
    expect(gone).to_have_text(before)
    page.go_forward()
    page.wait_for_url(re.compile("ratio=0.25"))
    expect(slider).to_have_value("0.25")
    page.get_by_role("link", name="Learn", exact=True).click()
    page.get_by_role("heading", name="1. What").wait_for()
    page.wait_for_url(re.compile("learn.*ratio=0.25"))
    page.get_by_role("button", name="Next").click()
    page.wait_for_url(re.compile("lesson=1"))
    page.get_by_role("heading", name="2. Why").wait_for()
    page.go_back()
    page.get_by_role("heading", name="1. What").wait_for()
    page.go_back()
    page.wait_for_url(re.compile("importance.*ratio=0.25"))
    expect(gone).to_have_text(f"{round(1536 * 0.25):,}")
    assert all(part in page.url for part in prepared.split("&"))
    visitor.is_well()


def test_the_first_page_has_an_address_of_its_own(url, visit):
    visitor = visit()
    visitor.page.goto(f"{url}/start?ratio=0.5&layers=0-3%2C7")
    visitor.page.get_by_role("heading", name="Start", exact=True).wait_for()
    visitor.page.wait_for_url(f"{url}/?ratio=0.5&layers=0-3%2C7")
    visitor.is_well()


def test_back_to_a_bare_address_is_back_to_the_defaults(url, visit):
    visitor = visit()
    page = visitor.page
    page.goto(f"{url}/learn")
    page.get_by_role("heading", name="1. What").wait_for()
    page.get_by_role("button", name="Next").click()
    page.get_by_role("heading", name="2. Why").wait_for()
    page.wait_for_url(re.compile("lesson=1"))
    page.go_back()
    page.get_by_role("heading", name="1. What").wait_for()
    assert page.url == f"{url}/learn"
    page.go_forward()
    page.get_by_role("heading", name="2. Why").wait_for()
    visitor.is_well()


def test_a_job_is_found_after_a_reload_and_cancelled_from_another_page(url, visit, prepared):
    visitor = visit()
    page = visitor.page
    page.goto(f"{url}/prune?{prepared.replace('layers=0-2', 'layers=0-29').replace('samples=8', 'samples=128')}")
    page.get_by_role("button", name="Run", exact=True).click()
    sidebar = page.get_by_test_id("stSidebar")
    sidebar.get_by_role("button", name="Cancel").wait_for()
    before = re.search("[?&]run=[^&]*", prepared)[0]
    page.wait_for_url(lambda address: before not in address)
    running = re.search("[?&]run=[^&]*", page.url)[0]
    page.go_back()  # takes back what was set, not what was done
    page.wait_for_url(lambda address: before not in address)
    sidebar.get_by_role("button", name="Cancel").wait_for()
    page.wait_for_timeout(SECONDS)
    assert running in page.url
    page.reload()
    sidebar.get_by_role("button", name="Cancel").wait_for()
    page.get_by_role("link", name="Model", exact=True).click()
    page.get_by_text("Query / KV heads").wait_for()
    other = visit()
    other.page.goto(f"{url}/?{SETTINGS}")
    other.page.get_by_text("1 job of other people").wait_for()
    sidebar.get_by_role("button", name="Cancel").click()
    sidebar.get_by_text(re.compile("Cancelled.*Prune")).first.wait_for()  # and in its tooltip
    other.page.get_by_text("None is running.").wait_for()
    other.is_well()
    # The run from before is still there.
    page.get_by_role("link", name="Prune", exact=True).click()
    page.get_by_role("heading", name="What was found").wait_for()
    visitor.is_well()
