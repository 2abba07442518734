"""Figures of the page Prune: the map of the model."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from app.figures.base import COLORS, NEUTRAL, new_figure
from rcpu import SITES, PruneConfig


def layer_map(config: PruneConfig, layers: Sequence[int], count: int) -> go.Figure:
    """One square a projection: filled where it will be pruned, darker with its ratio; its layer is in customdata."""
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
    )
    faint = {"color": "rgba(140,140,140,0.12)", "line": {"color": NEUTRAL, "width": 1}}
    figure.add_bar(
        **_squares(others), marker=faint, name="stays as it is", hovertemplate="%{text}: stays as it is<extra></extra>"
    )
    figure.add_bar(
        **_squares(chosen),
        marker={
            "color": COLORS["compensated"],
            "opacity": [0.35 + 0.65 * r / high if high else 0.35 for r in ratios],
        },
        name="will be pruned, darker with its ratio",
        hovertext=[f"{r:.0%}" for r in ratios],
        hovertemplate="%{text}: %{hovertext} of its units go<extra></extra>",
    )
    figure.update_yaxes(tickvals=list(range(len(SITES))), ticktext=list(reversed(SITES)), showgrid=False)
    figure.update_xaxes(range=[-0.6, count - 0.4], showgrid=False, zeroline=False)
    figure.update_layout(height=210, margin={"l": 84, "t": 44, "b": 44}, barmode="overlay")
    return figure


def _squares(places: Sequence[tuple[int, str]]) -> dict[str, object]:
    """Bars that stand where marks would, and are as wide as the figure allows."""
    rows = [len(SITES) - 1 - SITES.index(site) for _, site in places]
    return {
        "x": [layer for layer, _ in places],
        "y": [0.7] * len(places),
        "base": [row - 0.35 for row in rows],
        "width": 0.84,
        "customdata": [layer for layer, _ in places],
        "text": [f"layer {layer}, {site}" for layer, site in places],
        "textposition": "none",
    }
