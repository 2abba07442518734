"""Pages in Streamlit's own test runner, as the tests of all pages open and read them."""

import base64
import html
import json
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
from streamlit.testing.v1 import AppTest

from app.shared import jobs

MAIN = str(Path(__file__).parent.parent / "app" / "main.py")


def open_page(page: str = "model", **parameters) -> AppTest:
    at = AppTest.from_file(MAIN, default_timeout=60)
    for name, value in parameters.items():
        at.query_params[name] = str(value)
    at.switch_page(f"../pages/{page}.py").run()
    assert not at.exception
    return at


def click(at: AppTest, label: str) -> AppTest:
    next(b for b in at.button if b.label == label).click()
    at.run()
    assert not at.exception
    return at


def finish(at: AppTest, kind: str) -> AppTest:
    """Wait for the session's job of a kind, or for all if it has none itself, then look at the page again."""
    job = jobs().get(getattr(at.session_state["settings"], kind))
    end = time.monotonic() + 240
    while any(j.active for j in ([job] if job else jobs().all())) and time.monotonic() < end:
        time.sleep(0.02)
    at.run()
    assert not at.exception
    return at


def texts(at: AppTest, kind: str) -> str:
    return "\n".join(str(e.value) for e in getattr(at, kind))


def tiles(at: AppTest) -> dict[str, str]:
    """The numbers of a page by their label."""
    return {label: value for label, value, _ in _tiles(at)}


def notes(at: AppTest) -> dict[str, str]:
    """What stands beside the numbers of a page."""
    return {label: note for label, _, note in _tiles(at)}


def _tiles(at: AppTest) -> list[tuple[str, ...]]:
    drawn = "".join(e.proto.body for e in at.get("html") if "rcpu-tiles" in e.proto.body)
    drawn = re.sub(r"<span[^>]*>\?<i.*?</i></span>|</?span[^>]*>", "", drawn)  # help, and what keeps it with its word
    found = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>(?:<dd[^>]*>([^<]*)</dd>)?", drawn)
    return [tuple(html.unescape(text).strip() for text in one) for one in found]


def numbers(at: AppTest, name: str) -> pd.DataFrame:
    """The table of this name, which is folded away until it is opened."""
    assert not at.dataframe
    at.session_state[f"numbers-{name}"] = True
    return at.run().dataframe[0].value


def charts(at: AppTest) -> list[dict]:
    """The figures of a page as JSON, arrays as lists."""
    return [read_figure(sent["figure"]) for sent in sent_charts(at)]


def sent_charts(at: AppTest) -> list[dict]:
    """What a page sends to the browser for each of its figures."""
    found = [e.proto for e in at.get("bidi_component") if e.proto.component_name == "rcpu_chart"]
    return [json.loads(proto.json) for proto in found]


def read_figure(text: str) -> dict:
    """The JSON of a figure, arrays as lists."""
    return json.loads(text, object_hook=_decoded)


def _decoded(value: dict) -> dict | list:
    if "bdata" not in value:
        return value
    flat = np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
    shape = [int(n) for n in value.get("shape", str(len(flat))).split(",")]
    return flat.reshape(shape).tolist()
