"""The app with the addresses of its pages: what ``streamlit run`` serves.

Streamlit's script in the browser looks for its server below the address of a page first, and the browser counts the
miss as an error. A page that is opened by its address is told where to look.
"""

from pathlib import Path

import streamlit as st
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.routing import Route

from app import warm

BASE = st.get_option("server.baseUrlPath").strip("/")
FRONT = "start"  # the page at the address without a name
PAGES = sorted(path.stem for path in (Path(__file__).parent.parent / "pages").glob("*.py"))
SHELL = (Path(st.__file__).parent / "static" / "index.html").read_text(encoding="utf-8")
HERE = "<head><script>window.__streamlit = {BACKEND_BASE_URL: new URL('.', location.href).href}</script>"


def shell(_: Request) -> HTMLResponse:
    """Streamlit's page, which finds its server in one step."""
    return HTMLResponse(SHELL.replace("<head>", HERE, 1), headers={"Cache-Control": "no-cache"})


def front(request: Request) -> RedirectResponse:
    """To the first page, with the settings of the link."""
    return RedirectResponse(f".?{request.url.query}" if request.url.query else ".")


def bare(request: Request) -> RedirectResponse:
    """To a page by its name alone: a slash at the end of an address is a slip."""
    name = request.url.path.rstrip("/").rpartition("/")[2]
    return RedirectResponse(f"../{name}?{request.url.query}" if request.url.query else f"../{name}")


def at(page: str) -> str:
    """The path of a page."""
    return f"/{BASE}/{page}".replace("//", "/")


warm.import_all()
app = st.App(
    "main.py",
    routes=[
        *(Route(at(page), front if page == FRONT else shell) for page in PAGES),
        *(Route(at(page) + "/", bare) for page in PAGES),
    ],
)
warm.prepare()
