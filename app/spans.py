"""Text as coloured or underlined spans, for ``st.html``. Everything that came from outside is escaped here.

The colour is laid over the page's ground and the text keeps the theme's own, so both themes stay readable.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

from rcpu.measure import TokenView
from rcpu.text import VISIBLE, visible

RGB = "213,94,0"  # vermilion of Okabe and Ito's set; the opacity carries the value
OPAQUE = 0.7  # more would cost dark text its contrast
PLAIN = VISIBLE | {ord("\t"): "\t", ord("\n"): "\n", ord(" "): " "}
BOX = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7;font-family:monospace"
SIGN = '<span aria-hidden="true" style="opacity:.5;user-select:none">{}</span>'
DIFFERS = "font-weight:700;text-decoration:underline 2px;text-underline-offset:3px"


def token_spans(
    pieces: Sequence[str],
    values: Sequence[float | None],
    low: float,
    high: float,
    titles: Sequence[str] | None = None,
) -> str:
    """Pieces of a text on a ground that deepens from ``low`` to ``high``, with a tooltip each; None has no colour."""
    spans = (
        f'<span title="{_attribute(title)}" style="background:{ground(value, low, high)};border-radius:2px">'
        f"{_text(piece) or SIGN.format('·')}</span>"  # a later token of the same character
        for piece, value, title in zip(pieces, values, titles or [""] * len(pieces), strict=True)
    )
    return _box(spans)


def border_spans(pieces: Sequence[str], titles: Sequence[str]) -> str:
    """Pieces of a text on alternating grounds with a line before each, and a tooltip each."""
    spans = (
        f'<span title="{_attribute(title)}" style="background:rgba(128,128,128,{(0.08, 0.24)[i % 2]});'
        f'border-left:1px solid rgba(128,128,128,.7);border-radius:2px">{_text(piece) or SIGN.format("·")}</span>'
        for i, (piece, title) in enumerate(zip(pieces, titles, strict=True))
    )
    return _box(spans)


def token_titles(view: TokenView) -> list[str]:
    """A tooltip for each token: its loss, what it was given, the divergence and what was expected."""
    rows = zip(view.loss, view.probability, view.divergence, view.top, view.top_probability, strict=True)
    return [
        "first token: only read, not predicted"
        if loss is None
        else f"loss {loss:.3f} nats\nprobability {given:.2%}\nKL from the reference {divergence:.4f} nats\n"
        f"most probable: {visible(top)} ({best:.2%})"
        for loss, given, divergence, top, best in rows
    ]


def diff_spans(parts: Iterable[tuple[str, bool]], mark: int | None = None) -> str:
    """Words underlined and bold where they differ; a sign stands before part ``mark``, where two texts part."""
    spans = []
    for i, (word, differs) in enumerate(parts):
        if i == mark:
            spans.append(_mark())
        spans.append(
            f'<span style="{DIFFERS};background:rgba({RGB},.25)">{_text(word)}</span>' if differs else _text(word)
        )
    if mark is not None and mark >= len(spans):
        spans.append(_mark())
    return _box(spans)


def legend(low: float, high: float, label: str) -> str:
    """The scale of :func:`token_spans`: both ends, what lies beyond them included, and what is measured."""
    bar = (
        f'<span role="img" aria-label="from no colour to full colour" style="display:inline-block;width:8rem;height:'
        f"0.8rem;border:1px solid rgba(128,128,128,.6);border-radius:2px;background:linear-gradient(to right,"
        f'rgba({RGB},0),rgba({RGB},{OPAQUE}))"></span>'
    )
    return (
        '<div style="display:flex;gap:.5rem;align-items:center;flex-wrap:wrap;font-size:.875rem">'
        f"<span>{_text(label)}</span><span>≤ {low:.3g}</span>{bar}<span>≥ {high:.3g}</span></div>"
    )


def ground(value: float | None, low: float, high: float) -> str:
    """The CSS colour of a value on the scale from ``low`` to ``high``."""
    if value is None or math.isnan(value):
        return "none"
    share = (value - low) / (high - low) if high > low else 0.0
    return f"rgba({RGB},{OPAQUE * min(max(share, 0.0), 1.0):.3f})"


def _box(spans: Iterable[str]) -> str:
    return f'<div dir="auto" style="{BOX}">{"".join(spans)}</div>'


def _text(text: str) -> str:
    # As references, because st.html dedents what it is given: real line ends would cost the text its blank lines.
    return html.escape(text.translate(PLAIN)).replace("\n", SIGN.format("↵") + "&#10;").replace("\t", "&#9;")


def _attribute(text: str) -> str:
    return html.escape(text.translate(PLAIN)).replace("\n", "&#10;").replace("\t", "&#9;")


def _mark() -> str:
    return '<span role="img" aria-label="first difference" title="first difference" style="user-select:none">◆</span>'
