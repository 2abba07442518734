"""Figures of how far Q turns: eigen-angles, output channels, principal angles."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from app.figures.base import COLORS, NEUTRAL, new_figure
from rcpu.methods import Rotation

CHANNELS, PRINCIPAL = "#CC79A7", "#56B4E9"
BIN = 2.5  # degrees
STROKE = 0.05  # half the length of an eigenvalue's stroke across the unit circle
MARK = {"color": NEUTRAL, "dash": "dot", "width": 1}


def circle(rotation: Rotation) -> go.Figure:
    """Eigenvalues of Q on the unit circle; those of a plane of rotation are conjugate."""
    angles = rotation.angles
    flipped = _flipped(rotation)
    figure = new_figure(
        "Eigenvalues of Q",
        "real part",
        "imaginary part",
        f"{len(angles)} eigenvalues on the unit circle, up to {largest_turn(rotation):.1f} degrees from 1"
        + (f"; {flipped} at −1" if flipped else ""),
        showlegend=flipped > 0,
        xaxis={"range": [-1.15, 1.15], "constrain": "domain"},
        yaxis={"range": [-1.15, 1.15], "constrain": "domain", "scaleanchor": "x"},
    )
    full = np.radians(np.arange(0, 361, 3))
    figure.add_scatter(
        x=np.cos(full),
        y=np.sin(full),
        mode="lines",
        line={"color": NEUTRAL, "width": 1},
        hoverinfo="skip",
        hovertemplate="<extra></extra>",
        showlegend=False,
        name="unit circle",
    )
    # Sorted angles hold the two of a pair side by side, so alternating signs part them.
    turned = angles[: len(angles) - flipped].clone()
    turned[1::2] *= -1
    x, y = turned.deg2rad().cos().numpy(), turned.deg2rad().sin().numpy()
    inner, outer = 1 - STROKE, 1 + STROKE
    # One path for all strokes, and unseen points to hover over: a mark for each takes a browser much longer.
    figure.add_shape(
        type="path",
        path="".join(
            f"M{inner * a:.4f},{inner * b:.4f}L{outer * a:.4f},{outer * b:.4f}" for a, b in zip(x, y, strict=True)
        ),
        line={"color": COLORS["compensated"], "width": 1.5},
        opacity=0.7,
        name="turned directions",
        showlegend=flipped > 0,
    )
    figure.add_scatter(
        x=x,
        y=y,
        customdata=turned.numpy(),
        mode="lines",
        line={"width": 0},
        showlegend=False,
        name="turned directions",
        hovertemplate="%{customdata:.2f}°<extra></extra>",
    )
    if flipped:
        figure.add_scatter(
            x=[-1.0] * flipped,
            y=[0.0] * flipped,
            mode="markers",
            marker={"color": "#D55E00", "size": 11, "symbol": "x"},
            name=f"reflected ({flipped})",
            hovertemplate="180°: a reflected direction<extra></extra>",
        )
    return figure


def distribution(rotation: Rotation) -> go.Figure:
    """How the eigen-angles of Q and the angles of the output channels are spread."""
    groups = (
        ("eigen-angles", rotation.angles, COLORS["compensated"]),
        ("output channels", rotation.channel_angles, CHANNELS),
    )
    far = max(float(values.max()) for _, values, _ in groups)
    figure = new_figure(
        "Distribution of the angles",
        "angle (degrees)",
        "share (%)",
        f"Mean eigen-angle {rotation.angles.mean():.1f} degrees, mean angle of an output channel "
        f"{rotation.channel_angles.mean():.1f}",
        barmode="overlay",
        bargap=0.05,
        xaxis={"range": [0, min(182.0, far * 1.04 + BIN)]},
    )
    for label, values, color in groups:
        x, y = (side[: int(far // BIN) + 1] for side in histogram(values))  # an empty bar takes as long to draw
        figure.add_bar(
            x=x,
            y=y,
            width=BIN,
            name=f"{label}, mean {values.mean():.1f}°",
            marker={"color": color, "line": {"width": 0}},
            opacity=0.6,
            hovertemplate=f"%{{x}}° ± {BIN / 2}°<br>%{{y:.1f}}%<extra></extra>",
        )
    return figure


def channel_angles(rotation: Rotation) -> go.Figure:
    """How far Q turns every output channel."""
    values = rotation.channel_angles
    mean = float(values.mean())
    figure = new_figure(
        "Angles of output channels",
        "output channel",
        "angle (degrees)",
        f"Channels turn by {values.min():.1f} to {values.max():.1f} degrees, {mean:.1f} on average; "
        f"channel {int(values.argmax())} turns most",
        showlegend=False,
        yaxis={"rangemode": "tozero"},
        shapes=[{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": mean, "y1": mean, "line": MARK}],
    )
    figure.add_scatter(
        x=np.arange(len(values)),
        y=values.numpy(),
        mode="lines",
        line={"color": CHANNELS, "width": 1, "shape": "hvh"},
        fill="tozeroy",
        name="output channels",
        hovertemplate="channel %{x}<br>%{y:.2f}°<extra></extra>",
    )
    return figure


def principal_angles(rotation: Rotation) -> go.Figure:
    """Principal angles between range(Z) and range(QZ), sorted."""
    values = rotation.principal_angles
    whole = rotation.rank == len(rotation.q)
    note = {"text": "Z fills the whole output space, so Q cannot move it", "showarrow": False}
    figure = new_figure(
        "Principal angles",
        "index, smallest first",
        "angle (degrees)",
        "Z fills the whole space: no angle is above 0"
        if whole
        else f"{int((values > 0.1).sum())} of {len(values)} principal angles are above 0.1 degrees, the largest is "
        f"{values.max() if len(values) else 0:.1f}",
        showlegend=False,
        yaxis={"range": [0, max(5.0, 1.05 * float(values.max()) if len(values) else 0.0)]},
        annotations=[{**note, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}] if whole else [],
    )
    figure.add_scatter(
        x=np.arange(1, len(values) + 1),
        y=values.numpy(),
        mode="lines",
        line={"color": PRINCIPAL, "width": 2},
        fill="tozeroy",
        name="principal angles",
        hovertemplate="index %{x}<br>%{y:.2f}°<extra></extra>",
    )
    return figure


def _flipped(rotation: Rotation) -> int:
    return int((rotation.angles > 180 - 1e-3).sum())


def largest_turn(rotation: Rotation) -> float:
    """The largest eigen-angle of a plane of rotation, degrees."""
    angles = rotation.angles[: len(rotation.angles) - _flipped(rotation)]
    return angles.max().item() if len(angles) else 180.0


def histogram(values: Tensor, width: float = BIN) -> tuple[list[float], list[float]]:
    """Middles of the bins from 0 to 180 degrees, and the percentage of values in each."""
    bins = round(180 / width)
    counts = torch.histc(values, bins, 0, 180)
    return [(i + 0.5) * width for i in range(bins)], (100 * counts / max(len(values), 1)).tolist()
