"""Figures of removal in an order, and of how narrow values could be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from app.figures.base import COLORS, NEUTRAL, new_figure
from rcpu.explain import Paths, ValueSpectrum

HEADS = ("#0072B2", "#CC79A7", "#56B4E9", "#D55E00")  # of KV heads, then again
CURVES = (
    ("plain", "the chosen score, nothing refitted", COLORS["pruned"], "solid"),
    ("scored", "the chosen score, refitted", COLORS["compensated"], "dot"),
    ("one_shot", "cost at the start, refitted", COLORS["compensated"], "dash"),
    ("greedy", "greedy: cost at each step, refitted", COLORS["compensated"], "solid"),
)


def greedy_path(found: Paths, units: int, ratio: float, kind: str, where: str) -> go.Figure:
    """Relative error as units go, by four orders."""
    gone = np.arange(len(found.greedy)) / units
    figure = new_figure(
        f"Error of {where} as {kind} go",
        f"share of {kind} gone",
        "relative error ‖Y − Ŷ‖ ÷ ‖Y‖",
        f"Relative error of {where} over the share of {kind} that is gone, by four orders of removal",
        height=420,
        xaxis={"tickformat": ".0%", "range": [0, gone[-1]]},
        yaxis={"rangemode": "tozero"},
    )
    for field, name, color, dash in CURVES:
        figure.add_scatter(
            x=gone,
            y=getattr(found, field).numpy(),
            name=name,
            mode="lines",
            line={"color": color, "dash": dash, "width": 3 if field == "greedy" else 2},
            hovertemplate="%{x:.1%} gone: %{y:.4f}<extra>" + name + "</extra>",
        )
    if 0 < ratio <= gone[-1]:
        figure.add_vline(ratio, line={"dash": "dash", "color": NEUTRAL}, annotation_text="ratio")
    return figure


def value_spectra(found: Sequence[ValueSpectrum], ratio: float, where: str) -> go.Figure:
    """Share of the output's energy that kept dimensions can carry, each KV head by directions and by channels."""
    dims = np.arange(len(found[0].subspace))
    figure = new_figure(
        f"What narrower values can carry, {where}",
        "dimensions kept in every KV head",
        "share of the output's energy not carried",
        f"Share of the output of {where} that is lost over the number of kept value dimensions, "
        "by the best directions and by the best channels",
        height=420,
        yaxis={"type": "log", "exponentformat": "power", "tickformat": "~g"},
    )
    for i, spectrum in enumerate(found):
        color = HEADS[i % len(HEADS)]
        for values, name, dash in ((spectrum.subspace, "directions", "solid"), (spectrum.channels, "channels", "dot")):
            figure.add_scatter(
                x=dims[1:-1],
                y=(1 - values[1:-1]).clamp_min(1e-9).numpy(),
                name=f"KV head {i}, {name}",
                mode="lines",
                line={"color": color, "dash": dash, "width": 2},
                hovertemplate="%{x} kept: %{y:.3%} lost<extra>" + f"KV head {i}, {name}" + "</extra>",
            )
    kept = len(dims) - 1 - int(ratio * (len(dims) - 1) + 1e-9)
    if 0 < kept < len(dims) - 1:
        figure.add_vline(kept, line={"dash": "dash", "color": NEUTRAL}, annotation_text="ratio")
    return figure
