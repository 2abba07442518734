"""Figures of the two-sided turn of one projection."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from app.figures.base import COLORS, new_figure
from rcpu.explain import TwoSides


def values(found: TwoSides) -> go.Figure:
    """Singular values of the kept weight before and after."""
    figure = new_figure(
        "Singular values of the kept weight",
        "number",
        "singular value",
        f"{len(found.before)} singular values before and after the turn of both sides",
        height=400,
        yaxis={"type": "log", "exponentformat": "power"},
    )
    number = np.arange(1, len(found.before) + 1)
    for name, series, color in (
        ("before, σ", found.before, COLORS["pruned"]),
        ("after, s", found.after.abs(), COLORS["compensated"]),
    ):
        figure.add_scatter(
            x=number,
            y=series.clamp_min(1e-12).numpy(),
            name=name,
            mode="lines",
            line={"color": color, "width": 2},
            hovertemplate="%{x}: %{y:.4g}<extra>" + name + "</extra>",
        )
    return figure


def angles(found: TwoSides) -> go.Figure:
    """How far each singular vector turned, at the outputs and at the inputs."""
    figure = new_figure(
        "How far each side turns",
        "number of the singular vector",
        "angle in degrees",
        f"Angles of {len(found.left)} singular vectors at the outputs and at the inputs",
        height=400,
        yaxis={"rangemode": "tozero"},
    )
    number = np.arange(1, len(found.left) + 1)
    for name, series, color in (("outputs", found.left, "#CC79A7"), ("inputs", found.right, "#56B4E9")):
        figure.add_scatter(
            x=number,
            y=series.numpy(),
            name=name,
            mode="lines",
            line={"color": color, "width": 1.5},
            hovertemplate="%{x}: %{y:.1f}°<extra>" + name + "</extra>",
        )
    return figure
