"""How fast the explorer answers, in a real browser: every view with statistics at hand, first paint, eight sessions.

A redraw is timed inside the page, from a key press on a control until the last figure has been painted
anew, whatever the server and the browser had to do for it; figures out of sight wait until they are scrolled to.
Statistics are of few windows: their number does not change the cost.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from playwright.async_api import Page, async_playwright
from rich.console import Console
from rich.table import Table

from tests import serve

MINUTES = 60_000
LAYERS = 9, 20  # that are looked at
CHANGES = 16  # of the ratio in each view and layer
#: Then other settings, in each view and layer: a projection is one press away from the other, and a score or unit is
#: the next in its list or the one before. Down_proj has no choice of units.
OTHERS = (
    *("score", "projection", "unit next", "score", "unit before"),
    *("projection", "score", "projection", "score", "projection"),
)
#: And what only one view has. Not det Q = +1: where no reflection was found, nothing is drawn for it.
OWN = {"errors": ("ridge next", "ridge before") * 3, "space": ("t",) * 6}
LISTS = {"score": "Importance score", "unit": "Unit of o_proj", "ridge": "Ridge"}
SESSIONS, TURNS = 8, 6
SETTINGS = "samples=16&held_out=4"
START = "ratio=0.05&site=down_proj&unit=kv_group"  # of every view
#: All that change with the ratio: the figure of one unit does not.
VIEWS = {
    "importance": ("view", ("cut", "layers", "factors", "scorers")),
    "rotation": ("spectrum", ("spectrum", "angles", "errors", "space")),
}
PAGES = ("", "calibration", "importance", "rotation", "prune", "compare", "learn")
#: Notes when a key goes down and when the last change of a figure after it was painted.
CLOCK = """
(() => {
  const clock = window.clock = {pressed: 0, drawn: 0};
  document.addEventListener('keydown', () => { clock.pressed = performance.now(); clock.drawn = 0; }, true);
  const inFigure = node => node.closest ? node.closest('.js-plotly-plot') : false;
  const painted = () => requestAnimationFrame(() => setTimeout(() => { clock.drawn = performance.now(); }));
  new MutationObserver(changes => {
    if (changes.some(change => inFigure(change.target))) painted();
  }).observe(document, {childList: true, attributes: true, subtree: true});
})();
"""
QUIET = 1.0  # seconds without a change in a figure: the page stands
LOOK = 1.0  # seconds that a person looks at it before the next key
STUDY = 5.0  # seconds before another score or projection is tried
LONGEST = 60  # seconds


async def redraw(page: Page, *keys: str) -> float:
    """Seconds from the last of these key presses until the last figure that changes by it has been drawn."""
    for key in keys:
        await page.keyboard.press(key)
    for _ in range(round(LONGEST / 0.1)):
        await asyncio.sleep(0.1)
        clock = await page.evaluate("({...window.clock, now: performance.now()})")
        if clock["drawn"] and clock["now"] - clock["drawn"] > 1000 * QUIET:
            return (clock["drawn"] - clock["pressed"]) / 1000
    raise SystemExit(f"{page.url}: no figure was drawn anew within {LONGEST} s of a key press")


async def change(page: Page, move: str) -> float:
    """Seconds for one of OTHERS or OWN."""
    what, _, way = move.partition(" ")
    if what == "t":
        await page.get_by_role("slider", name="t, from Z").focus()
        return await redraw(page, "ArrowLeft")
    if what == "projection":
        await page.get_by_role("radiogroup", name="Projection").locator("[aria-checked=false]").focus()
        return await redraw(page, "Enter")
    await page.get_by_role("combobox", name=LISTS[what]).focus()
    return await redraw(page, "ArrowUp" if way == "before" else "ArrowDown", "Enter")


async def ready(page: Page) -> None:
    """Wait until the script of a page has run and its figures stand."""
    await page.locator("h1").first.wait_for()
    await page.wait_for_function("!document.querySelector('[data-testid=stStatusWidget]')")


def note(table: Table, what: str, values: list[float], limit: str) -> None:
    """A row with median and 95th percentile; said at once, too."""
    median, most = statistics.median(values), sorted(values)[max(0, -(-len(values) * 95 // 100) - 1)]
    table.add_row(what, f"{median:.2f}", f"{most:.2f}", limit)
    print(f"{what}: {median:.2f} {most:.2f} s", file=sys.stderr, flush=True)


async def prepare(page: Page, url: str) -> None:
    """Load the embedded model and measure it."""
    await page.goto(f"{url}/model?{SETTINGS}")
    await page.get_by_role("button", name="Load model").click()
    await page.get_by_text("Query / KV heads").wait_for()
    await page.goto(f"{url}/importance?{SETTINGS}")
    await page.locator("h1").first.wait_for()
    measure = page.get_by_role("button", name="Measure the dense model")
    figure = page.locator(".js-plotly-plot").first
    await measure.or_(figure).first.wait_for()
    if await measure.is_visible():
        await measure.click()
    await figure.wait_for()


async def views(browser, url: str, table: Table, name: str) -> None:
    """Latency of every view of a page while the ratio changes, and then score, unit and projection."""
    page = await (await browser.new_context(viewport={"width": 1440, "height": 900})).new_page()
    page.set_default_timeout(5 * MINUTES)
    await page.add_init_script(CLOCK)
    setting, values = VIEWS[name]
    for view in values:
        seen, others, own = [], [], []
        for layer in LAYERS:
            await page.goto(f"{url}/{name}?{SETTINGS}&{setting}={view}&{START}&layer={layer}")
            await ready(page)
            await page.locator(".js-plotly-plot").first.wait_for()
            await asyncio.sleep(1.5)
            await page.get_by_role("slider", name="Ratio").focus()
            seen += [await redraw(page, "ArrowRight") for _ in range(CHANGES)]
            for move in OTHERS:
                await asyncio.sleep(STUDY)
                others.append(await change(page, move))
            for move in OWN.get(view, ()):
                await asyncio.sleep(STUDY)
                own.append(await change(page, move))
        note(table, f"redraw, {name}, view {view}: ratio", seen, "0.3")
        note(table, f"redraw, {name}, view {view}: score, unit and projection", others, "0.3")
        if own:
            note(table, f"redraw, {name}, view {view}: ridge or t", own, "0.3")


async def first_paint(browser, url: str, table: Table) -> None:
    """Seconds from opening a page to its heading, in fresh browser contexts."""
    for name in PAGES:
        seen = []
        for _ in range(5):
            context = await browser.new_context(viewport={"width": 1440, "height": 900})
            page = await context.new_page()
            start = time.perf_counter()
            await page.goto(f"{url}/{name}?{SETTINGS}")
            await page.locator("h1").first.wait_for()
            seen.append(time.perf_counter() - start)
            await context.close()
        note(table, f"first paint, {name or 'model'} (new browser context)", seen, "–")


async def crowd(browser, url: str, table: Table) -> None:
    """Eight sessions change their own ratio while a pruning runs; each must see its own and nobody else's."""
    contexts = [await browser.new_context(viewport={"width": 1024, "height": 768}) for _ in range(SESSIONS)]
    pages = [await context.new_page() for context in contexts]
    for i, page in enumerate(pages):
        page.set_default_timeout(5 * MINUTES)
        await page.add_init_script(CLOCK)
        await page.goto(f"{url}/importance?{SETTINGS}&ratio={0.05 * (i + 1):.2f}&layer={i}")
        await ready(page)
    runner = await (await browser.new_context()).new_page()
    await runner.goto(f"{url}/prune?{SETTINGS}")
    await runner.get_by_role("button", name="Run", exact=True).click()
    await runner.get_by_text("of other people").or_(runner.get_by_role("button", name="Cancel")).first.wait_for()

    async def browse(page: Page, after: float) -> list[float]:
        await asyncio.sleep(after)  # eight people do not press a key in the same instant
        seen = []
        for _ in range(TURNS):
            await page.get_by_role("slider", name="Ratio").focus()
            seen.append(await redraw(page, "ArrowRight"))
            await asyncio.sleep(LOOK)
        return seen

    pause = (LOOK + QUIET) / SESSIONS
    seen = await asyncio.gather(*(browse(page, i * pause) for i, page in enumerate(pages)))
    still = await runner.get_by_role("button", name="Cancel").first.is_visible()
    for i, page in enumerate(pages):
        value = float(await page.get_by_role("slider", name="Ratio").input_value())
        expected = 0.05 * (i + 1 + TURNS)
        if abs(value - expected) > 1e-6 or (f"layer={i}" not in page.url and i):
            raise SystemExit(f"session {i} shows ratio {value:g} instead of {expected:g}: it saw another's state")
    ended = "" if still else " (the job ended before)"
    note(table, f"{SESSIONS} sessions while a job runs{ended}", [s for own in seen for s in own], "2")


PARTS = {**{name: partial(views, name=name) for name in VIEWS}, "paint": first_paint, "crowd": crowd}


async def measure(parts: Sequence[str]) -> None:
    """Serve the app, measure, and print the table."""
    table = Table("what", "median (s)", "95th percentile (s)", "at most", title="The explorer, embedded model, CPU")
    with tempfile.TemporaryDirectory() as folder, serve.app(Path(folder) / "log.txt", RCPU_PREPARE="0") as url:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(**serve.LAUNCH)
            page = await browser.new_page()
            page.set_default_timeout(5 * MINUTES)
            await prepare(page, url)
            await page.close()
            for part in parts:
                await PARTS[part](browser, url, table)
            await browser.close()
    Console(width=120).print(table)


def main(*parts: str) -> None:
    """Print the table of these parts, or of all."""
    asyncio.run(measure(parts or tuple(PARTS)))
