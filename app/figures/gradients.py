"""SPSA's gradient of one layer against the true one, as figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from app.figures.base import COLORS, NEUTRAL, new_figure
from app.figures.found import shades
from rcpu.explain import Likeness


def cosines(found: Mapping[str, Likeness], layer: int, matrix: str) -> go.Figure:
    """Cosine with the true gradient after each draw, a line a matrix; the expected one of the matrix that is chosen."""
    draws = np.arange(1, 1 + len(found[matrix].cosines))
    figure = new_figure(
        f"Likeness of SPSA to the gradient, layer {layer}",
        "draws of z",
        "cosine with the true gradient",
        f"Cosine of SPSA's gradient with the true one over draws, each matrix of layer {layer}",
        xaxis={"tickformat": "d"},
    )
    for (name, one), color in zip(found.items(), shades(len(found)), strict=True):
        short = name.split(".")[-2]
        figure.add_scatter(
            x=draws,
            y=one.cosines.numpy(),
            name=short,
            mode="lines+markers",
            line={"color": color, "width": 3 if name == matrix else 1.5},
            hovertemplate="%{x} draws: cos = %{y:.4f}<extra>" + short + "</extra>",
        )
    one = found[matrix]
    dashed = {"color": COLORS["pruned"], "dash": "dash"}
    figure.add_scatter(x=draws, y=one.expected.numpy(), name="expected of the chosen one", mode="lines", line=dashed)
    for sign in (1, -1):
        figure.add_scatter(
            x=draws,
            y=np.full(len(draws), 2 * sign * one.chance),
            name="±2 ÷ √n, chance",
            mode="lines",
            line={"color": NEUTRAL, "dash": "dot"},
            showlegend=sign > 0,
        )
    return figure


def bins(one: Likeness, layer: int, matrix: str) -> go.Figure:
    """SPSA's gradient over the true one: means of bins of equally many weights, with two standard errors."""
    title = f"Weights by their gradient, {matrix.split('.')[-2]} of layer {layer}"
    figure = new_figure(title, "true gradient, mean of the bin", "SPSA's gradient, mean of the bin", title)
    true = one.true.numpy()
    figure.add_scatter(
        x=true,
        y=one.found.numpy(),
        error_y={"type": "data", "array": 2 * one.error.numpy(), "color": COLORS["dense"], "thickness": 1},
        name="bins of weights, ±2 standard errors",
        mode="markers",
        marker={"color": COLORS["dense"]},
        hovertemplate="true %{x:.2e}, SPSA %{y:.2e}<extra></extra>",
    )
    ends = [true.min(), true.max()]
    line = {"color": NEUTRAL, "dash": "dash"}
    return figure.add_scatter(x=ends, y=ends, name="as they should be", mode="lines", line=line)
