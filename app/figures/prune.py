"""Figures of the page Prune: the map of the model."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from app.figures.base import AGAIN, COLORS, NEUTRAL, layer_axis, new_figure
from rcpu import SITES, Recipe

PICKED = "#D55E00"  # Okabe and Ito's vermilion


def layer_map(config: Recipe, layers: Sequence[int], count: int, picked: Sequence[int] = ()) -> go.Figure:
    """One square a projection: filled where it will be pruned, darker with its ratio; its layer is in customdata.

    Those of ``picked`` layers have a ring; what plotly itself holds for selected ends when they change.
    """
    chosen = [(i, site) for i in layers for site in SITES if site in config.sites]
    others = [(i, site) for i in range(count) for site in SITES if (i, site) not in set(chosen)]
    ratios = [config.ratio_of(i) for i, _ in chosen]
    low, high = (min(ratios), max(ratios)) if ratios else (0, 0)
    figure = new_figure(
        "Map of the model: click or draw a box to pick layers",
        "layer",
        "",
        f"{len(chosen)} of {2 * count} projections will be pruned, at ratios from {low:g} to {high:g}",
        dragmode="select",
        clickmode="event+select",
        selectionrevision=",".join(map(str, picked)),
    )
    side = max(6, min(22, 400 // count))  # side by side in a window of 1024, too
    figure.add_scatter(
        x=[i for i, _ in others],
        y=[site for _, site in others],
        mode="markers",
        marker={"symbol": "square-open", "size": side, "color": NEUTRAL},
        customdata=[i for i, _ in others],
        name="stays as it is",
        hovertemplate="layer %{x}, %{y}: stays as it is<extra></extra>",
    )
    figure.add_scatter(
        x=[i for i, _ in chosen],
        y=[site for _, site in chosen],
        mode="markers",
        marker={
            "symbol": "square",
            "size": side,
            "color": COLORS["compensated"],
            "opacity": [0.35 + 0.65 * r / high if high else 0.35 for r in ratios],
        },
        customdata=[i for i, _ in chosen],
        text=[f"{r:.0%}" for r in ratios],
        name="will be pruned, darker with its ratio",
        hovertemplate="layer %{x}, %{y}: %{text} of its units go<extra></extra>",
    )
    rings = [(i, site) for i in picked for site in SITES]
    if rings:
        figure.add_scatter(
            x=[i for i, _ in rings],
            y=[site for _, site in rings],
            mode="markers",
            marker={"symbol": "square-open", "size": side + 7, "color": PICKED, "line": {"width": 2}},
            name="picked",
            hoverinfo="skip",
            meta=AGAIN,
        )
    figure.update_yaxes(categoryorder="array", categoryarray=list(reversed(SITES)), showgrid=False)
    figure.update_xaxes(range=[-0.8, count - 0.2], showgrid=False, zeroline=False, **layer_axis(0, count - 1))
    figure.update_layout(height=210, margin={"l": 84, "t": 44, "b": 44})
    return figure
