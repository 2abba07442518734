"""How fast the explorer answers, in a real browser: every view with statistics at hand, first paint, eight sessions.

An answer is timed inside the page, from the moment the browser sends a change until the last message of the server's
reply, and until the picture after that. Statistics are of few windows: their number does not change the cost.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.async_api import Page, async_playwright
from rich.console import Console
from rich.table import Table

from tests import serve

MINUTES = 60_000
CHANGES = 12  # of the ratio, in each view
SESSIONS, TURNS = 8, 6
SETTINGS = "samples=16&held_out=4"
VIEWS = {
    "importance": ("view", ("cut", "layers", "factors", "scorers", "unit")),
    "rotation": ("spectrum", ("spectrum", "angles", "errors", "space")),
}
PAGES = ("", "calibration", "importance", "rotation", "prune", "compare", "learn")
#: Notes when the page sends something, when the last message of an answer comes, and when it is painted.
CLOCK = """
(() => {
  const clock = window.answers = {sent: 0, last: 0, painted: 0};
  const Native = window.WebSocket;
  window.WebSocket = class extends Native {
    constructor(...args) {
      super(...args);
      this.addEventListener('message', () => {
        clock.last = performance.now();
        requestAnimationFrame(() => requestAnimationFrame(() => { clock.painted = performance.now(); }));
      });
    }
    send(data) { clock.sent = performance.now(); super.send(data); }
  };
})();
"""


async def answer(page: Page, act, quiet: float = 1.0) -> tuple[float, float]:
    """Seconds until the last message of the answer to ``act``, and until it is painted; then ``quiet`` seconds pass."""
    await page.evaluate("Object.assign(window.answers, {sent: 0, last: 0, painted: 0})")
    await act()
    while True:
        await asyncio.sleep(0.05)
        clock = await page.evaluate("({...window.answers, now: performance.now()})")
        settled = clock["last"] > clock["sent"] > 0 and clock["now"] - clock["last"] > 1000 * quiet
        if settled and clock["painted"] >= clock["last"]:
            return (clock["last"] - clock["sent"]) / 1000, (clock["painted"] - clock["sent"]) / 1000


async def ready(page: Page) -> None:
    """Wait until the script of a page has run and its figures stand."""
    await page.locator("h1").first.wait_for()
    await page.wait_for_function("!document.querySelector('[data-testid=stStatusWidget]')")


def tail(values: list[float]) -> tuple[float, float]:
    """Median and 95th percentile."""
    return statistics.median(values), sorted(values)[max(0, -(-len(values) * 95 // 100) - 1)]


async def prepare(page: Page, url: str) -> None:
    """Load the embedded model and measure it."""
    await page.goto(f"{url}/?{SETTINGS}")
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


async def views(page: Page, url: str, table: Table) -> None:
    """Latency of every view while the ratio changes."""
    for name, (setting, values) in VIEWS.items():
        for view in values:
            unit = "&shown_unit=5" if view == "unit" else ""
            await page.goto(f"{url}/{name}?{SETTINGS}&{setting}={view}&site=down_proj&layer=9&ratio=0.05{unit}")
            await ready(page)
            await page.locator(".js-plotly-plot").first.wait_for()
            await asyncio.sleep(1.5)
            slider = page.get_by_role("slider", name="Ratio")
            await slider.focus()
            found = [await answer(page, lambda: page.keyboard.press("ArrowRight")) for _ in range(CHANGES)]
            (median, most), (seen, seen_most) = (tail(list(part)) for part in zip(*found, strict=True))
            print(f"{name} {view}: {median:.2f} {most:.2f} s", file=sys.stderr, flush=True)
            table.add_row(
                f"redraw, {name}, view {view}", f"{median:.2f}", f"{most:.2f}", "0.3", f"{seen:.2f} / {seen_most:.2f}"
            )


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
        median, most = tail(seen)
        table.add_row(f"first paint, {name or 'model'} (new browser context)", f"{median:.2f}", f"{most:.2f}", "–", "–")


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

    async def browse(page: Page) -> list[float]:
        seen = []
        for _ in range(TURNS):
            await page.get_by_role("slider", name="Ratio").focus()
            seen.append((await answer(page, lambda: page.keyboard.press("ArrowRight")))[0])
            await asyncio.sleep(1)  # a person looks
        return seen

    seen = await asyncio.gather(*(browse(page) for page in pages))
    still = await runner.get_by_role("button", name="Cancel").first.is_visible()
    for i, page in enumerate(pages):
        value = float(await page.get_by_role("slider", name="Ratio").input_value())
        expected = 0.05 * (i + 1 + TURNS)
        if abs(value - expected) > 1e-6 or (f"layer={i}" not in page.url and i):
            raise SystemExit(f"session {i} shows ratio {value:g} instead of {expected:g}: it saw another's state")
    median, most = tail([s for own in seen for s in own])
    note = "" if still else " (the job ended before)"
    table.add_row(f"{SESSIONS} sessions while a job runs{note}", f"{median:.2f}", f"{most:.2f}", "2", "–")


async def measure() -> None:
    """Serve the app, measure, and print the table."""
    table = Table(
        "what", "median (s)", "95th percentile (s)", "at most", "painted (s)", title="The explorer, embedded model, CPU"
    )
    with tempfile.TemporaryDirectory() as folder, serve.app(Path(folder) / "log.txt") as url:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=serve.CHROMIUM, args=serve.FLAGS)
            page = await (await browser.new_context(viewport={"width": 1440, "height": 900})).new_page()
            page.set_default_timeout(5 * MINUTES)
            await page.add_init_script(CLOCK)
            await prepare(page, url)
            await views(page, url, table)
            await first_paint(browser, url, table)
            await crowd(browser, url, table)
            await browser.close()
    Console(width=120).print(table)


def main() -> None:
    """Print the table."""
    asyncio.run(measure())
