"""Figures of what each repair leaves of the error."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from app.figures.base import COLORS, NEUTRAL, new_figure
from rcpu.explain import Errors

COMPENSATIONS = {
    "none": "none",
    "bias": "bias",
    "rotation": "rotation",
    "rotation_scale": "rotation + scale",
    "least_squares": "least squares",
}
ERROR = "relative error ‖Y − Ŷ‖ ÷ ‖Y‖"


def errors(found: Mapping[str, Errors]) -> go.Figure:
    """Relative error of every compensator, a bar for the calibration windows and one for held-out ones."""
    figure = new_figure(
        "What each repair leaves of the error",
        "",
        ERROR,
        "Relative error: "
        + "; ".join(
            f"{COMPENSATIONS[name]} {e.calibration:.4f}"
            + ("" if e.held_out is None else f", held-out {e.held_out:.4f}")
            for name, e in ordered(found)
        ),
        barmode="group",
        yaxis={"rangemode": "tozero"},
    )
    held = all(e.held_out is not None for e in found.values())
    for label, field, pattern in (("calibration windows", "calibration", ""), ("held-out windows", "held_out", "/")):
        if field == "held_out" and not held:
            continue
        values = [getattr(e, field) for _, e in ordered(found)]
        figure.add_bar(
            x=[COMPENSATIONS[name] for name, _ in ordered(found)],
            y=values,
            name=label,
            offsetgroup=field,
            showlegend=False,
            marker={"color": [color_of(name) for name, _ in ordered(found)], "pattern": {"shape": pattern}},
            text=[f"{v:.4f}" for v in values],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{x}: %{y:.5f}<extra>%{fullData.name}</extra>",
        )
        figure.add_bar(  # for the legend, which would show the first bar's colour only
            x=[None],
            y=[None],
            name=label,
            offsetgroup=field,
            marker={"color": NEUTRAL, "pattern": {"shape": pattern}},
            hovertemplate="<extra></extra>",
        )
    return figure


def errors_table(found: Mapping[str, Errors]) -> dict[str, list]:
    """The same as columns, with what each repair gains against none."""
    none = found["none"]
    rows = ordered(found)

    def gain(value: float | None, base: float | None) -> float | None:
        return None if value is None or not base else round(100 * (value / base - 1), 2)

    return {
        "repair": [COMPENSATIONS[name] for name, _ in rows],
        "calibration": [e.calibration for _, e in rows],
        "against none (%)": [gain(e.calibration, none.calibration) for _, e in rows],
        "held-out": [e.held_out for _, e in rows],
        "held-out against none (%)": [gain(e.held_out, none.held_out) for _, e in rows],
    }


def ordered(found: Mapping[str, Errors]) -> list[tuple[str, Errors]]:
    return [(name, found[name]) for name in COMPENSATIONS]


def color_of(name: str) -> str:
    return COLORS[{"none": "pruned", "least_squares": "least_squares"}.get(name, "compensated")]
