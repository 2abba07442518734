"""Figures of one solved projection and of all of them: what a run found."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from app.figures.base import COLORS, NEUTRAL, grouped, new_figure
from rcpu import SiteResult
from rcpu.masking import UNIT_NAMES


def scores(site: SiteResult) -> go.Figure:
    """Importance of every unit, sorted, with the line that the ratio draws; log axis."""
    values = site.unit_scores.flatten()
    kept = site.keep.flatten()
    order = values.argsort(descending=True, stable=True)
    names = UNIT_NAMES[site.unit]
    rank = {int(u): i for i, u in enumerate(order)}
    figure = new_figure(
        f"Importance of {names}, sorted",
        f"{names}, most important first",
        "importance score",
        f"{site.kept} of {site.units} {names} of layer {site.layer} {site.site} stay",
    )
    per_stratum = site.keep.shape[1]
    for label, mask, color in (("stays", kept, COLORS["compensated"]), ("goes", ~kept, COLORS["pruned"])):
        units = [int(u) for u in order if mask[u]]
        figure.add_scatter(
            x=[rank[u] for u in units],
            y=[max(float(values[u]), 1e-300) for u in units],
            mode="markers",
            marker={"color": color, "size": 5 if site.units > 64 else 9, "symbol": "circle" if mask is kept else "x"},
            name=f"{label} ({len(units):,})",
            customdata=[(u % per_stratum, u // per_stratum) for u in units],
            hovertemplate="rank %{x}<br>unit %{customdata[0]}"
            + (" of KV head %{customdata[1]}" if site.keep.shape[0] > 1 else "")
            + "<br>score %{y:.3g}<extra></extra>",
        )
    if site.keep.shape[0] == 1 and 0 < site.kept < site.units:
        figure.add_vline(x=site.kept - 0.5, line_dash="dash", line_color=NEUTRAL, annotation_text="cut")
    figure.update_yaxes(type="log", exponentformat="power")
    return figure


def spectrum(site: SiteResult) -> go.Figure:
    """Singular values of M = YZᵀ over their index, relative to the largest; log axis."""
    s = site.singular_values / site.singular_values[0].clamp_min(1e-300)
    figure = new_figure(
        "Singular spectrum of YZᵀ",
        "index",
        "singular value ÷ largest",
        f"{len(s)} singular values; {site.rank} stand above the rounding of the sums",
    )
    for label, part, color in (
        (f"signal ({site.rank})", slice(0, site.rank), COLORS["compensated"]),
        (f"null space ({len(s) - site.rank})", slice(site.rank, len(s)), NEUTRAL),
    ):
        values = s[part].clamp_min(1e-18).tolist()
        if values:
            figure.add_scatter(
                x=list(range(part.start, part.start + len(values))),
                y=values,
                mode="markers",
                marker={"color": color, "size": 4},
                name=label,
                hovertemplate="index %{x}<br>%{y:.3e}<extra></extra>",
            )
    figure.update_yaxes(type="log", exponentformat="power")
    return figure


def angles(site: SiteResult) -> go.Figure:
    """Distribution of the eigen-angles of Q, and of how far it turns single output channels, in degrees."""
    figure = new_figure(
        f"Rotation angles of Q (det Q = {site.determinant:+d})",
        "angle (degrees)",
        "share of directions (%)",
        f"mean eigen-angle {site.angles.mean():.1f} degrees, largest {site.angles.max():.1f}",
        barmode="overlay",
    )
    for label, values, color in (
        ("eigen-angles", site.angles, COLORS["compensated"]),
        ("output channels", site.channel_angles, COLORS["dense"]),
    ):
        figure.add_histogram(
            x=values.tolist(),
            xbins={"start": 0, "end": 181, "size": 2.5},
            histnorm="percent",
            name=f"{label}, mean {values.mean():.1f}°",
            marker_color=color,
            opacity=0.65,
            hovertemplate="%{x}°<br>%{y:.1f} %<extra></extra>",
        )
    largest = float(max(site.angles.max(), site.channel_angles.max()))
    figure.update_xaxes(range=[0, min(180, largest * 1.05 + 2.5)])
    return figure


def site_errors(site: SiteResult) -> go.Figure:
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


def layer_errors(sites: Sequence[SiteResult], name: str) -> go.Figure:
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
    return figure
