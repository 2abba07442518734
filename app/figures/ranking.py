"""The figure of sorted importance scores and the cut, on every page that shows what a ratio takes."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from app.figures.base import AGAIN, COLORS, NEUTRAL, SMALLEST, log_ticks, new_figure, strung
from rcpu.methods import UNIT_NAMES

FEW = 200  # units that are a point each; of more a browser draws a line, and points here and there to click
CLICKED = 72  # points of a line, about
RING = "#CC79A7"  # around the unit that is shown
NEAR = 6  # ranks on either side of the cut that have a point


def unit_name(unit: int, strata: int, units: int, kind: str) -> str:
    """A unit by its place in a (strata, units) layout, as people call it."""
    if strata > 1:
        return f"value channel {unit % units} of KV head {unit // units}"
    return f"{UNIT_NAMES[kind].removesuffix('s')} {unit}"


def cut(scores: Tensor, keep: Tensor, kind: str, where: str, shown: int = -1) -> go.Figure:  # (strata, units) both
    """Every unit's score over its rank among those it competes with, and the cut; ``customdata`` is the unit."""
    strata, units = keep.shape
    kept, names = int(keep[0].sum()), UNIT_NAMES[kind]
    sort = scores.sort(dim=1, descending=True, stable=True)
    heights, order = sort.values.clamp_min(SMALLEST), sort.indices
    numbers = order + units * torch.arange(strata)[:, None]
    ranks = torch.arange(1.0, units + 1).expand(strata, -1)
    figure = new_figure(
        f"Importance of {names} in {where}, sorted",
        f"rank in its KV head, of {units:,}" if strata > 1 else f"{names}, most important first",
        "importance score",
        f"{int(keep.sum()):,} of {strata * units:,} {names} of {where} stay"
        + (f", {kept:,} of {units:,} in each of {strata} KV heads" if strata > 1 else ""),
        height=400,
        xaxis={"range": [1 - 0.02 * units, 1.02 * units]},
    )
    few, clicked = strata * units <= FEW, _to_click(strata, units, kept)
    for label, side, color, symbol in (
        ("stays", slice(0, kept), COLORS["dense"], "circle"),
        ("goes", slice(kept, units), COLORS["pruned"], "x"),
    ):
        some = clicked[side].nonzero().flatten()
        points = {
            "mode": "markers",
            "marker": {"color": color, "size": 9 if units <= 64 else 6, "symbol": symbol},
        }
        line = {"mode": "lines", "line": {"color": color, "width": 3}}
        for style, part in [(points, ...)] if few else [(line, None), (points, some)]:
            x, y, unit = (
                strung(v[:, side]) if part is None else v[:, side][:, part].flatten().numpy()
                for v in (ranks, heights, numbers)
            )
            figure.add_scatter(
                x=x,
                y=y,
                customdata=unit,
                text=[unit_name(u, strata, units, kind) for u in unit.tolist()] if few else None,
                **style,
                name=f"{label} ({keep[:, side].numel():,})",
                legendgroup=label,
                showlegend=style is line or few,
                meta=AGAIN if part is some else None,
                hovertemplate=("%{text}" if few else "unit %{customdata}")
                + "<br>rank %{x}<br>score %{y:.3g}<extra>"
                + label
                + "</extra>",
            )
    if 0 <= shown < strata * units:
        stratum, unit = divmod(shown, units)
        rank = int((order[stratum] == unit).nonzero())
        figure.add_scatter(
            x=[rank + 1],
            y=[heights[stratum, rank].item()],
            mode="markers",
            marker={"symbol": "circle-open", "size": 18, "color": RING, "line": {"width": 3}},
            name=unit_name(shown, strata, units, kind),
            meta=AGAIN,
            hoverinfo="skip",
        )
    log_ticks(figure, "y")
    if 0 < kept < units:
        figure.add_shape(
            type="line", x0=kept + 0.5, x1=kept + 0.5, yref="paper", y0=0, y1=1, line={"dash": "dash", "color": NEUTRAL}
        )
        figure.add_annotation(x=kept + 0.5, y=1, yref="paper", text="cut", showarrow=False, xanchor="left", xshift=3)
    return figure


def _to_click(strata: int, units: int, kept: int) -> Tensor:
    """Which ranks of a long line have a point: evenly spaced ones, and those around the cut, (units,) bool."""
    places = np.linspace(0, units - 1, max(3, CLICKED // strata)).round()
    chosen = torch.zeros(units, dtype=torch.bool)
    chosen[torch.from_numpy(places).long()] = True
    chosen[max(0, kept - max(1, NEAR // strata)) : kept + max(1, NEAR // strata)] = True
    return chosen
