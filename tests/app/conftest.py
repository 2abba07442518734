"""A server, a browser, and visitors who come and go, for the tests in a real browser.

The server stays for all modules: what one of them has loaded and pruned, the next need not wait for.
"""

import re

import pytest

from app import jobs
from tests import serve
from tests.app.browsing import SETTINGS, SIZES, Visitor

jobs.JOBS = 0  # tests of other files run beside these, and a job that gives way to them all never ends


@pytest.fixture(scope="session")
def url(tmp_path_factory):
    with serve.app(tmp_path_factory.mktemp("app") / "log.txt", RCPU_PREPARE="0") as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    with serve.browser() as chromium:
        yield chromium


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


@pytest.fixture(scope="session")
def asked() -> dict[str, str]:
    """By the address of a server what :func:`prepared` found there."""
    return {}


@pytest.fixture(scope="module")
def prepared(url, chromium, asked) -> str:
    """The URL behind the question mark of a session that loaded, measured and pruned the embedded model by hand."""
    if url not in asked:
        asked[url] = _prepare(url, chromium)
    return asked[url]


def _prepare(url: str, chromium) -> str:
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
