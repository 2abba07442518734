"""Pieces that more than one page draws: figures with explanation and downloads, tables, messages, empty states."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

import plotly.graph_objects as go
import streamlit as st

from app.chart import chart
from app.figures.base import AGAIN
from app.settings import settings


def figure(
    fig: go.Figure, name: str, what: str, of: str = "", on_pick: Callable[[list[int]], None] | None = None
) -> None:
    """A figure with "What am I looking at?" (Markdown) and downloads.

    ``of`` is what it shows beside the subject of the settings; see :func:`app.chart.chart`.
    """
    chart(fig, f"figure-{name}", f"{settings().subject} {of}", on_pick)
    below = st.container(horizontal=True)
    words = below.expander("What am I looking at?", key=f"words-{name}", on_change="rerun")
    if words.open:
        words.markdown(f"{what}\n\n*{plain(fig.layout.meta['alt'])}.*")
    # Three buttons for each figure would take a browser as long to draw as the figure: they come when asked for.
    downloads = below.popover("Download", key=f"downloads-{name}", on_change="rerun")
    if not downloads.open:
        return
    for label, data, kind in (
        ("HTML", lambda: fig.to_html(include_plotlyjs=True), "text/html"),
        ("JSON", lambda: fig.to_json(), "application/json"),
        ("CSV", lambda: to_csv(fig), "text/csv"),
    ):
        downloads.download_button(
            label,
            data,
            f"{name}.{label.lower()}",
            kind,
            on_click="ignore",
            key=f"download-{name}-{label}",
            width="stretch",
        )


def to_csv(fig: go.Figure) -> str:
    """The points of a figure as CSV: trace, x, y, and z where there is one; a heat map gives a row a cell.

    Gaps in lines and traces that show points AGAIN are left out.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    deep = any("z" in trace for trace in fig.data)
    space = any(trace.type.endswith("3d") for trace in fig.data)
    axes = [getattr(fig.layout.scene if space else fig.layout, f"{name}axis") for name in ("xyz" if space else "xy")]
    titles = [axis.title.text or name for axis, name in zip(axes, "xyz", strict=False)]
    writer.writerow(["trace", *titles, *(["value"] if deep and not space else [])])
    for trace in fig.data:
        if trace.meta == AGAIN:
            continue
        parts = [getattr(trace, name, None) for name in ("xyz" if deep else "xy")]
        if trace.type == "heatmap":
            x, y, z = parts
            rows = ((a, b, v) for b, row in zip(y, z, strict=True) for a, v in zip(x, row, strict=True))
        else:
            length = max((len(p) for p in parts if p is not None), default=0)
            rows = zip(*(p if p is not None else [""] * length for p in parts), strict=True)
        writer.writerows([trace.name or "", *row] for row in rows if row[0] == row[0])
    return out.getvalue()


def table(columns: dict[str, Sequence], name: str) -> None:
    """A table that downloads as CSV."""
    st.dataframe(columns, hide_index=True, width="stretch")

    def made() -> str:
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        return out.getvalue()

    st.download_button(
        "Download as CSV",
        made,
        f"{name}.csv",
        "text/csv",
        on_click="ignore",
        key=f"table-{name}",
        type="tertiary",
        icon=":material/download:",
    )


def numbers(columns: dict[str, Sequence], name: str, note: str = "") -> None:
    """A table and a note on it behind a click: a browser would take as long to draw it as a figure."""
    fold = st.expander("Numbers", key=f"numbers-{name}", on_change="rerun")
    if fold.open:
        with fold:
            table(columns, name)
            if note:
                st.caption(note)


def plain(text: str) -> str:
    """A line of text for places that read Markdown, with its signs taken as they are."""
    return "".join("\\" + c if c in "\\`*_[]<>$~|#:" else c for c in text)


def say(error: Exception | str) -> None:
    """Bad input, said in place; a message may quote a link, so nothing in it is read as Markdown."""
    st.error(plain(str(error)), icon=":material/error:")


def empty(message: str, page: str, label: str) -> None:
    """An empty state: what is missing, and the way there."""
    with st.container(border=True):
        st.markdown(f"#### {message}")
        st.page_link(page, label=label, icon=":material/arrow_forward:")


def size(count_of_bytes: float) -> str:
    """Bytes as people read them."""
    return count(count_of_bytes, "B")


def count(value: float, unit: str = "") -> str:
    """A number as people read it: 134.5 M and 6.7 B parameters, 269.0 MFLOPs, 513.1 MiB."""
    if unit == "B":
        for name, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
            if value >= scale:
                return f"{value / scale:,.1f} {name}"
        return f"{value:,.0f} B"
    for name, scale in (("G" if unit else "B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:,.1f} {name}{unit}"
    return f"{value:,.0f} {unit}".strip()
