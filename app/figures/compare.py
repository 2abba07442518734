"""Figures of the page Compare."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from torch import Tensor

from app.figures.base import COLORS, log_ticks, new_figure
from rcpu import Perplexity
from rcpu.measure import Difference, Interval, NextToken

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
LABEL = 18  # characters in a line below a bar
PATTERNS = ("", "/", "x", ".", "\\", "-", "+", "|")


@dataclass(frozen=True)
class Style:
    """How one model looks in every figure: a colour for its role, a dash or pattern for its run."""

    label: str
    color: str
    dash: str
    pattern: str


def style(label: str, role: str, order: int = 0) -> Style:
    """The style of the ``order``-th run's model in a role of COLORS."""
    return Style(label, COLORS[role], DASHES[order % len(DASHES)], PATTERNS[order % len(PATTERNS)])


def perplexity_bars(found: Mapping[str, Perplexity], styles: Mapping[str, Style]) -> go.Figure:
    """One bar a model; text, window and tokens stand in the title."""
    first = next(iter(found.values()))
    figure = new_figure(
        f"Perplexity on {as_text(first.text)}<br><sup>{first.windows:,} windows of {first.window:,} tokens, "
        f"{first.tokens:,} predictions; lines: 95% intervals</sup>",
        "",
        "perplexity (lower is better)",
        "Perplexity: " + ", ".join(f"{styles[k].label} {v.perplexity:,.2f}" for k, v in found.items()),
        showlegend=False,
    )
    for key, value in found.items():
        s, finite = styles[key], math.isfinite(value.perplexity)
        figure.add_bar(
            x=[key],
            y=[value.perplexity if finite else None],
            name=as_text(s.label),
            marker={"color": s.color, "pattern": {"shape": s.pattern}},
            text=[f"{value.perplexity:,.2f}" if finite else "∞"],
            textposition="inside" if value.interval else "outside",
            insidetextanchor="start",
            cliponaxis=False,
            error_y=_ends(value.perplexity, value.interval) if finite else None,
            customdata=[between(value)],
            hovertemplate="%{fullData.name}: %{y:,.3f}<br>95% interval %{customdata}<extra></extra>",
        )
    # Keys on the axis and labels as its ticks: two runs of the same name keep a bar each.
    figure.update_xaxes(type="category", tickvals=list(found), ticktext=[as_lines(styles[k].label) for k in found])
    return figure


def difference_bars(
    gaps: Mapping[str, Mapping[str, Difference]],  # by text, then by model
    styles: Mapping[str, Style],
    reference: str,
) -> go.Figure:
    """By how many percent each model's perplexity exceeds the reference's: one group a text, one bar a model."""
    keys = list(dict.fromkeys(key for group in gaps.values() for key in group))
    figure = new_figure(
        f"More than {as_text(reference)}<br><sup>paired over windows; lines: 95% intervals</sup>",
        "",
        "perplexity added (%)",
        f"By how many percent perplexity exceeds that of {reference}: "
        + "; ".join(
            f"{text}: " + ", ".join(f"{styles[k].label} {g}" for k, g in group.items()) for text, group in gaps.items()
        ),
        barmode="group",
    )
    for key in keys:
        s, shown = styles[key], [group.get(key) for group in gaps.values()]
        drawn = [g if g and math.isfinite(g.value) else None for g in shown]
        figure.add_bar(
            x=[as_lines(text) for text in gaps],
            y=[g and g.value for g in drawn],
            name=as_text(s.label),
            marker={"color": s.color, "pattern": {"shape": s.pattern}},
            error_y={
                "array": [g.high - g.value if g and g.high is not None else 0 for g in drawn],
                "arrayminus": [g.value - g.low if g and g.low is not None else 0 for g in drawn],
                "thickness": 1.5,
            },
            customdata=[str(g) for g in shown],
            hovertemplate="%{x}: %{customdata}<extra>%{fullData.name}</extra>",
        )
    return figure


def between(found: Perplexity) -> str:
    """The interval of a perplexity as text."""
    return f"{found.interval.low:,.2f} – {found.interval.high:,.2f}" if found.interval else "unknown: one window"


def by_position(
    curves: Mapping[str, Tensor | Sequence[float]],  # mean loss in nats at each position, (window − 1,)
    styles: Mapping[str, Style],
    subtitle: str = "",
    positions: int = 8,
) -> go.Figure:
    """Perplexity over how much of its window a model has read, ``positions`` a bin (1 in short windows); log axis."""
    curves = {key: list(map(float, losses)) for key, losses in curves.items()}
    length = max(map(len, curves.values()))
    positions = positions if length >= 8 * positions else 1
    figure = new_figure(
        "Perplexity by position" + (f"<br><sup>{as_text(subtitle)}</sup>" if subtitle else ""),
        "tokens read before the predicted one",
        "perplexity",
        f"Perplexity over 1 to {length:,} tokens of context, in bins of {positions}: "
        + ", ".join(
            f"{styles[k].label} from {_exp(v[:positions]):,.1f} to {_exp(v[-1:]):,.1f}" for k, v in curves.items()
        ),
    )
    for key, losses in curves.items():
        s = styles[key]
        bins = [(start, losses[start : start + positions]) for start in range(0, len(losses), positions)]
        figure.add_scatter(
            x=[start + (len(part) + 1) / 2 for start, part in bins],
            y=[_exp(part) for _, part in bins],
            customdata=[
                f"{start + 1}–{start + len(part)}" if len(part) > 1 else f"{start + 1}" for start, part in bins
            ],
            mode="lines+markers",
            line={"color": s.color, "dash": s.dash},
            marker={"size": 5},
            name=as_text(s.label),
            hovertemplate="%{customdata} tokens read<br>perplexity %{y:,.3f}<extra>%{fullData.name}</extra>",
        )
    return log_ticks(figure, "y")


def next_token_bars(rows: Sequence[NextToken], styles: Mapping[str, Style]) -> go.Figure:
    """What each model gives the candidates for the next token, in percent, the reference's favourite on top."""
    figure = new_figure(
        "The next token",
        "probability (%)",
        "",
        f"Probabilities of {len(rows)} candidates for the next token. Given to the first of them: "
        + ", ".join(f"{s.label} {rows[0].probability[k]:.1%}" for k, s in styles.items()),
        barmode="group",
    )
    for key, s in styles.items():
        figure.add_bar(
            y=[str(row.token) for row in rows],
            x=[100 * row.probability[key] for row in rows],
            customdata=[(as_text(row.text), row.rank[key]) for row in rows],
            orientation="h",
            name=as_text(s.label),
            marker={"color": s.color, "pattern": {"shape": s.pattern}},
            hovertemplate="%{customdata[0]}: %{x:.2f}%, rank %{customdata[1]:,}<extra>%{fullData.name}</extra>",
        )
    figure.update_yaxes(
        type="category",
        autorange="reversed",
        tickvals=[str(row.token) for row in rows],
        ticktext=[as_text(row.text) for row in rows],
    )
    figure.update_layout(height=120 + len(rows) * (10 + 10 * len(styles)), margin={"l": 110})
    return figure


def next_token_table(rows: Sequence[NextToken], styles: Mapping[str, Style]) -> dict[str, list]:
    """The same as columns: the token, and each model's probability in percent and rank; labels must differ."""
    table: dict[str, list] = {"token": [row.text for row in rows]}
    for key, s in styles.items():
        table[f"{s.label} (%)"] = [round(100 * row.probability[key], 3) for row in rows]
        table[f"{s.label} rank"] = [row.rank[key] for row in rows]
    return table


def _ends(value: float, ends: Interval | None) -> dict | None:
    return ends and {"array": [ends.high - value], "arrayminus": [value - ends.low], "thickness": 1.5}


def _exp(losses: Sequence[float]) -> float:
    return math.exp(min(sum(losses) / len(losses), 700))  # beyond it fp64 ends


def as_lines(text: str) -> str:
    """A label in lines of a few words, so that it stands level below its bar."""
    return "<br>".join(map(as_text, textwrap.wrap(text, LABEL))) or " "


def as_text(text: str) -> str:
    """Text from outside as plotly shows it as it is: it takes ``<b>`` and the like for markup."""
    return html.escape(text, quote=False)
