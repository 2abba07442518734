"""A server that is killed behind a real browser's back: after the next start a copied link shows all that it did."""

import signal

from playwright.sync_api import expect

from tests import serve
from tests.app.browsing import BROWSER, SETTINGS, SIZES, Visitor

pytestmark = BROWSER


def test_a_copied_link_outlives_its_server(tmp_path, chromium):
    port, url = serve.free_port(), ""
    own = {"RCPU_HOME": str(tmp_path / "home"), "RCPU_PREPARE": "0"}
    server = serve.begin(tmp_path / "first.txt", port, **own)
    url = f"http://127.0.0.1:{port}"
    try:
        visitor = Visitor(chromium)
        page = visitor.page
        page.goto(f"{url}/?{SETTINGS}&task_items=8&tasks=embedded")
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_text("Your run").wait_for()
        visitor.figures(5)
        told = page.locator(".rcpu-told").text_content()
        query = page.url.partition("?")[2]
        page.goto(f"{url}/benchmarks?{query}")
        page.get_by_role("button", name="Run tasks").click()
        visitor.figures()
        accuracy = page.locator(".rcpu-tiles").first.text_content()
        link = page.url
        visitor.is_well()
        visitor.context.close()
        server.send_signal(signal.SIGKILL)
        server.wait()
        server = serve.begin(tmp_path / "second.txt", port, **own)
        visitor = Visitor(chromium, SIZES[1])
        page = visitor.page
        page.goto(f"{url}/?{link.partition('?')[2]}")
        page.get_by_text("Your run").wait_for()
        visitor.figures(4)
        expect(page.locator(".rcpu-told")).to_have_text(told)
        page.goto(link)
        visitor.figures()
        expect(page.locator(".rcpu-tiles").first).to_have_text(accuracy)
        page.goto(f"{url}/runs?{link.partition('?')[2]}")
        visitor.figures()
        page.get_by_role("heading", name="rotation 20% rcpu").wait_for()
        page.get_by_text("Do it again").click()
        page.get_by_text("python -m rcpu prune").wait_for()
        visitor.is_well()
        visitor.context.close()
    finally:
        server.kill()
        server.wait()
