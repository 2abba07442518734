"""Recipes at equal parameters, as a figure of the field guide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from app.figures.base import COLORS, log_ticks, new_figure
from app.figures.compare import DASHES
from app.figures.found import shades
from app.guide import Level


def at_equal_parameters(recipes: Mapping[str, Sequence[Level]], dense: float | None) -> go.Figure:
    """Perplexity over what is left of the decoder layers, a line a recipe, the best on top of the legend."""
    figure = new_figure(
        "Perplexity at equal parameters",
        "parameters of the decoder layers that stay",
        "perplexity",
        "Perplexity over the share of the decoder's parameters that stays, a line a recipe",
        height=520,
        xaxis={"tickformat": ".0%", "autorange": "reversed"},
    )
    ordered = sorted(recipes.items(), key=lambda one: one[1][0].perplexity)
    for n, ((name, levels), color) in enumerate(zip(ordered, shades(len(ordered)), strict=True)):
        figure.add_scatter(
            x=[level.decoder for level in levels],
            y=[level.perplexity for level in levels],
            name=name,
            mode="lines+markers",
            line={"color": color, "dash": DASHES[n % len(DASHES)]},
            hovertemplate="%{x:.1%}: %{y:.2f}<extra>" + name + "</extra>",
        )
    if dense is not None:
        figure.add_scatter(
            x=[1.0], y=[dense], name="dense", mode="markers", marker={"color": COLORS["dense"], "size": 10}
        )
    return log_ticks(figure, "y")
