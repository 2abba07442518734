"""Figures of the page Spectrum and rotation that show all layers as small multiples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from app.figures.angles import BIN, histogram
from app.figures.base import COLORS, HEIGHT, LOG, NEUTRAL, SMALLEST, new_figure
from app.figures.repairs import COMPENSATIONS, color_of, ordered
from rcpu.explain import Overview, effective_rank

SHORT = {"none": "none", "bias": "bias", "rotation": "Q", "rotation_scale": "s·Q", "least_squares": "LS"}
DRAWN = 120  # points of a curve in a small panel


def spectra_by_layer(found: Sequence[Overview], where: str) -> go.Figure:
    """Relative spectra, a panel a layer."""
    titles = [f"layer {o.layer}: eff. rank {effective_rank(o.singular_values[: o.rank]):.0f}" for o in found]
    figure = _panels(
        f"Singular values of M, {where}",
        titles,
        "index",
        "σ ÷ largest",
        f"Effective rank from {titles[0].split()[-1]} in layer {found[0].layer} to {titles[-1].split()[-1]} in layer "
        f"{found[-1].layer}",
        {"range": [1, max(len(o.singular_values) for o in found)], "nticks": 3},
        {**LOG, "nticks": 4, "range": [_lowest(found), 0.2]},
    )
    for i, o in enumerate(found):
        signal = (o.singular_values[: o.rank] / o.singular_values[0].clamp_min(SMALLEST)).numpy()
        places = _thinned(len(signal))
        _draw(
            figure,
            i,
            go.Scatter(
                x=places + 1,
                y=signal[places],
                mode="lines",
                line={"color": COLORS["compensated"], "width": 1.5},
                name=f"layer {o.layer}",
                hovertemplate="index %{x}<br>%{y:.2e}<extra>%{fullData.name}</extra>",
            ),
        )
    return figure


def angles_by_layer(found: Sequence[Overview], where: str) -> go.Figure:
    """Distribution of the eigen-angles, a panel a layer."""
    titles = [f"layer {o.layer}: {o.angles.mean():.1f}°, det {o.determinant:+d}".replace("-", "−") for o in found]
    means = {o.layer: o.angles.mean().item() for o in found}
    most = max(means, key=means.get)
    far = min(182.0, 1.04 * max(o.angles.max().item() for o in found) + 2 * BIN)
    figure = _panels(
        f"Eigen-angles of Q and their means, {where}",
        titles,
        "degrees",
        "share (%)",
        f"Mean eigen-angles from {min(means.values()):.1f} to {means[most]:.1f} degrees, largest in layer {most}",
        {"range": [0, far], "nticks": 4},
        {"rangemode": "tozero", "nticks": 4, "matches": "y"},
    )
    for i, o in enumerate(found):
        x, y = histogram(o.angles, 2 * BIN)
        _draw(
            figure,
            i,
            go.Scatter(
                x=x,
                y=y,
                mode="lines",
                line={"color": COLORS["compensated"], "width": 1.5, "shape": "hvh"},
                fill="tozeroy",
                name=f"layer {o.layer}",
                hovertemplate=f"%{{x}}° ± {BIN}°<br>%{{y:.1f}}%<extra>%{{fullData.name}}</extra>",
            ),
        )
    return figure


def errors_by_layer(found: Sequence[Overview], where: str) -> go.Figure:
    """Errors of all compensators, a panel a layer: bars for the calibration windows, diamonds for held-out ones."""
    gains = [o.errors["rotation"].calibration / (o.errors["none"].calibration or 1.0) - 1 for o in found]
    figure = _panels(
        f"Relative errors, {where}; diamonds: held-out",
        [f"layer {o.layer}: Q {g:+.0%}".replace("-", "−") for o, g in zip(found, gains, strict=True)],
        "",
        "relative error",
        f"The rotation changes the calibration error by {100 * min(gains):.0f} to {100 * max(gains):.0f} percent",
        {"type": "category", "tickangle": -90},
        {"rangemode": "tozero", "nticks": 4, "matches": "y"},
    )
    for i, o in enumerate(found):
        rows = ordered(o.errors)
        names = [SHORT[name] for name, _ in rows]
        _draw(
            figure,
            i,
            go.Bar(
                x=names,
                y=[e.calibration for _, e in rows],
                marker={"color": [color_of(name) for name, _ in rows]},
                name=f"layer {o.layer}, calibration",
                hovertemplate="%{x}: %{y:.4f}<extra>%{fullData.name}</extra>",
            ),
        )
        if all(e.held_out is not None for _, e in rows):
            _draw(
                figure,
                i,
                go.Scatter(
                    x=names,
                    y=[e.held_out for _, e in rows],
                    mode="markers",
                    marker={"color": NEUTRAL, "symbol": "diamond", "size": 6},
                    name=f"layer {o.layer}, held-out",
                    hovertemplate="%{x}: %{y:.4f}<extra>%{fullData.name}</extra>",
                ),
            )
    return figure


def layers_table(found: Sequence[Overview]) -> dict[str, list]:
    """The numbers of all layers, a row a layer."""
    table = {
        "layer": [o.layer for o in found],
        "kept inputs": [o.kept for o in found],
        "rank of M": [o.rank for o in found],
        "effective rank": [round(effective_rank(o.singular_values[: o.rank]), 1) for o in found],
        "mean eigen-angle (°)": [round(o.angles.mean().item(), 2) for o in found],
        "mean channel angle (°)": [round(o.channel_angles.mean().item(), 2) for o in found],
        "det Q": [o.determinant for o in found],
    }
    for name, label in COMPENSATIONS.items():
        table[label] = [round(o.errors[name].calibration, 5) for o in found]
    for name, label in COMPENSATIONS.items():
        held = [o.errors[name].held_out for o in found]
        table[f"{label}, held-out"] = [None if v is None else round(v, 5) for v in held]
    return table


def _lowest(found: Sequence[Overview]) -> float:
    """Lower end of a log axis that holds all relative spectra, as a power of ten."""
    smallest = [(o.singular_values[o.rank - 1] / o.singular_values[0]).item() for o in found if o.rank]
    return math.log10(min(smallest, default=1e-3)) - 0.3


def _thinned(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, max(0, count - 1), min(count, DRAWN)).round().astype(int))


def _panels(title: str, titles: Sequence[str], x: str, y: str, alt: str, x_axis: dict, y_axis: dict) -> go.Figure:
    """An empty grid, a panel a layer, with shared axes; the lower left panel is numbered 1 and names them."""
    count = len(titles)
    columns = min(count, 6 if count > 8 else 4)
    rows = math.ceil(count / columns)
    height = 90 + 135 * rows
    layout, notes = {}, []
    across, down = 0.022, 34 / (height - 90)  # gaps: shares of the plotting area
    width, tall = (1 - across * (columns - 1)) / columns, (1 - down * (rows - 1)) / rows
    for i, label in enumerate(titles):
        row, column = divmod(i, columns)
        left, top = column * (width + across), 1 - row * (tall + down)
        number = _number(i, count, columns)
        lowest = i + columns >= count  # nothing below it
        layout[f"xaxis{number}"] = {
            **x_axis,
            "domain": [left, left + width],
            "anchor": f"y{number}",
            "showticklabels": lowest,
        }
        layout[f"yaxis{number}"] = {
            **{k: v for k, v in y_axis.items() if k != "matches" or number},
            "domain": [max(top - tall, 0), top],
            "anchor": f"x{number}",
            "showticklabels": column == 0,
        }
        notes.append(
            {
                "text": label,
                "x": left,
                "y": top,
                "xref": "paper",
                "yref": "paper",
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"size": 11},
            }
        )
    return new_figure(
        title,
        x,
        y,
        alt,
        showlegend=False,
        height=max(height, HEIGHT),
        margin={"t": 60, "b": 48, "l": 64, "r": 8},
        annotations=notes,
        meta={"alt": alt, "columns": columns, "panels": count},
        **layout,
    )


def _number(panel: int, count: int, columns: int) -> str:
    """The number in the names of a panel's axes: none for the lower left one."""
    lower_left = (math.ceil(count / columns) - 1) * columns
    if panel == lower_left:
        return ""
    return str(panel + 2 if panel < lower_left else panel + 1)


def _draw(figure: go.Figure, panel: int, trace: go.Scatter | go.Bar) -> None:
    number = _number(panel, figure.layout.meta["panels"], figure.layout.meta["columns"])
    trace.update(xaxis=f"x{number}", yaxis=f"y{number}")
    figure.add_trace(trace)


MULTIPLES = {"spectrum": spectra_by_layer, "angles": angles_by_layer, "errors": errors_by_layer}
