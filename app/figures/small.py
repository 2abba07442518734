"""The six figures of Start: those of the other pages, in little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from app.figures import compare, sites
from rcpu import Perplexity

HEIGHT = 244
FONT = 11
NAMES = {"dense": "dense", "pruned": "not repaired", "compensated": "repaired"}


def scores(site: sites.Site) -> go.Figure:
    """Sorted importance and the cut."""
    return _small(sites.scores(site))


def spectrum(site: sites.Site) -> go.Figure:
    """Singular values of YZᵀ."""
    return _small(sites.spectrum(site))


def angles(site: sites.Site) -> go.Figure:
    """How far Q turns."""
    return _small(sites.angles(site))


def errors(found: Sequence[sites.Site], name: str, layer: int) -> go.Figure:
    """Error over the layers; a line marks the layer that is shown."""
    figure = sites.layer_errors(found, name)
    figure.add_shape(type="line", x0=layer, x1=layer, yref="paper", y0=0, y1=1, line={"dash": "dot", "width": 1})
    figure.for_each_trace(lambda t: t.update(showlegend="held-out" not in t.name, marker_size=3))
    return _small(figure)


def perplexity(found: Mapping[str, Perplexity]) -> go.Figure:
    """A bar a model, with its interval."""
    styles = {role: compare.style(NAMES[role], role) for role in found}
    figure = compare.perplexity_bars(found, styles)
    first = next(iter(found.values()))
    _small(figure).update_yaxes(title_text="perplexity")
    return figure.update_xaxes(title_text=f"{first.windows:,} windows of {first.window:,} tokens; lines: 95% intervals")


def _small(figure: go.Figure) -> go.Figure:
    """Without a title, which stands above it, and with little around it."""
    axis = {"title_font_size": FONT, "tickfont_size": FONT, "title_standoff": 12}
    figure.update_xaxes(**axis).update_yaxes(**axis, nticks=5)
    return figure.update_layout(
        title=None,
        height=HEIGHT,
        margin={"l": 60, "r": 8, "t": 26, "b": 34},
        font_size=FONT,
        legend={"orientation": "h", "yref": "paper", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        legend_font_size=FONT,
    )
