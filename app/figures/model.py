"""Figures of the page Model."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from app.figures.base import COLORS, new_figure


def parameters(parts: Mapping[str, int]) -> go.Figure:
    """Where a model's parameters are: one bar a part, in millions."""
    total = sum(parts.values())
    figure = new_figure(
        "Where the parameters are",
        "parameters (millions)",
        "",
        "Parameters by part: " + ", ".join(f"{k} {v / total:.0%}" for k, v in parts.items()),
    )
    figure.add_bar(
        y=list(parts),
        x=[v / 1e6 for v in parts.values()],
        orientation="h",
        marker_color=COLORS["dense"],
        text=[f"{v / 1e6:,.2f} M · {v / total:.1%}" for v in parts.values()],
        textposition="auto",
        hovertemplate="%{y}: %{x:,.2f} million<extra></extra>",
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(margin={"l": 140}, height=300)
    return figure
