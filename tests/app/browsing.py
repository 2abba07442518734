"""A visitor with a real browser, for the tests that need one."""

from __future__ import annotations

import csv
import io
import os

import pytest
from playwright.sync_api import Download, Locator, Page

from tests import serve

SECONDS = 1000  # playwright counts milliseconds
PATIENCE = 240 * SECONDS
SETTINGS = "samples=8&held_out=2&layers=0-2&layer=1&tokens=12&eval_windows=4"
SIZES = ((1440, 900), (1024, 768))
#: What every such test is: slow, with the embedded model, and skipped where there is no browser but in CI.
BROWSER = [
    pytest.mark.browser,
    pytest.mark.embedded,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        serve.CHROMIUM is None and not os.environ.get("CI"), reason="needs Chromium: apt-get install chromium"
    ),
]


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

    def resize(self, size: tuple[int, int]) -> None:
        """Give the window another size, and figures the time to be drawn anew."""
        self.page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
        self.page.wait_for_timeout(SECONDS)

    def is_well(self) -> None:
        """Nothing broke, no page shows an error, and nothing needs sideways scrolling."""
        assert not self.broken
        assert not self.page.locator("[data-testid=stException]").count()
        wide = self.page.evaluate(
            "[document.scrollingElement, document.querySelector('[data-testid=stMain]')]"
            ".map(e => e.scrollWidth - e.clientWidth)"
        )
        assert max(wide) <= 1, f"{self.page.url} is wider than its window by {wide}"


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
