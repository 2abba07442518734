"""Figures of outputs in their main directions, and of the way from Z to QZ."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from app.figures.base import AGAIN, COLORS, NEUTRAL, new_figure
from app.figures.repairs import ERROR
from rcpu.explain import Turning

OUTSIDE = 0.03  # share of the points by which neither end of an axis of the 3-D view is moved


def space(path: Turning, t: float, tokens: Sequence[str]) -> go.Figure:
    """Y, Z and exp(t log Q) Z of sampled tokens in the main directions of Y; the axes are those of every t."""
    seen = path.directions
    start, end, now = path.at(0.0), path.at(1.0), path.at(t)
    reach = torch.stack([seen.y, start, end]).flatten(0, 1)
    low, high = reach.quantile(torch.tensor([OUTSIDE, 1 - OUTSIDE], dtype=reach.dtype), dim=0)
    pad = (0.3 * (high - low)).clamp_min(1e-9)
    low, high = low - pad, high + pad
    axes = {
        f"{axis}axis": {
            "title": {"text": f"direction {i + 1} ({share:.0%})"},
            "range": [low[i].item(), high[i].item()],
            "nticks": 5,
        }
        for i, (axis, share) in enumerate(zip("xyz", seen.shares, strict=True))
    }
    inside = int(((seen.y >= low) & (seen.y <= high)).all(1).sum())
    figure = new_figure(
        f"Outputs in three directions, t = {t:.2f}",
        "",
        "",
        f"{len(seen.y)} tokens, {len(seen.y) - inside} of them beyond the axes. At t = {t:.2f} the relative error over "
        f"all tokens is {path.error(t):.4f}; it is {path.error(0.0):.4f} at 0 and {path.error(1.0):.4f} at 1",
        scene={
            **axes,
            "aspectmode": "cube",
            "camera": {"eye": {"x": 1.4, "y": 1.4, "z": 0.66}, "center": {"x": 0, "y": 0, "z": -0.1}},
        },
        uirevision="space",
        height=480,
        margin={"l": 0, "r": 0, "t": 40, "b": 40},
    )
    figure.layout.legend.itemsizing = "constant"
    labels = [html.escape(text, quote=False) for text in tokens]
    shown = (
        ("Y, dense", seen.y, COLORS["dense"], "square", 2.2),
        ("Z, not repaired", start, COLORS["pruned"], "diamond", 3.0),
        (f"exp({t:.2f} log Q) Z", now, COLORS["compensated"], "cross", 4.0),
    )
    for name, points, color, symbol, size in shown:
        x, y, z = _coordinates(points)
        figure.add_scatter3d(
            x=x,
            y=y,
            z=z,
            customdata=labels,
            mode="markers",
            marker={"color": color, "size": size, "symbol": symbol, "opacity": 0.9},
            name=name,
            hovertemplate="%{customdata}<br>(%{x:.3g}, %{y:.3g}, %{z:.3g})<extra>%{fullData.name}</extra>",
        )
    x, y, z = (
        torch.stack([now, seen.y, torch.full_like(now, math.nan)], 1).flatten(0, 1).mT.contiguous().float().numpy()
    )
    figure.add_scatter3d(
        x=x,
        y=y,
        z=z,
        mode="lines",
        line={"color": NEUTRAL, "width": 1},
        name="what is left to Y",
        meta=AGAIN,
        visible="legendonly",
        hoverinfo="skip",
        hovertemplate="<extra></extra>",
    )
    return figure


def _coordinates(points: Tensor) -> np.ndarray:  # (n, 3) → (3, n)
    """As browsers draw them, in single precision."""
    return points.mT.contiguous().float().numpy()


def path_error(path: Turning, t: float) -> go.Figure:
    """The error on the way from Z to QZ, and where t stands."""
    ts = [i / 50 for i in range(51)]
    figure = new_figure(
        "Error on the way",
        "t",
        ERROR,
        f"Relative error from {path.error(0.0):.4f} at t = 0 to {path.error(1.0):.4f} at t = 1",
        showlegend=False,
        yaxis={"rangemode": "tozero"},
    )
    figure.add_scatter(
        x=ts,
        y=path.errors(ts),
        mode="lines",
        line={"color": COLORS["compensated"]},
        name="error",
        hovertemplate="t = %{x:.2f}<br>error %{y:.4f}<extra></extra>",
    )
    figure.add_scatter(
        x=[t],
        y=[path.error(t)],
        mode="markers",
        marker={"color": COLORS["compensated"], "size": 11},
        name="now",
        hovertemplate="t = %{x:.2f}<br>error %{y:.4f}<extra></extra>",
    )
    return figure
