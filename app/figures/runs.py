"""The figure of the page Runs: size against quality, beside what the field has published."""

from __future__ import annotations

import html
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from app.figures.base import COLORS, NEUTRAL, new_figure
from rcpu.runs import Published, Row

Value = Callable[[Row], float | None]


@dataclass(frozen=True)
class Axis:
    """Something that runs can be put in order by: its name, its value of a run and of the dense model."""

    label: str
    unit: str
    of: Value
    dense: Value
    scale: float = 1.0
    published: Callable[[Published], float | None] | None = None  # relative to its dense model


SIZES = {
    "parameters": Axis("parameters", "M", lambda r: r.parameters, lambda r: r.dense_parameters, 1e6, lambda p: p.share),
    "bytes": Axis("weights", "MiB", lambda r: r.bytes, lambda r: r.dense_bytes, 2**20, lambda p: p.share),
    "speed": Axis("decoding", "tokens/s", lambda r: r.speed, lambda r: r.dense_speed),
}
QUALITIES = {
    "perplexity": Axis(
        "perplexity",
        "",
        lambda r: r.perplexity and r.perplexity.perplexity,
        lambda r: r.dense_perplexity and r.dense_perplexity.perplexity,
        published=lambda p: p.perplexity / p.dense_perplexity,
    ),
    "accuracy": Axis(
        "mean accuracy",
        "%",
        lambda r: r.accuracy,
        lambda r: r.dense_accuracy,
        0.01,
        lambda p: p.accuracy and p.accuracy / p.dense_accuracy,
    ),
}


def placed(rows: Sequence[Row], x: Axis, y: Axis, relative: bool) -> list[tuple[Row, float, float]]:
    """The runs that have both values, absolute or divided by those of their dense model."""
    found = []
    for row in rows:
        values = [axis.of(row) for axis in (x, y)]
        dense = [axis.dense(row) for axis in (x, y)]
        if None in values or (relative and not all(dense)):
            continue
        at = [v / d if relative else v / axis.scale for v, d, axis in zip(values, dense, (x, y), strict=True)]
        found.append((row, *at))
    return found


def size_quality(
    rows: Sequence[Row], x: Axis, y: Axis, *, relative: bool, picked: Collection[str], field: Sequence[Published]
) -> go.Figure:
    """One point a run, its interval where there is one, and published points as faint marks that name their model."""
    points = placed(rows, x, y, relative)
    names = [_axis(axis, relative) for axis in (x, y)]
    title = f"{y.label.capitalize()} against {x.label}"
    figure = new_figure(title, *names, f"{title} of {len(points)} runs", height=440)
    if relative and x.published and y.published:
        _field(figure, field, x, y)
    dense = {(axis_x, axis_y) for _, axis_x, axis_y in _dense(rows, x, y, relative)}
    if dense:
        figure.add_scatter(
            x=[a for a, _ in dense],
            y=[b for _, b in dense],
            mode="markers",
            name="dense",
            marker={"size": 11, "color": COLORS["dense"], "symbol": "diamond"},
            hovertemplate=f"dense<br>{x.label} %{{x:.4g}}<br>{y.label} %{{y:.4g}}<extra></extra>",
        )
    figure.add_scatter(
        x=[a for _, a, _ in points],
        y=[b for *_, b in points],
        error_y=_intervals(points, relative) if y.label == "perplexity" else None,
        mode="markers",
        name="runs",
        text=[html.escape(f"{r.run.name} ({r.run.about['model']})", quote=False) for r, *_ in points],
        marker={
            "size": [13 if r.run.id in picked else 9 for r, *_ in points],
            "color": COLORS["compensated"],
            "line": {"width": [3 if r.run.id in picked else 0 for r, *_ in points], "color": "#D55E00"},
        },
        hovertemplate=f"%{{text}}<br>{x.label} %{{x:.4g}}<br>{y.label} %{{y:.4g}}<extra></extra>",
    )
    return figure


def _field(figure: go.Figure, field: Sequence[Published], x: Axis, y: Axis) -> None:
    groups: dict[tuple[str, str], list[Published]] = {}
    for point in field:
        if y.published(point):
            groups.setdefault((point.system, point.model), []).append(point)
    symbols = ("circle-open", "square-open", "triangle-up-open", "diamond-open", "x-thin", "cross-open")
    for i, ((system, model), points) in enumerate(groups.items()):
        figure.add_scatter(
            x=[x.published(p) for p in points],
            y=[y.published(p) for p in points],
            mode="markers",
            name=f"{system}, {model}",
            opacity=0.6,
            marker={"size": 8, "color": NEUTRAL, "symbol": symbols[i % len(symbols)], "line": {"width": 1.5}},
            customdata=[(p.source, p.window) for p in points],
            hovertemplate=f"{system} on {model}, published: %{{customdata[0]}}, %{{customdata[1]}} tokens a window"
            "<br>%{x:.3f} of the dense size, %{y:.3f} of its value<extra></extra>",
        )


def _dense(rows: Sequence[Row], x: Axis, y: Axis, relative: bool) -> list[tuple[Row, float, float]]:
    found = [(r, x.dense(r), y.dense(r)) for r in rows if x.dense(r) and y.dense(r)]
    return [(r, 1.0, 1.0) if relative else (r, a / x.scale, b / y.scale) for r, a, b in found]


def _intervals(points: Sequence[tuple[Row, float, float]], relative: bool) -> dict:
    above, below = [], []
    for row, _, value in points:
        ends, dense = row.perplexity.interval, row.dense_perplexity
        by = dense.perplexity if relative else 1.0
        above.append(ends.high / by - value if ends else 0.0)
        below.append(value - ends.low / by if ends else 0.0)
    return {"array": above, "arrayminus": below, "symmetric": False, "thickness": 1, "width": 3}


def _axis(axis: Axis, relative: bool) -> str:
    unit = "÷ dense model's" if relative else f"({axis.unit})" if axis.unit else ""
    return f"{axis.label} {unit}".strip()
