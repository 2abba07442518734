"""Figures of one solved projection and of all of them: what a run found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

from app.figures.angles import CHANNELS
from app.figures.base import COLORS, NEUTRAL, SMALLEST, grouped, layer_axis, log_ticks, new_figure
from app.figures.ranking import cut


class Site(Protocol):
    """Of a projection what is drawn here: ``rcpu.SiteResult`` has it, and what is kept of one."""

    layer: int
    site: str
    unit: str
    unit_scores: Tensor
    keep: Tensor
    singular_values: Tensor
    rank: int
    angles: Tensor
    channel_angles: Tensor
    determinant: int
    error_none: float
    error_compensated: float
    error_none_held_out: float | None
    error_compensated_held_out: float | None


def scores(site: Site) -> go.Figure:
    """Importance of every unit, sorted, with the line that the ratio draws; log axis."""
    return cut(site.unit_scores, site.keep, site.unit, f"layer {site.layer}, {site.site}")


def spectrum(site: Site) -> go.Figure:
    """Singular values of M = YZᵀ over their index, relative to the largest; log axis."""
    s = site.singular_values / site.singular_values[0].clamp_min(SMALLEST)
    figure = new_figure(
        "Singular spectrum of YZᵀ",
        "index, largest first",
        "singular value ÷ largest",
        f"{len(s)} singular values; {site.rank} stand above the rounding of the sums",
    )
    for label, part, color in (
        (f"signal ({site.rank})", slice(0, site.rank), COLORS["compensated"]),
        (f"null space ({len(s) - site.rank})", slice(site.rank, len(s)), NEUTRAL),
    ):
        values = s[part].clamp_min(1e-18).numpy()
        if len(values):
            figure.add_scatter(
                x=np.arange(part.start, part.start + len(values)) + 1,
                y=values,
                mode="lines" if len(values) > 1 else "markers",
                line={"color": color, "width": 3},
                name=label,
                hovertemplate="index %{x}<br>%{y:.3e}<extra></extra>",
            )
    return log_ticks(figure, "y")


def angles(site: Site) -> go.Figure:
    """Distribution of the eigen-angles of Q, and of how far it turns single output channels, in degrees."""
    figure = new_figure(
        f"Angles of Q (det Q = {site.determinant:+d})".replace("-", "−"),
        "angle (degrees)",
        "share of directions (%)",
        f"mean eigen-angle {site.angles.mean():.1f} degrees, largest {site.angles.max():.1f}",
        barmode="overlay",
    )
    for label, values, color in (
        ("eigen-angles", site.angles, COLORS["compensated"]),
        ("output channels", site.channel_angles, CHANNELS),
    ):
        figure.add_histogram(
            x=values.numpy(),
            xbins={"start": 0, "end": 181, "size": 2.5},
            histnorm="percent",
            name=f"{label}, mean {values.mean():.1f}°",
            marker_color=color,
            opacity=0.65,
            hovertemplate="%{x}°<br>%{y:.1f}%<extra></extra>",
        )
    largest = float(max(site.angles.max(), site.channel_angles.max()))
    figure.update_xaxes(range=[0, min(180, largest * 1.05 + 2.5)])
    return figure


def site_errors(site: Site) -> go.Figure:
    """Relative error of one site without and with compensation, on calibration and held-out windows."""
    return grouped(
        "Error of this projection",
        {
            "calibration": {"pruned": site.error_none, "compensated": site.error_compensated},
            "held-out": {"pruned": site.error_none_held_out, "compensated": site.error_compensated_held_out},
        },
        "relative error ‖Y − Ŷ‖ ÷ ‖Y‖",
        ".4f",
    )


def layer_errors(sites: Sequence[Site], name: str) -> go.Figure:
    """Relative error of one kind of site over the layers, without and with compensation; dotted on held-out windows."""
    chosen = [s for s in sites if s.site == name]
    figure = new_figure(
        f"Error of {name} over the layers",
        "layer",
        "relative error ‖Y − Ŷ‖ ÷ ‖Y‖",
        f"Relative error of {name} in {len(chosen)} layers, without and with compensation",
    )
    for model, field in (("pruned", "error_none"), ("compensated", "error_compensated")):
        for suffix, label, dash in (("", "", "solid"), ("_held_out", ", held-out", "dot")):
            figure.add_scatter(
                x=[s.layer for s in chosen],
                y=[getattr(s, field + suffix) for s in chosen],
                mode="lines+markers",
                line={"color": COLORS[model], "dash": dash},
                marker={"size": 5},
                name=("not repaired" if model == "pruned" else "compensated") + label,
                hovertemplate="layer %{x}<br>error %{y:.4f}<extra></extra>",
            )
    figure.update_yaxes(rangemode="tozero")
    if chosen:
        figure.update_xaxes(layer_axis(chosen[0].layer, chosen[-1].layer))
    return figure
