"""``make screenshots``: the pages with the embedded model, as pictures in assets/ at 1440 × 900."""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path

from tests import serve

MINUTES = 60_000
ASSETS = serve.ROOT / "assets"


def main() -> None:
    """Walk the main path and take a picture of each page when it shows something."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serve.app(Path(folder) / "log.txt") as url,
        serve.browser() as chromium,
    ):
        page = chromium.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(10 * MINUTES)

        def take(name: str) -> None:
            time.sleep(2)  # figures fade in
            page.screenshot(path=ASSETS / f"{name}.png")
            print(f"assets/{name}.png", flush=True)

        page.goto(f"{url}/?samples=16&held_out=4&layers=0-7&tokens=40&eval_windows=16")
        page.get_by_role("button", name="Load model").click()
        page.get_by_text("Query / KV heads").wait_for()
        take("model")
        page.get_by_role("link", name="Next: prune it").click()
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_text("Singular spectrum").first.wait_for()
        page.get_by_role("slider", name="Layer").focus()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        page.get_by_role("link", name="Next: compare").scroll_into_view_if_needed()
        page.get_by_text("Rotation (RCPU), 20% removed").evaluate("e => e.scrollIntoView()")
        take("prune")
        page.get_by_role("link", name="Next: compare").click()
        page.get_by_role("button", name="Measure perplexity").click()
        page.get_by_text("÷ dense").first.or_(page.locator(".js-plotly-plot")).first.wait_for()
        page.get_by_role("button", name="Generate").click()
        page.get_by_text(re.compile("40 tokens|ended by the model")).nth(2).wait_for()
        page.get_by_role("heading", name="Perplexity").evaluate("e => e.scrollIntoView()")
        take("compare")
        page.get_by_role("button", name="Generate").evaluate("e => e.scrollIntoView({block: 'center'})")
        take("text")


if __name__ == "__main__":
    main()
