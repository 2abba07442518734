"""Figures of how much leaves which layer and site, and what that is predicted to cost."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from app.figures.base import COLORS, NEUTRAL, SITE_COLORS, new_figure
from rcpu.explain import Pricing


def price_curves(found: Pricing, site: str) -> go.Figure:
    """Price over the share of units gone, a line a layer, from the first (dark) to the last (light)."""
    curves = {layer: curve for (layer, name), curve in found.curves.items() if name == site}
    what = "price in nats a token" if found.nats else "relative error of the output, squared"
    figure = new_figure(
        f"What {site} costs as it shrinks",
        "share of units gone",
        what,
        f"{what} of {site} over the share of units gone, a line for each of {len(curves)} layers",
        height=420,
        xaxis={"tickformat": ".0%"},
        yaxis={"rangemode": "tozero"},
        showlegend=False,
    )
    colors = sample_colorscale("Viridis", np.linspace(0, 0.92, max(2, len(curves))))
    for (layer, curve), color in zip(curves.items(), colors, strict=False):
        costs = curve.at_each().numpy()
        figure.add_scatter(
            x=np.arange(len(costs)) / found.units[site],
            y=costs,
            name=f"layer {layer}",
            mode="lines",
            line={"color": color, "width": 2},
            hovertemplate=f"layer {layer}, %{{x:.0%}} gone: %{{y:.4f}}<extra></extra>",
        )
        gone = min(found.chosen.get((layer, site), 0), len(costs) - 1)
        figure.add_scatter(
            x=[gone / found.units[site]],
            y=[costs[gone]],
            mode="markers",
            marker={"color": color, "size": 8, "line": {"width": 1, "color": NEUTRAL}},
            hovertemplate=f"layer {layer}: %{{x:.0%}} go<extra></extra>",
        )
    return figure


def shares(gone: Mapping[tuple[int, str], float], title: str, usual: float | None = None) -> go.Figure:
    """Share of units that leave each layer, a bar a site; ``usual`` is the share if all lost alike."""
    sites = list(dict.fromkeys(site for _, site in gone))
    figure = new_figure(
        title,
        "layer",
        "share of units gone",
        f"{title}: " + "; ".join(f"{s} {_range([v for (_, n), v in gone.items() if n == s])}" for s in sites),
        barmode="group",
        xaxis={"tick0": 0, "dtick": 1 if len(gone) < 34 else 2},
        yaxis={"tickformat": ".0%", "rangemode": "tozero"},
    )
    for site in sites:
        values = {layer: share for (layer, name), share in gone.items() if name == site}
        figure.add_bar(
            x=list(values),
            y=list(values.values()),
            name=site,
            marker_color=SITE_COLORS.get(site, COLORS["dense"]),
            hovertemplate="layer %{x}: %{y:.1%} of " + site + "<extra></extra>",
        )
    if usual is not None:
        figure.add_hline(usual, line={"dash": "dash", "color": NEUTRAL}, annotation_text="all alike")
    return figure


def _range(values: list[float]) -> str:
    return f"{min(values):.0%} to {max(values):.0%}"
