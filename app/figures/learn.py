"""Figures of the lessons: matrices drawn to scale, drift, channels, errors over calibration windows, orders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

from app.figures.base import COLORS, NEUTRAL, SITE_COLORS, layer_axis, log_ticks, new_figure
from rcpu.explain import Matrix, Step

QUARTERS = np.array([0.25, 0.75])
ORDER_NAMES = {"none": "Not repaired", "paper": "Paper's order", "site": "o_proj first"}
ORDER_STYLES = {
    "none": (COLORS["pruned"], "solid"),
    "paper": ("#CC79A7", "solid"),
    "site": (COLORS["compensated"], "dash"),
}


def matrices(groups: Sequence[Sequence[Sequence[Matrix]]], layer: int, after: bool) -> go.Figure:
    """The matrices of one layer to scale: one block below the other, each a row of stacks; orange leaves.

    With ``after`` what is left is drawn closed up inside the outline of what was there.
    """
    every = [m for block in groups for stack in block for m in stack]
    gone = sum(m.rows * m.columns - m.left[0] * m.left[1] for m in every)
    share = gone / sum(m.rows * m.columns for m in every)
    figure = new_figure(
        f"Layer {layer} to scale" + (": what is left" if after else ": orange leaves"),
        "",
        "",
        f"{len(every)} matrices of layer {layer}; {share:.1%} of their weights leave",
    )
    unit = max(m.columns for m in every)
    gap, label = 0.09 * unit, 0.25 * unit
    width = depth = 0.0
    for block in groups:
        x0, height = 0.0, 0.0
        for stack in block:
            y0 = depth + label
            for m in stack:
                _matrix(figure, m, x0, y0, after)
                y0 += m.rows + label
            x0 += max(m.columns for m in stack) + gap
            height = max(height, y0 - label - depth)
        width, depth = max(width, x0 - gap), depth + height
    for name, color in (("stays", COLORS["dense"]), ("leaves", COLORS["pruned"])):
        symbol = "square-open" if after and name == "leaves" else "square"
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=name,
            marker={"color": color, "symbol": symbol, "size": 12},
            hoverinfo="skip",
        )
    figure.update_xaxes(visible=False, range=[-0.02 * unit, width + 0.02 * unit])
    figure.update_yaxes(visible=False, range=[depth + 0.02 * unit, 0], scaleanchor="x")
    figure.update_layout(margin={"l": 8, "r": 8, "t": 44, "b": 8}, height=540)
    return figure


def _matrix(figure: go.Figure, m: Matrix, x0: float, y0: float, after: bool) -> None:
    rows, columns = m.left
    shape = f"{rows:,} × {columns:,}" if after else f"{m.rows:,} × {m.columns:,}"
    figure.add_annotation(
        x=x0,
        y=y0,
        text=f"<b>{m.name}</b><br>{shape}",
        showarrow=False,
        xanchor="left",
        yanchor="bottom",
        align="left",
        font={"size": 11},
    )
    blue, orange = COLORS["dense"], COLORS["pruned"]
    box = {"type": "rect", "x0": x0, "y0": y0, "line": {"width": 1}}
    if after or (m.kept_rows is None and m.kept_columns is None):
        if after:
            figure.add_shape(
                box | {"x1": x0 + m.columns, "y1": y0 + m.rows, "line": {"color": orange, "dash": "dot", "width": 1.5}}
            )
        figure.add_shape(box | {"x1": x0 + columns, "y1": y0 + rows, "fillcolor": blue, "line": {"color": blue}})
        return
    by_row = m.kept_rows is not None
    gone = (~(m.kept_rows if by_row else m.kept_columns)).byte().numpy()
    # Two cells side by side stretch each row or column over the whole matrix.
    wide, high = x0 + m.columns * QUARTERS, y0 + m.rows * QUARTERS
    figure.add_heatmap(
        z=np.stack([gone, gone], axis=1 if by_row else 0),
        x=wide if by_row else x0 + np.arange(m.columns) + 0.5,
        y=y0 + np.arange(m.rows) + 0.5 if by_row else high,
        colorscale=[[0, blue], [1, orange]],
        zmin=0,
        zmax=1,
        showscale=False,
        name=m.name,
        hovertemplate=f"{m.name}: {gone.sum():,} of {len(gone):,} {'rows' if by_row else 'columns'} leave"
        + "<extra></extra>",
    )


def drift_over_layers(errors: Mapping[str, Mapping[int, float]], ratio: float, layer: int) -> go.Figure:
    """Error without repair of every layer at one ratio, a line a site; the chosen layer is marked."""
    figure = new_figure(
        f"Drift of every layer, {ratio:.0%} removed",
        "layer",
        "error ‖Y − Z‖ ÷ ‖Y‖",
        f"Relative drift of both projections over {len(next(iter(errors.values())))} layers at ratio {ratio:g}",
    )
    for site, by_layer in errors.items():
        figure.add_scatter(
            x=list(by_layer),
            y=list(by_layer.values()),
            mode="lines+markers",
            name=site,
            line={"color": SITE_COLORS[site]},
            marker={"size": 6, "symbol": "circle" if site == "o_proj" else "square"},
            hovertemplate=site + ", layer %{x}<br>error %{y:.3f}<extra></extra>",
        )
    figure.add_vline(x=layer, line_dash="dot", line_color=NEUTRAL)
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(layer_axis(min(by_layer), max(by_layer)))
    figure.update_layout(margin={"t": 48}, height=290)
    return figure


def drift_over_ratios(
    ratios: Sequence[float], errors: Mapping[str, Sequence[float]], layer: int, ratio: float
) -> go.Figure:
    """Error without repair of one layer at every ratio, a line a site; the chosen ratio is marked."""
    figure = new_figure(
        f"Drift of layer {layer} at every ratio",
        "columns removed (%)",
        "error ‖Y − Z‖ ÷ ‖Y‖",
        f"Relative drift of both projections of layer {layer} over the ratio",
    )
    for site, values in errors.items():
        figure.add_scatter(
            x=[100 * r for r in ratios],
            y=list(values),
            mode="lines+markers",
            name=site,
            line={"color": SITE_COLORS[site]},
            marker={"size": 6, "symbol": "circle" if site == "o_proj" else "square"},
            hovertemplate=site + ", %{x:.0f}% removed<br>error %{y:.3f}<extra></extra>",
        )
    figure.add_vline(x=100 * ratio, line_dash="dot", line_color=NEUTRAL)
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(margin={"t": 48}, height=290)
    return figure


#: What two scores decide about a channel: both keep it, both remove it, or one of them does.
CHOICES = {
    "stays": ("both keep", NEUTRAL, "circle", 4),
    "both": ("both remove", "#56B4E9", "circle", 5),
    "only_with": ("only RCPU removes", COLORS["compensated"], "diamond", 9),
    "only_without": ("only the score without variance removes", COLORS["pruned"], "x", 9),
}


def channels(mean_absolute: Tensor, deviation: Tensor, with_variance: Tensor, without: Tensor, title: str) -> go.Figure:
    """Every input by how large it is and how much it changes, and which of two scores keeps it; (d_in,) each."""
    groups = {
        "stays": with_variance & without,
        "both": ~with_variance & ~without,
        "only_with": ~with_variance & without,
        "only_without": with_variance & ~without,
    }
    figure = new_figure(
        title,
        "size: mean|x|",
        "change: standard deviation of x",
        f"{len(mean_absolute)} channels by size and change; "
        f"{int(groups['only_with'].sum())} leave by one score and stay by the other",
    )
    floor = 1e-12
    for key, mask in groups.items():
        label, color, symbol, size = CHOICES[key]
        found = mask.nonzero().flatten()
        figure.add_scatter(
            x=mean_absolute[found].clamp_min(floor).numpy(),
            y=deviation[found].clamp_min(floor).numpy(),
            mode="markers",
            name=f"{label} ({len(found):,})",
            marker={"color": color, "symbol": symbol, "size": size, "opacity": 0.5 if key == "stays" else 0.9},
            customdata=found.numpy(),
            hovertemplate="channel %{customdata}<br>mean|x| %{x:.3g}<br>deviation %{y:.3g}<extra></extra>",
        )
    log_ticks(figure, "x")
    log_ticks(figure, "y")
    figure.update_layout(margin={"t": 48}, height=440)
    return figure


def growing(steps: Sequence[Step], key: str, title: str) -> go.Figure:
    """Errors over calibration windows: nothing, rotation and least squares; solid held-out, dotted calibration."""
    last = steps[-1] if steps else None
    figure = new_figure(
        title,
        "calibration windows (log scale)",
        "error ‖Y − Ŷ‖ ÷ ‖Y‖",
        "Errors of nothing, rotation and least squares"
        + (f" after 1 to {last.windows} calibration windows, on held-out text and on the windows" if last else ""),
    )
    lines = (
        ("none", "not repaired", COLORS["pruned"], "circle"),
        ("rotation", "rotation", COLORS["compensated"], "square"),
        (key, "least squares", COLORS["least_squares"], "diamond"),
    )
    for part, dash, suffix in (("held_out", "solid", ""), ("calibration", "dot", ", on its own windows")):
        for name, label, color, symbol in lines:
            if part == "calibration" and name == "none":
                continue
            figure.add_scatter(
                x=[s.windows for s in steps],
                y=[getattr(s, part)[name] for s in steps],
                mode="lines+markers",
                name=label + suffix,
                line={"color": color, "dash": dash},
                marker={"symbol": symbol, "size": 8 if part == "held_out" else 5},
                opacity=1 if part == "held_out" else 0.7,
                customdata=[(s.tokens, s.tokens / s.kept) for s in steps],
                hovertemplate=label
                + suffix
                + "<br>%{x} windows: %{customdata[0]:,} tokens, %{customdata[1]:.2g} for each kept input"
                + "<br>error %{y:.4f}<extra></extra>",
            )
    windows = [s.windows for s in steps]
    if last and windows[0] < (reached := last.kept * last.windows / last.tokens) < last.windows:
        figure.add_vline(
            x=reached,
            line={"width": 1, "color": NEUTRAL},
            annotation={
                "text": "a token for each kept input",
                "x": math.log10(reached),
                "xanchor": "left",
                "xshift": 6,
            },
        )
    figure.update_xaxes(type="log", tickvals=windows, ticktext=[str(w) for w in windows])
    drawn = (e for s in steps for e in (s.held_out[n] for n in ("none", "rotation", key)) if e is not None)
    figure.update_yaxes(range=[0, 1.15 * max(drawn, default=1.0)])  # room above for the note
    figure.update_layout(margin={"t": 48}, height=460)
    return figure


def order_drift(drift: Mapping[str, Sequence[float]], pruned: Sequence[int]) -> go.Figure:
    """How far the stream after every layer is from the dense one, a line an order; pruned layers are shaded."""
    count = len(next(iter(drift.values())))
    figure = new_figure(
        "How far the stream is from the dense model's",
        "layer",
        "mean ‖h − ĥ‖ ÷ ‖h‖",
        f"Relative distance from the dense stream after {count} layers, not repaired and in both orders",
    )
    for order, values in drift.items():
        color, dash = ORDER_STYLES[order]
        figure.add_scatter(
            x=list(range(count)),
            y=list(values),
            mode="lines+markers",
            name=ORDER_NAMES[order],
            line={"color": color, "dash": dash, "width": 6 if order == "paper" else 2},  # both orders may coincide
            marker={"size": 5},
            hovertemplate=ORDER_NAMES[order] + "<br>after layer %{x}: %{y:.4f}<extra></extra>",
        )
    figure.add_vrect(
        x0=min(pruned) - 0.5,
        x1=max(pruned) + 0.5,
        fillcolor=NEUTRAL,
        opacity=0.15,
        line_width=0,
        annotation_text="pruned",
        annotation_position="top left",
    )
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(layer_axis(0, count - 1))
    figure.update_layout(margin={"t": 48}, height=320)
    return figure


def order_gains(drift: Mapping[str, Sequence[float]], pruned: Sequence[int]) -> go.Figure:
    """Share of the drift that repair takes away after each pruned layer, a bar an order."""
    gains = {
        order: [100 * (1 - drift[order][i] / drift["none"][i]) if drift["none"][i] else 0.0 for i in pruned]
        for order in ORDER_NAMES
        if order != "none"
    }
    figure = new_figure(
        "What repair takes off that distance",
        "layer",
        "share taken off (%)",
        "; ".join(f"{ORDER_NAMES[o]}: {g[-1]:.1f}% after layer {pruned[-1]}" for o, g in gains.items()),
        barmode="group",
    )
    for order, values in gains.items():
        figure.add_bar(
            x=[str(i) for i in pruned],
            y=values,
            name=ORDER_NAMES[order],
            marker_color=ORDER_STYLES[order][0],
            marker_pattern_shape="/" if order == "paper" else "",
            hovertemplate=ORDER_NAMES[order] + "<br>after layer %{x}: %{y:.2f}%<extra></extra>",
        )
    figure.update_layout(margin={"t": 48}, height=300)
    return figure


def plane(y: Sequence[Sequence[float]], z: Sequence[Sequence[float]], turned: Sequence[Sequence[float]]) -> go.Figure:
    """Points (x, y) of the lesson on Procrustes: targets Y, points Z and QZ, each a closed shape."""
    figure = new_figure(
        "Targets, points, and the points turned",
        "first output",
        "second output",
        f"{len(y)} targets Y, as many points Z, and QZ, which is Z turned as near to Y as it goes",
        yaxis={"scaleanchor": "x"},
    )
    for name, points, color, dash in (
        ("Y, targets", y, COLORS["dense"], "solid"),
        ("Z, points", z, COLORS["pruned"], "solid"),
        ("QZ, points turned", turned, COLORS["compensated"], "dash"),
    ):
        across, up = zip(*points, strict=True)
        figure.add_scatter(
            x=across,
            y=up,
            mode="lines+markers",
            line={"color": color, "dash": dash},
            fill="toself",
            name=name,
            hovertemplate="(%{x:.2f}, %{y:.2f})<extra>%{fullData.name}</extra>",
        )
    return figure
