"""Figures of the page Benchmarks."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from app.figures.base import NEUTRAL, new_figure
from app.figures.compare import Style, as_lines, as_text
from rcpu.measure import Comparison, Difference, TaskResult, is_share, metric_of


def accuracy_bars(
    results: Mapping[str, Mapping[str, TaskResult]], styles: Mapping[str, Style], metric: str = ""
) -> go.Figure:
    """One group a task, one bar a model with its standard error, and a line where guessing would be."""
    tasks = {task: r for of_model in results.values() for task, r in of_model.items()}
    tasks = {task: r for task, r in tasks.items() if is_share(metric_of(r, metric))}
    names = {task: as_lines(f"{task} ({metric_of(r, metric)})") for task, r in tasks.items()}
    scores = {
        key: {task: r.score(metric_of(r, metric)) for task, r in found.items() if task in tasks}
        for key, found in results.items()
    }
    counts = ", ".join(f"{len(r.items):,} of {as_text(task)}" for task, r in tasks.items())
    figure = new_figure(
        f"Accuracy<br><sup>items: {counts}; lines: ± standard error</sup>",
        "",
        "accuracy (%)",
        "Accuracy by task: "
        + "; ".join(
            f"{task}: "
            + ", ".join(f"{styles[k].label} {100 * s[task].value:.1f}%" for k, s in scores.items() if task in s)
            for task in tasks
        ),
        barmode="group",
    )
    for key, found in scores.items():
        s = styles[key]
        figure.add_bar(
            x=[names[task] for task in found],
            y=[100 * score.value for score in found.values()],
            name=as_text(s.label),
            marker={"color": s.color, "pattern": {"shape": s.pattern}},
            error_y={"array": [100 * (score.error or 0) for score in found.values()], "thickness": 1.5},
            customdata=[
                f"{100 * e.low:.1f} – {100 * e.high:.1f}%" if (e := score.interval) else "unknown: one item"
                for score in found.values()
            ],
            hovertemplate="%{x}: %{y:.2f}%<br>95% interval %{customdata}<extra>%{fullData.name}</extra>",
        )
    chances = {task: r.score(metric_of(r, metric)).chance for task, r in tasks.items()}
    known = {task: chance for task, chance in chances.items() if chance is not None}
    figure.add_scatter(
        x=[names[task] for task in known],
        y=[100 * chance for chance in known.values()],
        mode="markers",
        marker={"symbol": "line-ew", "size": 70, "line": {"width": 2, "color": NEUTRAL}},
        name="chance",
        hovertemplate="%{x}: chance %{y:.1f}%<extra></extra>",
    )
    figure.update_yaxes(rangemode="tozero")
    return figure


def difference_points(
    found: Mapping[str, Comparison], mean: Difference | None, first: str, second: str, color: str
) -> go.Figure:
    """One line a task: by how many points the second model beats the first, with its interval; 0 is no difference."""
    rows = {as_text(task): c.difference for task, c in found.items() if c.difference.unit == "points"}
    rows |= {"<b>mean</b>": mean} if mean and len(rows) > 1 else {}
    figure = new_figure(
        f"{as_text(second)} less {as_text(first)}<br><sup>paired over items; lines: 95% intervals</sup>",
        "accuracy gained (points)",
        "",
        f"Accuracy of {second} less that of {first}, in points: " + "; ".join(f"{t}: {d}" for t, d in rows.items()),
        showlegend=False,
    )
    figure.add_scatter(
        y=list(rows),
        x=[d.value for d in rows.values()],
        error_x={
            "array": [0 if d.high is None else d.high - d.value for d in rows.values()],
            "arrayminus": [0 if d.low is None else d.value - d.low for d in rows.values()],
            "thickness": 2,
        },
        mode="markers",
        marker={"size": 10, "color": color},
        name=as_text(second),
        customdata=[str(d) for d in rows.values()],
        hovertemplate="%{y}: %{customdata}<extra></extra>",
    )
    figure.add_vline(x=0, line={"color": NEUTRAL, "dash": "dot"})
    figure.update_yaxes(type="category", autorange="reversed")
    figure.update_layout(height=150 + 36 * len(rows), margin={"l": 130})
    return figure
