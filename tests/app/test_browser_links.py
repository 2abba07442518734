"""Addresses in a real browser: copied, reloaded, back and forward, and jobs found again by them."""

import re

import pytest
from playwright.sync_api import expect

from tests.app.browsing import BROWSER, SECONDS, SETTINGS

pytestmark = BROWSER


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
