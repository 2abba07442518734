"""The first minute: an empty cache, nothing clicked but the navigation, and then one press."""

import os
import time

from tests import serve
from tests.app.browsing import BROWSER, SETTINGS, Visitor

pytestmark = BROWSER
MINUTE = 90  # seconds on two idle cores, from the command to figures on four pages
ANSWER = 5  # until the first page stands, from the moment its address was said


def slow() -> float:
    """How much longer this machine takes now than an idle one: as many as wait for each of its cores."""
    return max(1.0, os.getloadavg()[0] / os.cpu_count())


def test_the_first_minute_shows_figures_and_one_press_all_six_parts(tmp_path, chromium):
    began = time.monotonic()
    with serve.app(tmp_path / "log.txt", RCPU_CACHE=str(tmp_path / "cache")) as url:
        visitor, said = Visitor(chromium), time.monotonic()
        page = visitor.page
        page.goto(url)
        page.get_by_role("heading", name="Start").wait_for()
        assert time.monotonic() - said < ANSWER * slow(), "what Python imports is imported before"
        visitor.figures(5)
        page.get_by_text("Example", exact=True).wait_for()
        told = page.locator(".rcpu-told dd")
        told.nth(2).wait_for()
        assert told.count() == 3
        whole = "document.querySelector('[data-testid=stMain]').scrollHeight"
        page.wait_for_function(f"{whole} <= 900")  # all six parts are on one screen, once the last has its place
        assert page.get_by_test_id("stMain").evaluate("e => e.clientHeight") == 900
        for name in ("Importance", "Spectrum and rotation", "Compare"):
            page.get_by_role("link", name=name, exact=True).click()
            page.get_by_role("heading", name=name, exact=True).wait_for()
            visitor.figures()
            visitor.is_well()
        assert time.monotonic() - began < MINUTE * slow()

        page.goto(f"{url}/?{SETTINGS}")
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_text("Your run").wait_for()
        visitor.figures(5)
        told.nth(2).wait_for()
        visitor.is_well()
        page.get_by_role("button", name="Angles of the rotation").click()
        page.get_by_role("heading", name="Spectrum and rotation", exact=True).wait_for()
        assert "spectrum=angles" in page.url
        assert "run=" in page.url
        page.goto(f"{url}/importance/?{SETTINGS}")  # with a slash at its end
        page.get_by_role("heading", name="Importance", exact=True).wait_for()
        visitor.is_well()
        page.goto(f"{url}/?model={200 * 'm'}")
        page.get_by_role("heading", name="Start").wait_for()
        page.get_by_role("link", name="Model", exact=True).click()
        page.get_by_role("heading", name="Model", exact=True).wait_for()
        visitor.is_well()
