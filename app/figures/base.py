"""Results → plotly figures. No Streamlit and no mathematics beyond sorting and counting.

One colour each for dense, pruned and compensated, from Okabe and Ito's set: safe for the colour-blind, and readable
on light and dark grounds. Every figure has units on its axes and says what it shows in ``layout.meta['alt']``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

COLORS = {"dense": "#0072B2", "pruned": "#E69F00", "compensated": "#009E73", "least_squares": "#D55E00"}
LABELS = {"dense": "dense", "pruned": "pruned, not repaired", "compensated": "pruned and compensated"}
SITE_COLORS = {"o_proj": "#CC79A7", "down_proj": "#56B4E9"}  # apart from those that stand for models
NEUTRAL = "#8C8C8C"
HEIGHT = 360
SMALLEST = 1e-300  # that a log axis shows
#: A log axis over many powers of ten: those alone are named. For fewer see :func:`log_ticks`.
LOG = {"type": "log", "exponentformat": "power", "minorloglabels": "none"}
AGAIN = "again"  # ``meta`` of a trace that repeats points of another one: chart_files.js leaves it out of the CSV


def strung(rows: Tensor) -> np.ndarray:  # (rows, points)
    """Several curves for one trace, with a gap after each.

    A line is one element of the page, points are one each and take a browser much longer. Traces are given
    arrays, not lists: plotly looks at every element of a list, and sends arrays in binary.
    """
    return np.pad(rows.double().numpy(), ((0, 0), (0, 1)), constant_values=np.nan).ravel()


def new_figure(title: str, x: str, y: str, alt: str, **layout) -> go.Figure:
    """An empty figure in the house style; ``alt`` says in words what it shows."""
    default = {
        "title": {"text": title, "font": {"size": 16}, "y": 1, "yanchor": "top", "pad": {"t": 12}},
        "xaxis_title": x,
        "yaxis_title": y,
        "height": HEIGHT,
        "margin": {"l": 64, "r": 16, "t": 56, "b": 48},
        "legend": {"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0, "x": 0},
        "hovermode": "closest",
        "meta": {"alt": alt},
        "template": "none",  # pages give it theirs; copying one takes longer than all the rest
    }
    # At once: go.Figure().update_layout() takes eight times as long.
    return go.Figure(layout=go.Layout(default | layout))


def log_ticks(figure: go.Figure, axis: str) -> go.Figure:
    """Make the axis x or y logarithmic, with ticks that people read, 10, 20, 50, 100, where powers of ten are few."""
    seen = [np.asarray(getattr(trace, axis), dtype=float).ravel() for trace in figure.data if len(getattr(trace, axis))]
    values = np.concatenate(seen) if seen else np.ones(1)
    values = values[np.isfinite(values) & (values > SMALLEST)]
    powers = np.log10(values.max() / values.min()) if len(values) else 0.0
    few = {"type": "log", "tickformat": "~g"} | ({"dtick": "D2"} if powers > 0.7 else {})
    return figure.update_layout({f"{axis}axis": LOG if powers > 2.5 else few})


def layer_axis(first: int, last: int) -> dict:
    """An x axis of layers from the first to the last: ticks at layers alone, about a dozen at most."""
    step = next((n for n in (1, 2, 5, 10) if (last - first) / n <= 12), 20)
    return {"tick0": 0, "dtick": step, "tickformat": "d"}


def grouped(title: str, groups: Mapping[str, Mapping[str, float | None]], y: str, form: str) -> go.Figure:
    """Bars in groups: one group a key, one bar a model."""
    figure = new_figure(title, "", y, title + ": " + "; ".join(groups), barmode="group")
    for model in next(iter(groups.values())):
        values = [g[model] for g in groups.values()]
        figure.add_bar(
            x=list(groups),
            y=values,
            name="not repaired" if model == "pruned" else model,
            marker_color=COLORS[model],
            text=["–" if v is None else format(v, form) for v in values],
            textposition="auto",
            hovertemplate="%{x}: %{y:" + form + "}<extra></extra>",
        )
    return figure
