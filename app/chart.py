"""A plotly figure that is redrawn in place: the one way in which pages show figures.

``st.plotly_chart`` builds a changed figure from scratch, twice, and forgets what a person zoomed or turned; here
plotly's own ``react`` changes what differs. The script that does it is ``chart.js``, with ``chart_files.js`` for
downloads; plotly.js is that of the Python package, served from where it is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import plotly
import plotly.graph_objects as go
import streamlit as st
from streamlit.components.v1 import declare_component

from app.words import as_html

SERVED = "plotly"
HERE = Path(__file__).parent
SCRIPT = "".join((HERE / name).read_text(encoding="utf-8") for name in ("chart_files.js", "chart.js"))
BUTTONS = "".join(
    f'<button type="button" value="{kind.lower()}" title="Download as {kind}">{kind}</button>'
    for kind in ("HTML", "JSON", "CSV")
)
HTML = f"""<div role="figure" style="width: 100%"></div>
<div class="rcpu-below" hidden>
<details><summary>What am I looking at?</summary><div><div></div><p></p></div></details>
<span class="rcpu-files"><span aria-hidden="true">↓</span>{BUTTONS}</span>
</div>"""


def chart(
    fig: go.Figure,
    key: str,
    of: str = "",
    on_pick: Callable[[list[int]], None] | None = None,
    *,
    name: str = "figure",
    words: str = "",
) -> None:
    """Draw a figure from ``app/figures`` under ``key``, with downloads called ``name`` if there are ``words`` on it.

    While ``of`` stays the same, so does what a person zoomed, turned or hid. With ``on_pick`` points can be clicked,
    and boxed where ``layout.dragmode`` is "select": it is called with the ``customdata``, whole numbers, of those
    picked last, perhaps none. ``words`` are Markdown.
    """
    # Streamlit offers no other way to serve the files of a package.
    served = declare_component(SERVED, path=str(Path(plotly.__file__).parent / "package_data"))
    component = st.components.v2.component("rcpu_chart", html=HTML, js=SCRIPT, isolate_styles=False)
    component(
        key=key,
        data={
            "figure": fig.to_json(remove_uids=False),  # plotly knows by them which curve was hidden
            "of": of,
            "alt": fig.layout.meta["alt"],
            "height": fig.layout.height,
            "name": name,
            "words": as_html(words),
            "pick": on_pick is not None,
            "plotly": f"component/{served.name}/plotly.min.js?v={plotly.__version__}",
        },
        on_picked_change=on_pick and (lambda: on_pick(_picked(key))),
    )


def _picked(key: str) -> list[int]:
    """What the browser says was picked, which may be anything."""
    picked = (st.session_state.get(key) or {}).get("picked")
    points = picked.get("points") if isinstance(picked, dict) else None
    return [point for point in points if type(point) is int and point >= 0] if isinstance(points, list) else []
