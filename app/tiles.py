"""Numbers in a row, each under its name: what a page has found, before the figures.

One element of the page for all of them: a browser takes as long to draw a handful of ``st.metric`` as a figure.
"""

from __future__ import annotations

import html
from dataclasses import dataclass

import streamlit as st


@dataclass(frozen=True)
class Tile:
    """A number; what a run or a link calls itself may stand in any of its texts."""

    label: str
    value: str
    note: str = ""  # what it was before, or of how many
    better: bool | None = None  # whether the note is good news; None: it is none
    help: str = ""


def tiles(*shown: Tile) -> None:
    """Draw numbers side by side, in as many rows as they need."""
    st.html(f'<dl class="rcpu-tiles">{"".join(map(_drawn, shown))}</dl>')


def difference(after: float, before: float) -> str:
    """A relative change in percent; nothing where there was nothing."""
    return f"{after / before - 1:+.1%}".replace("-", "−") if before else ""


def percent(part: float, whole: float = 1.0) -> str:
    """A share in percent, of about three figures; a dash where there is nothing to share."""
    if not whole > 0:
        return "–"
    share = part / whole
    return f"{share:.{1 if abs(share) >= 0.1 else 2}%}".replace("-", "−")


def _drawn(tile: Tile) -> str:
    label, value, note, more = (html.escape(text) for text in (tile.label, tile.value, tile.note, tile.help))
    if tile.help:
        start, _, end = label.rpartition(" ")  # the sign stays with the last word
        sign = f'<span class="rcpu-help" tabindex="0" role="note" aria-label="{more}">?<i aria-hidden="true">{more}</i>'
        label = f'{start} <span class="rcpu-word">{end} {sign}</span></span>'
    kind = {None: "", True: ' class="rcpu-better"', False: ' class="rcpu-worse"'}[tile.better]
    said = f"<dd{kind}>{note}</dd>" if tile.note else ""
    return f"<div><dt>{label}</dt><dd>{value}</dd>{said}</div>"
