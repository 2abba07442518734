"""A plotly figure that is redrawn in place: the one way in which pages show figures.

``st.plotly_chart`` builds a changed figure from scratch, twice, and forgets what a person zoomed or turned; here
plotly's own ``react`` changes what differs. The script that does it is ``chart.js``; plotly.js is that of the Python
package, served from where it is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import plotly
import plotly.graph_objects as go
import streamlit as st
from streamlit.components.v1 import declare_component

SERVED = "plotly"
SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
HTML = '<div role="figure" style="width: 100%"></div>'


def chart(fig: go.Figure, key: str, of: str = "", on_pick: Callable[[list[int]], None] | None = None) -> list[int]:
    """Draw a figure from ``app/figures`` under ``key``.

    While ``of`` stays the same, so does what a person zoomed, turned or hid. With ``on_pick`` points can be clicked,
    and boxed where ``layout.dragmode`` is "select": it is called with the ``customdata``, whole numbers, of those
    picked last, perhaps none; they are also returned as long as the figure keeps its key.
    """
    # Streamlit offers no other way to serve the files of a package.
    served = declare_component(SERVED, path=str(Path(plotly.__file__).parent / "package_data"))
    component = st.components.v2.component("rcpu_chart", html=HTML, js=SCRIPT, isolate_styles=False)
    component(
        key=key,
        data={
            "figure": fig.to_json(),
            "of": of,
            "alt": fig.layout.meta["alt"],
            "height": fig.layout.height,
            "pick": on_pick is not None,
            "plotly": f"component/{served.name}/plotly.min.js?v={plotly.__version__}",
        },
        on_picked_change=on_pick and (lambda: on_pick(_picked(key))),
    )
    return _picked(key)


def _picked(key: str) -> list[int]:
    """What the browser says was picked, which may be anything."""
    picked = (st.session_state.get(key) or {}).get("picked")
    points = picked.get("points") if isinstance(picked, dict) else None
    return [point for point in points if type(point) is int and point >= 0] if isinstance(points, list) else []
