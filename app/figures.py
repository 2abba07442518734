"""Results → plotly figures. No Streamlit and no mathematics beyond sorting and counting.

One colour each for dense, pruned and compensated, from Okabe and Ito's set: safe for the colour-blind, and readable
on light and dark grounds. Every figure has units on its axes and says what it shows in ``layout.meta['alt']``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from rcpu import Perplexity, SiteResult
from rcpu.masking import UNIT_NAMES

COLORS = {"dense": "#0072B2", "pruned": "#E69F00", "compensated": "#009E73"}
LABELS = {"dense": "dense", "pruned": "pruned, not repaired", "compensated": "pruned and compensated"}
NEUTRAL = "#8C8C8C"
HEIGHT = 360


def _figure(title: str, x: str, y: str, alt: str, **layout) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        title={"text": title, "font": {"size": 16}, "y": 0.97, "yanchor": "top"},
        xaxis_title=x,
        yaxis_title=y,
        height=HEIGHT,
        margin={"l": 64, "r": 16, "t": 84, "b": 48},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0},
        hovermode="closest",
        meta={"alt": alt},
        **layout,
    )
    return figure


def parameters(parts: Mapping[str, int]) -> go.Figure:
    """Where a model's parameters are: one bar a part, in millions."""
    total = sum(parts.values())
    figure = _figure(
        "Where the parameters are",
        "parameters (millions)",
        "",
        "Parameters by part: " + ", ".join(f"{k} {v / total:.0%}" for k, v in parts.items()),
    )
    figure.add_bar(
        y=list(parts),
        x=[v / 1e6 for v in parts.values()],
        orientation="h",
        marker_color=COLORS["dense"],
        text=[f"{v / 1e6:,.1f} M · {v / total:.0%}" for v in parts.values()],
        textposition="auto",
        hovertemplate="%{y}: %{x:,.2f} million<extra></extra>",
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(margin={"l": 140}, height=300)
    return figure


def scores(site: SiteResult) -> go.Figure:
    """Importance of every unit, sorted, with the line that the ratio draws; log axis."""
    values = site.unit_scores.flatten()
    kept = site.keep.flatten()
    order = values.argsort(descending=True, stable=True)
    names = UNIT_NAMES[site.unit]
    rank = {int(u): i for i, u in enumerate(order)}
    figure = _figure(
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
    figure = _figure(
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
    figure = _figure(
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
    return _grouped(
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
    figure = _figure(
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


def perplexities(found: Mapping[str, Perplexity]) -> go.Figure:
    """One bar a model; window, tokens and text stand in the title."""
    first = next(iter(found.values()))
    figure = _figure(
        f"Perplexity on {first.text}<br><sup>{first.windows} windows of {first.window} tokens, "
        f"{first.tokens:,} predictions</sup>",
        "",
        "perplexity (lower is better)",
        "Perplexity: " + ", ".join(f"{LABELS[k]} {v.perplexity:.2f}" for k, v in found.items()),
    )
    figure.add_bar(
        x=[LABELS[k] for k in found],
        y=[v.perplexity for v in found.values()],
        marker_color=[COLORS[k] for k in found],
        text=[f"{v.perplexity:,.2f}" for v in found.values()],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{x}: %{y:,.3f}<extra></extra>",
    )
    return figure


def _grouped(title: str, groups: Mapping[str, Mapping[str, float | None]], y: str, form: str) -> go.Figure:
    figure = _figure(title, "", y, title + ": " + "; ".join(groups), barmode="group")
    for model in next(iter(groups.values())):
        values = [g[model] for g in groups.values()]
        figure.add_bar(
            x=list(groups),
            y=values,
            name="not repaired" if model == "pruned" else model,
            marker_color=COLORS[model],
            text=["–" if v is None else format(v, form) for v in values],
            textposition="auto",
            hovertemplate="%{x}: %{y:" + form + "}<extra></extra>",
        )
    return figure
