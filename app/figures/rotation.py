"""Figures of the page Spectrum and rotation."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from app.figures.base import COLORS, NEUTRAL, new_figure
from rcpu.procrustes import Rotation
from rcpu.turning import Turning
from rcpu.whatif import Errors, carried, effective_rank, values_for

#: The chosen ratio is drawn in the colour of compensated models, the dense one in its own; these are for the others.
OTHERS = (("#56B4E9", "dash"), ("#CC79A7", "dot"), ("#D55E00", "dashdot"), (NEUTRAL, "longdash"))
CHANNELS, PRINCIPAL = "#CC79A7", "#56B4E9"
COMPENSATIONS = {
    "none": "none",
    "bias": "bias",
    "rotation": "rotation",
    "rotation_scale": "rotation + scale",
    "least_squares": "least squares",
}
SHARE = 0.99  # of the energy
BIN = 2.5  # degrees
STROKE = 0.05  # half the length of an eigenvalue's stroke across the unit circle
MARK = {"color": NEUTRAL, "dash": "dot", "width": 1}
OUTSIDE = 0.03  # share of the points by which neither end of an axis of the 3-D view is moved
ERROR = "relative error ‖Y − Ŷ‖ ÷ ‖Y‖"


@dataclass(frozen=True)
class Spectrum:
    """Singular values of M at one ratio, and how many of them are more than rounding."""

    ratio: float
    values: Tensor
    rank: int

    @property
    def signal(self) -> Tensor:
        """The values above rounding."""
        return self.values[: self.rank]


def spectrum(spectra: Sequence[Spectrum]) -> go.Figure:
    """Singular values over their index, the first ratio drawn strongest; log axis, values of rounding left out."""
    first = spectra[0]
    figure = new_figure(
        "Singular values of M = YZᵀ",
        "index, largest first",
        "singular value (squared output units)",
        f"{first.rank} of {len(first.values)} singular values stand above rounding at {first.ratio:.0%} removed, from "
        f"{first.values[0]:.2e} down to {first.signal[-1] if first.rank else 0:.2e}",
        yaxis={"type": "log", "exponentformat": "power"},
    )
    for shown, style in zip(spectra, _styles(spectra), strict=True):
        figure.add_scatter(
            x=np.arange(1, shown.rank + 1),
            y=shown.signal.numpy(),
            mode="lines",
            line=style,
            name=_percent(shown.ratio),
            hovertemplate="index %{x}<br>σ = %{y:.3e}<extra>%{fullData.name}</extra>",
        )
    return figure


def energy(spectra: Sequence[Spectrum]) -> go.Figure:
    """Share of Σσ that the largest values carry, and where it reaches 99 %."""
    counts, styles = [values_for(shown.signal, SHARE) for shown in spectra], _styles(spectra)
    figure = new_figure(
        "Cumulative energy",
        "largest singular values counted",
        "share of Σσ (%)",
        f"{counts[0]} values carry {SHARE:.0%} of the energy at {spectra[0].ratio:.0%} removed",
        yaxis={"rangemode": "tozero"},
    )
    for shown, style in zip(spectra, styles, strict=True):
        figure.add_scatter(
            x=np.arange(1, shown.rank + 1),
            y=100 * carried(shown.signal).numpy(),
            mode="lines",
            line=style,
            name=_percent(shown.ratio),
            hovertemplate="%{x} values<br>%{y:.2f} %<extra>%{fullData.name}</extra>",
        )
    reached = [
        (count, shown, style["color"]) for count, shown, style in zip(counts, spectra, styles, strict=True) if count
    ]
    figure.add_scatter(
        x=[count for count, _, _ in reached],
        y=[100 * carried(shown.signal)[count - 1].item() for count, shown, _ in reached],
        mode="markers",
        marker={"size": 9, "color": [color for _, _, color in reached]},
        name=f"{SHARE:.0%} of Σσ",
        showlegend=False,
        hovertemplate="%{x} values carry %{y:.2f} %<extra></extra>",
    )
    return figure


def spectrum_table(spectra: Sequence[Spectrum], kept: Sequence[int]) -> dict[str, list]:
    """What the spectra come down to, a row a ratio."""
    return {
        "removed": [_percent(s.ratio) for s in spectra],
        "kept inputs": list(kept),
        "rank of M": [s.rank for s in spectra],
        "effective rank": [round(effective_rank(s.signal), 1) for s in spectra],
        "values for 99 % of Σσ": [values_for(s.signal, SHARE) for s in spectra],
        "largest ÷ median": [round((s.values[0] / s.signal.median()).item(), 1) if s.rank else None for s in spectra],
    }


def circle(rotation: Rotation) -> go.Figure:
    """Eigenvalues of Q on the unit circle; those of a plane of rotation are conjugate."""
    angles = rotation.angles
    flipped = _flipped(rotation)
    figure = new_figure(
        "Eigenvalues of Q",
        "real part",
        "imaginary part",
        f"{len(angles)} eigenvalues on the unit circle, up to {_largest(rotation):.1f} degrees from 1"
        + (f"; {flipped} at −1" if flipped else ""),
        showlegend=flipped > 0,
        xaxis={"range": [-1.15, 1.15], "constrain": "domain"},
        yaxis={"range": [-1.15, 1.15], "constrain": "domain", "scaleanchor": "x"},
    )
    full = np.radians(np.arange(0, 361, 3))
    figure.add_scatter(
        x=np.cos(full),
        y=np.sin(full),
        mode="lines",
        line={"color": NEUTRAL, "width": 1},
        hoverinfo="skip",
        hovertemplate="<extra></extra>",
        showlegend=False,
        name="unit circle",
    )
    # Sorted angles hold the two of a pair side by side, so alternating signs part them.
    turned = angles[: len(angles) - flipped].clone()
    turned[1::2] *= -1
    x, y = turned.deg2rad().cos().numpy(), turned.deg2rad().sin().numpy()
    inner, outer = 1 - STROKE, 1 + STROKE
    # One path for all strokes, and unseen points to hover over: a mark for each takes a browser much longer.
    figure.add_shape(
        type="path",
        path="".join(
            f"M{inner * a:.4f},{inner * b:.4f}L{outer * a:.4f},{outer * b:.4f}" for a, b in zip(x, y, strict=True)
        ),
        line={"color": COLORS["compensated"], "width": 1.5},
        opacity=0.7,
        name="turned directions",
        showlegend=flipped > 0,
    )
    figure.add_scatter(
        x=x,
        y=y,
        customdata=turned.numpy(),
        mode="lines",
        line={"width": 0},
        showlegend=False,
        name="turned directions",
        hovertemplate="%{customdata:.2f}°<extra></extra>",
    )
    if flipped:
        figure.add_scatter(
            x=[-1.0] * flipped,
            y=[0.0] * flipped,
            mode="markers",
            marker={"color": "#D55E00", "size": 11, "symbol": "x"},
            name=f"reflected ({flipped})",
            hovertemplate="180°: a reflected direction<extra></extra>",
        )
    return figure


def distribution(rotation: Rotation) -> go.Figure:
    """How the eigen-angles of Q and the angles of the output channels are spread."""
    groups = (
        ("eigen-angles", rotation.angles, COLORS["compensated"]),
        ("output channels", rotation.channel_angles, CHANNELS),
    )
    far = max(float(values.max()) for _, values, _ in groups)
    figure = new_figure(
        "Distribution of the angles",
        "angle (degrees)",
        "share (%)",
        f"Mean eigen-angle {rotation.angles.mean():.1f} degrees, mean angle of an output channel "
        f"{rotation.channel_angles.mean():.1f}",
        barmode="overlay",
        bargap=0.05,
        xaxis={"range": [0, min(182.0, far * 1.04 + BIN)]},
    )
    for label, values, color in groups:
        x, y = histogram(values)
        figure.add_bar(
            x=x,
            y=y,
            width=BIN,
            name=f"{label}, mean {values.mean():.1f}°",
            marker={"color": color, "line": {"width": 0}},
            opacity=0.6,
            hovertemplate=f"%{{x}}° ± {BIN / 2}°<br>%{{y:.1f}} %<extra></extra>",
        )
    return figure


def channel_angles(rotation: Rotation) -> go.Figure:
    """How far Q turns every output channel."""
    values = rotation.channel_angles
    mean = float(values.mean())
    figure = new_figure(
        f"Angle of each output channel, mean {mean:.1f}°",
        "output channel",
        "angle (degrees)",
        f"Channels turn by {values.min():.1f} to {values.max():.1f} degrees; channel {int(values.argmax())} turns most",
        showlegend=False,
        yaxis={"rangemode": "tozero"},
        shapes=[{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": mean, "y1": mean, "line": MARK}],
    )
    figure.add_scatter(
        x=np.arange(len(values)),
        y=values.numpy(),
        mode="lines",
        line={"color": CHANNELS, "width": 1, "shape": "hvh"},
        fill="tozeroy",
        name="output channels",
        hovertemplate="channel %{x}<br>%{y:.2f}°<extra></extra>",
    )
    return figure


def principal_angles(rotation: Rotation) -> go.Figure:
    """Principal angles between range(Z) and range(QZ), sorted."""
    values = rotation.principal_angles
    whole = rotation.rank == len(rotation.q)
    note = {"text": "Z fills the whole output space, so Q cannot move it", "showarrow": False}
    figure = new_figure(
        "Principal angles, range(Z) to range(QZ)",
        "index, smallest first",
        "angle (degrees)",
        "Z fills the whole space: no angle is above 0"
        if whole
        else f"{int((values > 0.1).sum())} of {len(values)} principal angles are above 0.1 degrees, the largest is "
        f"{values.max() if len(values) else 0:.1f}",
        showlegend=False,
        yaxis={"range": [0, max(5.0, 1.05 * float(values.max()) if len(values) else 0.0)]},
        annotations=[{**note, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}] if whole else [],
    )
    figure.add_scatter(
        x=np.arange(1, len(values) + 1),
        y=values.numpy(),
        mode="lines",
        line={"color": PRINCIPAL, "width": 2},
        fill="tozeroy",
        name="principal angles",
        hovertemplate="index %{x}<br>%{y:.2f}°<extra></extra>",
    )
    return figure


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


def space(path: Turning, t: float, tokens: Sequence[str]) -> go.Figure:
    """Y, Z and exp(t log Q) Z of sampled tokens in the main directions of Y; the axes are those of every t."""
    seen = path.directions
    start, end, now = path.at(0.0), path.at(1.0), path.at(t)
    reach = torch.stack([seen.y, start, end]).flatten(0, 1)
    low, high = reach.quantile(torch.tensor([OUTSIDE, 1 - OUTSIDE], dtype=reach.dtype), dim=0)
    pad = (0.3 * (high - low)).clamp_min(1e-9)
    low, high = low - pad, high + pad
    axes = {
        f"{axis}axis": {
            "title": {"text": f"direction {i + 1} ({share:.0%})"},
            "range": [low[i].item(), high[i].item()],
            "nticks": 5,
        }
        for i, (axis, share) in enumerate(zip("xyz", seen.shares, strict=True))
    }
    inside = int(((seen.y >= low) & (seen.y <= high)).all(1).sum())
    figure = new_figure(
        f"Outputs in three directions, t = {t:.2f}",
        "",
        "",
        f"{len(seen.y)} tokens, {len(seen.y) - inside} of them beyond the axes. At t = {t:.2f} the relative error over "
        f"all tokens is {path.error(t):.4f}; it is {path.error(0.0):.4f} at 0 and {path.error(1.0):.4f} at 1",
        scene={
            **axes,
            "aspectmode": "cube",
            "camera": {"eye": {"x": 1.45, "y": 1.45, "z": 0.7}, "center": {"x": 0, "y": 0, "z": -0.12}},
        },
        uirevision="space",
        height=560,
        margin={"l": 0, "r": 0, "t": 40, "b": 40},
    )
    labels = [html.escape(text, quote=False) for text in tokens]
    shown = (
        ("Y, dense", seen.y, COLORS["dense"], "circle", 3.5),
        ("Z, not repaired", start, COLORS["pruned"], "diamond", 3.0),
        (f"exp({t:.2f} log Q) Z", now, COLORS["compensated"], "circle", 3.5),
    )
    for name, points, color, symbol, size in shown:
        x, y, z = points.mT.contiguous().numpy()
        figure.add_scatter3d(
            x=x,
            y=y,
            z=z,
            customdata=labels,
            mode="markers",
            marker={"color": color, "size": size, "symbol": symbol, "opacity": 0.75},
            name=name,
            hovertemplate="%{customdata}<br>(%{x:.3g}, %{y:.3g}, %{z:.3g})<extra>%{fullData.name}</extra>",
        )
    x, y, z = torch.stack([now, seen.y, torch.full_like(now, math.nan)], 1).flatten(0, 1).mT.contiguous().numpy()
    figure.add_scatter3d(
        x=x,
        y=y,
        z=z,
        mode="lines",
        line={"color": NEUTRAL, "width": 1},
        name="what is left to Y",
        visible="legendonly",
        hoverinfo="skip",
        hovertemplate="<extra></extra>",
    )
    return figure


def path_error(path: Turning, t: float) -> go.Figure:
    """The error on the way from Z to QZ, and where t stands."""
    ts = [i / 50 for i in range(51)]
    figure = new_figure(
        "Error on the way",
        "t",
        ERROR,
        f"Relative error from {path.error(0.0):.4f} at t = 0 to {path.error(1.0):.4f} at t = 1",
        showlegend=False,
        yaxis={"rangemode": "tozero"},
    )
    figure.add_scatter(
        x=ts,
        y=path.errors(ts),
        mode="lines",
        line={"color": COLORS["compensated"]},
        name="error",
        hovertemplate="t = %{x:.2f}<br>error %{y:.4f}<extra></extra>",
    )
    figure.add_scatter(
        x=[t],
        y=[path.error(t)],
        mode="markers",
        marker={"color": COLORS["compensated"], "size": 11},
        name="now",
        hovertemplate="t = %{x:.2f}<br>error %{y:.4f}<extra></extra>",
    )
    return figure


def _styles(spectra: Sequence[Spectrum]) -> list[dict]:
    others = iter(OTHERS * len(spectra))
    found = [{"color": COLORS["compensated"], "width": 3}]
    for shown in spectra[1:]:
        color, dash = (COLORS["dense"], "solid") if shown.ratio == 0 else next(others)
        found.append({"color": color, "dash": dash, "width": 1.75})
    return found


def _percent(ratio: float) -> str:
    return "dense" if ratio == 0 else f"{ratio:.0%} removed"


def _flipped(rotation: Rotation) -> int:
    return int((rotation.angles > 180 - 1e-3).sum())


def _largest(rotation: Rotation) -> float:
    """The largest eigen-angle of a rotation plane, degrees."""
    angles = rotation.angles[: len(rotation.angles) - _flipped(rotation)]
    return angles.max().item() if len(angles) else 180.0


def histogram(values: Tensor, width: float = BIN) -> tuple[list[float], list[float]]:
    """Middles of the bins from 0 to 180 degrees, and the percentage of values in each."""
    bins = round(180 / width)
    counts = torch.histc(values, bins, 0, 180)
    return [(i + 0.5) * width for i in range(bins)], (100 * counts / max(len(values), 1)).tolist()


def ordered(found: Mapping[str, Errors]) -> list[tuple[str, Errors]]:
    return [(name, found[name]) for name in COMPENSATIONS]


def color_of(name: str) -> str:
    return COLORS["pruned" if name == "none" else "compensated"]
