"""Figures of the page Importance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from app.figures.base import COLORS, SMALLEST, log_ticks, new_figure
from app.figures.calibration import heat
from app.figures.ranking import unit_name
from rcpu.explain import FACTORS, ranked, ranks, without
from rcpu.methods import UNIT_NAMES

SCORERS = {
    "rcpu": "RCPU",
    "wanda_sp": "WANDA-sp",
    "flap": "FLAP",
    "wifn": "FLAP's WIFN",
    "wanda_sp_l2": "Wanda-sp (L2)",
    "magnitude": "Magnitude",
    "random": "Random",
}
#: The factors of the RCPU score: a colour and a dash each, apart from those of dense, pruned and compensated.
LINES = {"weight": ("#56B4E9", "dash"), "activation": ("#CC79A7", "dot"), "variance": ("#D55E00", "solid")}
BANDS = 48  # groups of neighbouring ranks, of which middle and spread are drawn


def layers(
    scores: Mapping[int, Tensor],  # (strata, units) a layer
    kind: str,
    site: str,
    scorer: str,
    *,
    gone: Mapping[int, int],  # units of a stratum that go, a layer
    to_median: bool,
) -> go.Figure:
    """Scores of units over the layers, sorted and pooled unless there are few, with the cut of every layer's ratio."""
    strata, units = next(iter(scores.values())).shape
    few = strata == 1 and units <= 64
    chosen = ranks(units)
    rows = {i: s[0] if few else ranked(s)[chosen] for i, s in scores.items()}
    if to_median:
        rows = {i: v / scores[i].quantile(0.5).clamp_min(SMALLEST) for i, v in rows.items()}
    names, label = UNIT_NAMES[kind], "score ÷ median of the layer" if to_median else "score"
    spread = {i: (v.max() / v.quantile(0.5).clamp_min(SMALLEST)).item() for i, v in rows.items()}
    uneven = max(spread, key=spread.get)
    figure = heat(
        f"{SCORERS[scorer]} score of {names} of {site}",
        rows,
        label,
        f"Scores of {strata * units:,} {names} of {site} in {len(rows)} layers; most uneven is layer {uneven}, where "
        f"the largest is {spread[uneven]:.3g} times the middle one",
        names if few else ("rank of the unit in its KV head (%)" if strata > 1 else "rank of the unit (%)"),
        [unit_name(u, strata, units, kind) for u in range(units)]
        if few
        else [100 * r / max(1, units - 1) for r in chosen.tolist()],
        clip=0.0 if few else 0.02,
    )
    if few:
        places = [
            (i, unit_name(u, strata, units, kind))
            for i, s in scores.items()
            if gone[i]
            for u in s[0].sort(descending=True, stable=True).indices[-gone[i] :].tolist()
        ]
        figure.add_scatter(
            x=[x for x, _ in places],
            y=[y for _, y in places],
            mode="markers",
            marker={"symbol": "x-thin", "size": 7, "line": {"width": 2, "color": COLORS["pruned"]}},
            name="goes",
            showlegend=False,
            hovertemplate="%{y} of layer %{x} goes<extra></extra>",
        )
    elif any(gone.values()):
        figure.add_scatter(
            x=list(scores),
            y=[100 * (units - gone[i] - 0.5) / max(1, units - 1) for i in scores],
            mode="lines",
            line={"color": COLORS["pruned"], "width": 2.5, "shape": "hvh", "dash": "dash"},
            name="cut",
            showlegend=False,
            hovertemplate="layer %{x}: what is below rank %{y:.1f}% goes<extra></extra>",
        )
    return figure


def heads(scores: Mapping[int, Tensor], width: int, scorer: str) -> go.Figure:  # (d_in,) a layer
    """Sums of column scores over each query head of o_proj, as shares of the layer's total in percent."""
    shares = {i: 100 * s.view(-1, width).sum(-1) / s.sum().clamp_min(SMALLEST) for i, s in scores.items()}
    layer = max(shares, key=lambda i: shares[i].max())
    return heat(
        f"{SCORERS[scorer]} score of whole query heads",
        shares,
        "share of the layer (%)",
        f"Share of each query head in its layer's score; the largest is {shares[layer].max():.0f}% of layer {layer}, "
        f"by head {int(shares[layer].argmax())}",
        "",
        [f"head {h}" for h in range(len(shares[layer]))],
        log=False,
    ).update_layout(height=340)


def factors(parts: Mapping[str, Tensor], where: str) -> go.Figure:  # (d_in,) each
    """The three factors of the RCPU score apart, over the rank by their product: medians and the middle 80%."""
    order = without(dict(parts), None).argsort(descending=True, stable=True)
    groups = order.tensor_split(min(BANDS, len(order)))
    ends = torch.tensor([len(g) for g in groups]).cumsum(0)
    middles = (ends - torch.tensor([(len(g) - 1) / 2 for g in groups])).numpy()
    figure = new_figure(
        f"Three factors in {where}",
        "input columns, most important first",
        "factor ÷ its median",
        f"Three factors of {len(order):,} input columns of {where} in the order of their product"
        + "".join(f"; {_name(k)} spans {_decades(v)}" for k, v in parts.items()),
        yaxis={"minor": {"showgrid": False}},
    )
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    for key, values in parts.items():
        color, dash = LINES[key]
        scaled = (values / values.quantile(0.5).clamp_min(SMALLEST)).double()
        low, middle, high = torch.stack([scaled[g].quantile(levels) for g in groups], 1).clamp_min(SMALLEST).numpy()
        figure.add_scatter(
            x=np.concatenate([middles, middles[::-1]]),
            y=np.concatenate([high, low[::-1]]),
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=color,
            opacity=0.25,
            name=f"{_name(key)}, middle 80%",
            legendgroup=key,
            showlegend=False,
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=middles,
            y=middle,
            mode="lines",
            line={"color": color, "dash": dash, "width": 2.5},
            name=_name(key),
            legendgroup=key,
            hovertemplate="around rank %{x:.0f}<br>%{y:.3g} × median<extra>" + _name(key) + "</extra>",
        )
    return log_ticks(figure, "y")


def swaps(kept: Mapping[str, Tensor], scores: Tensor, kind: str) -> go.Figure:  # (strata, units) each
    """One row a way to score, one column a unit in the order of the first one's ``scores``: which go."""
    strata, units = scores.shape
    order = scores.sort(dim=1, descending=True, stable=True).indices
    # Units of one rank in different KV heads stand side by side, so that the cut of the first row is one edge.
    flat = (order + units * torch.arange(strata)[:, None]).T.flatten()
    rows = torch.stack([mask.flatten()[flat] for mask in kept.values()])
    moved = dict(zip(kept, ((rows != rows[0]).sum(1) // 2).tolist(), strict=True))
    first = next(iter(kept))
    figure = new_figure(
        f"Which {UNIT_NAMES[kind]} go",
        f"{UNIT_NAMES[kind]}, most important by the first row first",
        "",
        f"Compared with {first}, "
        + ", ".join(f"{label} lets {n:,} others go" for label, n in moved.items() if label != first),
    )
    figure.add_heatmap(
        x=np.arange(1, len(flat) + 1),
        y=list(kept),
        z=rows.to(torch.uint8).numpy(),
        customdata=flat.to(torch.int32).expand(len(rows), -1).numpy(),
        name="stays (1) or goes (0)",
        zmin=0,
        zmax=1,
        colorscale=[
            [0, COLORS["pruned"]],
            [0.5, COLORS["pruned"]],
            [0.5, COLORS["dense"]],
            [1, COLORS["dense"]],
        ],
        showscale=False,
        ygap=4,
        hovertemplate="unit %{customdata}<br>%{y}<br>%{z:d} (1 stays, 0 goes)<extra></extra>",
    )
    for label, color in (("stays", COLORS["dense"]), ("goes", COLORS["pruned"])):
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            marker={"color": color, "symbol": "square", "size": 10},
            name=label,
            hovertemplate=label,
        )
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    figure.update_xaxes(showgrid=False, range=[0.5, len(flat) + 0.5])
    figure.update_layout(height=300, margin={"l": 130})
    return figure


def matrix(labels: Sequence[str], values: Sequence[Sequence[float]], title: str, label: str, low: float) -> go.Figure:
    """A square of numbers between pairs, ``low`` to 1, written into its cells."""
    pairs = [
        (values[i][j], labels[i], labels[j])
        for i in range(len(labels))
        for j in range(i)
        if values[i][j] == values[i][j]
    ]
    nearest = max(pairs, default=None)
    figure = new_figure(
        title,
        "",
        "",
        f"{title} of {len(labels)} scores"
        + (f"; most alike are {nearest[1]} and {nearest[2]} with {nearest[0]:.2f}" if nearest else ""),
    )
    figure.add_heatmap(
        x=list(labels),
        y=list(labels),
        z=[[None if v != v else v for v in row] for row in values],
        text=[["–" if v != v else f"{round(v, 2) + 0.0:.2f}".replace("-", "−") for v in row] for row in values],
        texttemplate="%{text}",
        name=label,
        zmin=low,
        zmax=1,
        colorscale="Cividis",
        showscale=False,
        hovertemplate="%{y} and %{x}<br>" + label + " %{z:.3f}<extra></extra>",
        xgap=2,
        ygap=2,
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(showgrid=False)
    figure.update_layout(margin={"t": 56, "l": 76})
    return figure


def activations(values: Tensor, name: str, signed: bool) -> go.Figure:  # (windows, window)
    """Distribution of a unit's activations over the sampled tokens, counts on a log axis: tails matter."""
    flat = values.flatten().double()
    figure = new_figure(
        "Activations",
        "activation x" if signed else "norm of its inputs, ‖x‖",
        "tokens",
        f"{name} over {flat.numel():,} tokens: mean {flat.mean():.3g}, standard deviation "
        f"{flat.std(correction=0):.3g}, from {flat.min():.3g} to {flat.max():.3g}",
        showlegend=False,
    )
    low, high = flat.min().item(), flat.max().item()
    width = (high - low) / 60 or 1.0
    counts = torch.histc(flat, 60, low, low + 60 * width).tolist()
    figure.add_bar(
        x=[low + (i + 0.5) * width for i in range(60)],
        y=counts,
        width=width,
        marker={"color": COLORS["dense"], "line": {"width": 0}},
        hovertemplate="about %{x:.3g}<br>%{y:,} tokens<extra></extra>",
    )
    # Up from half a token, so that a bar of one is seen.
    figure.update_yaxes(type="log", dtick=1, exponentformat="none", range=[-0.3, log10(max(counts)) + 0.1])
    figure.update_layout(margin={"t": 56})
    return figure


def _name(key: str) -> str:
    return FACTORS[key][0]


def _decades(values: Tensor) -> str:
    low, high = values.min().item(), values.max().item()
    return f"a factor of {high / low:,.0f}" if low > 0 else "down to 0"
