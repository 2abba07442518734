"""Figures of the page Calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10

import plotly.graph_objects as go
import torch
from torch import Tensor

from app.figures.base import NEUTRAL, SITE_COLORS, layer_axis, log_ticks, new_figure
from rcpu.explain import Outlier, inflation, ranks

QUANTITIES = {
    "mean_absolute": "mean|x|",
    "variance": "Var(x)",
    "relative": "mean|x| ÷ median of the layer",
}
DASHES = {"o_proj": "solid", "down_proj": "dash"}


def channels(layers: Mapping[int, Tensor], quantity: str, site: str) -> go.Figure:  # (d_in,) a layer
    """A quantity of the input channels over the layers, each layer sorted; ranks on a log axis, colours log10 too."""
    count = len(next(iter(layers.values())))
    rows = ranks(count, geometric=True)
    columns = {layer: values.sort(descending=True).values[rows] for layer, values in layers.items()}
    label, largest = QUANTITIES[quantity], max(columns, key=lambda i: columns[i][0])
    figure = heat(
        f"{label} of the inputs of {site}",
        columns,
        label,
        f"{label} of {count:,} input channels of {site} in {len(columns)} layers; the largest is "
        f"{columns[largest][0]:.3g} in layer {largest}, where the median channel has "
        f"{layers[largest].quantile(0.5):.3g}",
        "rank of the channel, largest on top",
        [r + 1 for r in rows.tolist()],
    )
    figure.update_yaxes(type="log", tickvals=[10**i for i in range(1 + int(log10(count)))], tickformat=",")
    return figure


def heat(
    title: str,
    columns: Mapping[int, Tensor],  # (rows,) a layer
    label: str,
    alt: str,
    y: str,
    rows: Sequence[float] | Sequence[str],
    log: bool = True,
    clip: float = 0.0,
) -> go.Figure:
    """One column a layer, one row a rank or a name of ``rows``; colours by logarithm or value, values on hover.

    The share ``clip`` of cells at either end has the last colour: a few outliers would leave none for the others.
    """
    figure = new_figure(title, "layer", y, alt)
    values = torch.stack([v.double() for v in columns.values()], 1)  # (rows, layers)
    shown = torch.where((values > 0) & values.isfinite(), values, torch.nan).log10() if log else values
    seen = shown[shown.isfinite()]
    low, high = seen.quantile(torch.tensor([clip, 1 - clip], dtype=seen.dtype)).tolist() if len(seen) else (0.0, 1.0)
    ticks = _ticks(low, high) if log else {}
    named = isinstance(rows[0], str)
    figure.add_heatmap(
        x=list(columns),
        y=list(rows),
        z=torch.where(shown.isfinite(), shown, torch.nan).numpy(),
        customdata=values.numpy(),
        name=f"log10 of {label}" if log else label,
        zmin=low,
        zmax=high,
        colorscale="Viridis",
        colorbar={
            "title": {"text": label, "side": "right"},
            "tickvals": list(ticks) or None,
            "ticktext": list(ticks.values()) or None,
            "thickness": 14,
        },
        hovertemplate=("%{y}" if named else "rank %{y:.4~g}")
        + "<br>layer %{x}<br>"
        + label
        + " %{customdata:.3g}<extra></extra>",
    )
    figure.update_yaxes(autorange="reversed", showgrid=False, **({"type": "category"} if named else {}))
    figure.update_xaxes(showgrid=False, **layer_axis(min(columns), max(columns)))
    figure.update_layout(height=440, margin={"t": 56})
    return figure


def outlier_table(found: Mapping[int, Sequence[Outlier]], head_width: int | None) -> dict[str, list]:
    """Columns of a table: where outliers stand and how large they are, largest first; heads where inputs have some."""
    rows = sorted(((layer, o) for layer, many in found.items() for o in many), key=lambda r: -r[1].times)
    table: dict[str, list] = {"layer": [layer for layer, _ in rows], "channel": [o.channel for _, o in rows]}
    if head_width:
        table["query head"] = [o.channel // head_width for _, o in rows]
    return table | {
        "mean|x|": [round(o.mean_absolute, 4) for _, o in rows],
        "÷ median": [round(o.times, 1) for _, o in rows],
    }


def over_fitting(inputs: Mapping[str, int], tokens: int, window: int) -> go.Figure:
    """What plain least squares loses on new tokens, over the number of calibration windows; a point where we are."""
    here = {site: inflation(tokens, kept) for site, kept in inputs.items()}
    figure = new_figure(
        "Over-fitting of plain least squares",
        f"calibration windows of {window:,} tokens",
        "error, new ÷ calibration tokens",
        f"Expected over-fitting of least squares without ridge at {tokens:,} tokens: "
        + ", ".join(
            f"{site} with {inputs[site]:,} kept inputs " + (f"{r:.2f}" if r < 100 else "beyond 100")
            for site, r in here.items()
        ),
    )
    for site, kept in inputs.items():
        least = (kept + 2) / window
        counts = sorted({least * 1.02 * 10 ** (2 * i / 150) for i in range(151)} | {tokens / window})
        shown = [n for n in counts if n * window > kept + 1]
        figure.add_scatter(
            x=shown,
            y=[inflation(round(n * window), kept) for n in shown],
            mode="lines",
            line={"color": SITE_COLORS[site], "dash": DASHES.get(site, "solid")},
            name=f"{site}, {kept:,} inputs kept",
            hovertemplate="%{x:.0f} windows<br>ratio %{y:.3f}<extra>" + site + "</extra>",
        )
        if here[site] < 10:
            figure.add_scatter(
                x=[tokens / window],
                y=[here[site]],
                mode="markers",
                marker={"color": SITE_COLORS[site], "size": 11, "symbol": "diamond"},
                showlegend=False,
                hovertemplate=f"now: {tokens:,} tokens<br>ratio %{{y:.3f}}<extra>{site}</extra>",
            )
    now = tokens / window
    figure.add_shape(type="line", x0=now, x1=now, yref="paper", y0=0, y1=1, line={"dash": "dot", "color": NEUTRAL})
    # plotly takes the place of a shape on a log axis as a value, and that of an annotation as its logarithm
    figure.add_annotation(x=log10(now), y=1, yref="paper", text="now", showarrow=False, xanchor="left", yanchor="top")
    log_ticks(figure, "x")
    figure.update_yaxes(range=[0.95, 4])
    return figure


def _ticks(low: float, high: float) -> dict[float, str]:
    """Round numbers within a range of logarithms, by the logarithm: powers of ten, with 2 and 5 where those are few."""
    first, last = ceil(low), floor(high)
    if last - first < 2:
        steps = [(log10(m) + e, m * 10.0**e) for e in range(floor(low), last + 1) for m in (1, 2, 5)]
        return {log: f"{value:g}" for log, value in steps if low <= log <= high}
    step = ceil((last - first + 1) / 8)
    return {float(e): f"10<sup>{e}</sup>" if abs(e) > 2 else f"{10.0**e:g}" for e in range(first, last + 1, step)}
