"""Recipes at equal parameters, as a figure of the field guide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from app.figures.base import AGAIN, COLORS, log_ticks, new_figure
from app.figures.compare import DASHES
from app.figures.found import shades
from app.guide import Level

STRONG = {"best": COLORS["compensated"], "rcpu-paper": COLORS["least_squares"]}  # the others are looked at beside them
GAP = 0.042  # between two names, of the figure's height


def at_equal_parameters(recipes: Mapping[str, Sequence[Level]], dense: float | None) -> go.Figure:
    """Perplexity over what is left of the decoder layers, a line a recipe with its name at the end."""
    figure = new_figure(
        "Perplexity at equal parameters",
        "parameters of the decoder layers that stay",
        "perplexity",
        "Perplexity over the share of the decoder's parameters that stays, a line a recipe",
        height=560,
        showlegend=False,
    )
    ordered = sorted(recipes.items(), key=lambda one: one[1][-1].perplexity)
    ends = [levels[-1] for _, levels in ordered]
    seen = [level.perplexity for _, levels in ordered for level in levels] + ([] if dense is None else [dense])
    low, high = np.log10(min(seen)), np.log10(max(seen))
    heights = apart([np.log10(end.perplexity) for end in ends], GAP * (high - low))
    colors, most = shades(len(ordered)), min(end.decoder for end in ends)
    for n, ((name, levels), height) in enumerate(zip(ordered, heights, strict=True)):
        main = name in STRONG
        color = STRONG.get(name, colors[n])
        figure.add_scatter(
            x=[level.decoder for level in levels],
            y=[level.perplexity for level in levels],
            name=name,
            mode="lines+markers",
            line={"color": color} | ({"width": 4} if main else {"width": 1.5, "dash": DASHES[n % len(DASHES)]}),
            hovertemplate="%{x:.1%}: %{y:.2f}<extra>" + name + "</extra>",
        )
        figure.add_scatter(
            x=[ends[n].decoder, most - 0.008],
            y=[ends[n].perplexity, 10**height],
            mode="lines+text",
            line={"color": color, "width": 0.5},
            text=["", f"<b>{name}</b>" if main else name],
            textfont={"color": color} if main else {},
            textposition="middle right",
            hoverinfo="skip",
            meta=AGAIN,
        )
    if dense is not None:
        figure.add_scatter(
            x=[1.0],
            y=[dense],
            name="dense",
            mode="markers+text",
            text=["dense"],
            textposition="top right",
            marker={"color": COLORS["dense"], "size": 10},
        )
    figure.update_xaxes(tickformat=".0%", range=[1.01, most - 0.06])
    return log_ticks(figure, "y").update_yaxes(
        range=[low - 0.03 * (high - low), max(high, *heights) + GAP * (high - low)]
    )


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights moved as little as it takes to lie a gap apart: those too near share the room around them."""
    groups: list[list[float]] = []

    def start(group: list[float]) -> float:
        return sum(group) / len(group) - gap * (len(group) - 1) / 2

    for height in heights:
        groups.append([height])
        while len(groups) > 1 and start(groups[-1]) < start(groups[-2]) + gap * len(groups[-2]):
            groups[-2:] = [groups[-2] + groups[-1]]
    return [start(group) + gap * n for group in groups for n in range(len(group))]
