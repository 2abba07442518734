"""``make screenshots``: every page with the embedded model, as pictures in assets/ at 1440 × 900."""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page

from tests import serve

MINUTES = 60_000
ASSETS = serve.ROOT / "assets"
SETTINGS = "samples=32&held_out=8&tokens=40&eval_windows=16"
LESSON = 2  # orthogonal Procrustes in 2-D: the one to drag


def query(page: Page) -> str:
    """What stands behind the question mark of a page's address."""
    return page.url.partition("?")[2]


def main() -> None:
    """Walk through the app and take a picture of each page when it shows something."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serve.app(Path(folder) / "log.txt", RCPU_PREPARE="0") as url,
        serve.browser() as chromium,
    ):
        page = chromium.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(10 * MINUTES)
        plots = page.locator(".js-plotly-plot")

        def take(name: str) -> None:
            time.sleep(3)  # figures fade in
            page.screenshot(path=ASSETS / f"{name}.png")
            print(f"assets/{name}.png", flush=True)

        def show(name: str, **settings: object) -> None:
            more = "".join(f"&{key}={value}" for key, value in settings.items())
            page.goto(f"{url}/{name}?{query(page)}{more}")
            page.locator("h1").first.wait_for()

        page.goto(url)
        plots.nth(4).wait_for()
        take("start")
        page.goto(f"{url}/model?{SETTINGS}")
        page.get_by_role("button", name="Load model").click()
        page.get_by_text("Query / KV heads").wait_for()
        plots.first.wait_for()
        take("model")

        show("importance", layer=9, site="down_proj")
        measure = page.get_by_role("button", name="Measure the dense model")
        measure.or_(plots.first).first.wait_for()
        if measure.is_visible():
            measure.click()
        plots.first.wait_for()
        take("importance")
        show("calibration", calibration_view="inputs")
        plots.first.wait_for()
        take("calibration")
        show("rotation")
        plots.first.wait_for()
        take("rotation")
        show("rotation", spectrum="space", t=0.5)
        plots.first.wait_for()
        take("space")
        show("learn", lesson=LESSON)
        page.get_by_role("group", name="Targets Y").wait_for()
        take("learn")

        show("prune")
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_role("heading", name="What was found").wait_for()
        plots.nth(4).wait_for()
        take("prune")
        page.get_by_role("heading", name="What was found").evaluate("e => e.scrollIntoView()")
        take("found")

        page.get_by_role("link", name="Compare", exact=True).click()
        page.get_by_role("button", name="Measure perplexity").click()
        plots.nth(1).wait_for()
        take("compare")
        page.get_by_role("button", name="Generate").click()
        page.get_by_text(re.compile("40 tokens|ended by the model")).nth(2).wait_for()
        page.get_by_role("heading", name="Text", exact=True).evaluate("e => e.scrollIntoView()")
        take("text")
        page.get_by_role("button", name="Look at the tokens").click()
        plots.nth(2).wait_for()
        page.get_by_role("heading", name="Token by token").evaluate("e => e.scrollIntoView()")
        take("tokens")


if __name__ == "__main__":
    main()
