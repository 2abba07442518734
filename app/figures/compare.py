"""Figures of the page Compare."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from torch import Tensor

from app.figures.base import COLORS, new_figure
from rcpu import Perplexity
from rcpu.measure import NextToken

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
        f"Perplexity on {_plain(first.text)}<br><sup>{first.windows:,} windows of {first.window:,} tokens, "
        f"{first.tokens:,} predictions</sup>",
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
            name=_plain(s.label),
            marker={"color": s.color, "pattern": {"shape": s.pattern}},
            text=[f"{value.perplexity:,.2f}" if finite else "∞"],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{fullData.name}: %{y:,.3f}<extra></extra>",
        )
    # Keys on the axis and labels as its ticks: two runs of the same name keep a bar each.
    figure.update_xaxes(type="category", tickvals=list(found), ticktext=[_wrapped(styles[k].label) for k in found])
    return figure


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
        "Perplexity by position" + (f"<br><sup>{_plain(subtitle)}</sup>" if subtitle else ""),
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
            name=_plain(s.label),
            hovertemplate="%{customdata} tokens read<br>perplexity %{y:,.3f}<extra>%{fullData.name}</extra>",
        )
    figure.update_yaxes(type="log", dtick="D2")
    return figure


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
            customdata=[(_plain(row.text), row.rank[key]) for row in rows],
            orientation="h",
            name=_plain(s.label),
            marker={"color": s.color, "pattern": {"shape": s.pattern}},
            hovertemplate="%{customdata[0]}: %{x:.2f}%, rank %{customdata[1]:,}<extra>%{fullData.name}</extra>",
        )
    figure.update_yaxes(
        type="category",
        autorange="reversed",
        tickvals=[str(row.token) for row in rows],
        ticktext=[_plain(row.text) for row in rows],
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


def _exp(losses: Sequence[float]) -> float:
    return math.exp(min(sum(losses) / len(losses), 700))  # beyond it fp64 ends


def _wrapped(text: str) -> str:
    """A label in lines of a few words, so that it stands level below its bar."""
    return "<br>".join(map(_plain, textwrap.wrap(text, LABEL))) or " "


def _plain(text: str) -> str:
    """Text from outside as plotly shows it as it is: it takes ``<b>`` and the like for markup."""
    return html.escape(text, quote=False)
