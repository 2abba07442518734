"""The main path in a real browser with the embedded model: open, load, prune, see figures, read texts side by side."""

import os
import re

import pytest
from playwright.sync_api import expect

from tests import serve

SECONDS = 1000  # playwright counts milliseconds
PATIENCE = 180 * SECONDS

pytestmark = [
    pytest.mark.browser,
    pytest.mark.embedded,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        serve.CHROMIUM is None and not os.environ.get("CI"), reason="needs Chromium: apt-get install chromium"
    ),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with serve.app(tmp_path_factory.mktemp("app") / "log.txt") as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    with serve.browser() as chromium:
        yield chromium


def plots(page):
    return page.locator(".js-plotly-plot")


def test_load_prune_compare_reload_and_a_second_browser(url, chromium):
    page = chromium.new_context(viewport={"width": 1440, "height": 900}).new_page()
    broken = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.goto(url)

    page.get_by_role("button", name="Load model").click()
    page.get_by_text("Query / KV heads").wait_for(timeout=PATIENCE)
    page.get_by_role("link", name="Next: prune it").click()

    # Few windows and layers: the path matters here, the numbers have tests of their own.
    page.get_by_label("Windows", exact=True).fill("8")
    page.get_by_label("Held-out windows", exact=True).fill("2")
    layers = page.get_by_label("Layers", exact=True)
    layers.fill("0-2")
    layers.press("Enter")
    page.get_by_text("3 of 30 layers").wait_for(timeout=PATIENCE)
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Singular spectrum").first.wait_for(timeout=PATIENCE)
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length >= 3", timeout=PATIENCE)
    assert plots(page).count() >= 3
    assert re.search(r"[?&]run=\w", page.url)

    # The same link in another browser context: another session finds the run, on the same model.
    other = chromium.new_context().new_page()
    other.goto(page.url)
    other.get_by_text("Singular spectrum").first.wait_for(timeout=PATIENCE)
    assert other.get_by_label("Layers", exact=True).input_value() == "0-2"
    assert other.get_by_label("Windows", exact=True).input_value() == "8"

    page.get_by_role("link", name="Next: compare").click()
    page.get_by_role("button", name="Generate").click()
    # Reload in the middle: the page finds its job again and the text goes on.
    page.wait_for_url(re.compile("generate="), timeout=PATIENCE)
    page.reload()
    page.get_by_text("tokens/s decoding").nth(2).wait_for(timeout=PATIENCE)
    page.get_by_role("button", name="Cancel").wait_for(state="hidden", timeout=PATIENCE)
    shown = page.locator("[data-testid=stCode] code")
    expect(shown).to_have_count(3, timeout=PATIENCE)
    texts = [t.strip() for t in shown.all_inner_texts()]
    assert all(len(t) > 20 for t in texts)
    assert "lighthouse" not in page.url, "the default prompt stays out of the URL"

    # A job can be cancelled, from the page that shows it.
    page.get_by_role("button", name="Measure perplexity").click()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("cancelled after").wait_for(timeout=PATIENCE)

    # The other session did not notice any of it.
    assert other.get_by_text("Singular spectrum").first.is_visible()
    assert not broken
