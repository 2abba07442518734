"""The ladder of ingredients: held-out errors, a group a number of windows."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from app.figures.base import COLORS, new_figure
from rcpu.explain import RUNGS, Rung

#: From what is not repaired over the rotation to ever more of ours.
SHADES = dict(zip(RUNGS, (COLORS["pruned"], "#CC79A7", "#A6D9C8", "#66C2A5", "#1B9E77", "#00674B"), strict=True))


def ladder(found: Sequence[Rung], title: str) -> go.Figure:
    """Relative error on held-out windows after each ingredient, few windows beside many."""
    groups = [f"{rung.windows} windows" for rung in found]
    figure = new_figure(
        title,
        "calibration windows",
        "held-out error ‖Y − Ŷ‖ ÷ ‖Y‖",
        title
        + ": "
        + "; ".join(f"{g}: {min(r.held_out, key=r.held_out.get)} is best" for g, r in zip(groups, found, strict=True)),
        height=440,
        barmode="group",
        yaxis={"rangemode": "tozero"},
    )
    for name in found[0].held_out:
        values = [rung.held_out[name] for rung in found]
        fitted = [rung.calibration[name] for rung in found]
        figure.add_bar(
            x=groups,
            y=values,
            customdata=fitted,
            name=RUNGS[name],
            marker_color=SHADES[name],
            text=[f"{v:.3f}" for v in values],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{x}: %{y:.4f} held-out, %{customdata:.4f} where fitted<extra>%{fullData.name}</extra>",
        )
    return figure
