"""Figures of the singular values of M = YZᵀ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

from app.figures.base import COLORS, NEUTRAL, log_ticks, new_figure
from rcpu.explain import carried, effective_rank, values_for

#: The chosen ratio is drawn in the colour of compensated models, the dense one in its own; these are for the others.
OTHERS = (("#56B4E9", "dash"), ("#CC79A7", "dot"), ("#D55E00", "dashdot"), (NEUTRAL, "longdash"))
SHARE = 0.99  # of the energy


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
    )
    for shown, style in zip(spectra, _styles(spectra), strict=True):
        figure.add_scatter(
            x=np.arange(1, shown.rank + 1),
            y=shown.signal.numpy(),
            mode="lines",
            line=style,
            uid=_known(shown, spectra),
            name=_percent(shown.ratio),
            hovertemplate="index %{x}<br>σ = %{y:.3e}<extra>%{fullData.name}</extra>",
        )
    return log_ticks(figure, "y")


def energy(spectra: Sequence[Spectrum]) -> go.Figure:
    """Share of Σσ that the largest values carry, and where it reaches 99%."""
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
            uid=_known(shown, spectra),
            name=_percent(shown.ratio),
            hovertemplate="%{x} values<br>%{y:.2f}%<extra>%{fullData.name}</extra>",
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
        hovertemplate="%{x} values carry %{y:.2f}%<extra></extra>",
    )
    return figure


def spectrum_table(spectra: Sequence[Spectrum], kept: Sequence[int]) -> dict[str, list]:
    """What the spectra come down to, a row a ratio."""
    return {
        "removed": [_percent(s.ratio) for s in spectra],
        "kept inputs": list(kept),
        "rank of M": [s.rank for s in spectra],
        "effective rank": [round(effective_rank(s.signal), 1) for s in spectra],
        "values for 99% of Σσ": [values_for(s.signal, SHARE) for s in spectra],
        "largest ÷ median": [round((s.values[0] / s.signal.median()).item(), 1) if s.rank else None for s in spectra],
    }


def _styles(spectra: Sequence[Spectrum]) -> list[dict]:
    others = iter(OTHERS * len(spectra))
    found = [{"color": COLORS["compensated"], "width": 3}]
    for shown in spectra[1:]:
        color, dash = (COLORS["dense"], "solid") if shown.ratio == 0 else next(others)
        found.append({"color": color, "dash": dash, "width": 1.75})
    return found


def _known(shown: Spectrum, spectra: Sequence[Spectrum]) -> str:
    """What plotly knows a curve by, so that one that was hidden stays hidden; it becomes a class of the page."""
    return "first" if shown is spectra[0] else f"ratio-{1000 * shown.ratio:.0f}"


def _percent(ratio: float) -> str:
    return "dense" if ratio == 0 else f"{ratio:.0%} removed"
