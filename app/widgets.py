"""Pieces that more than one page draws: figures with explanation and downloads, tables, messages, empty states."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence

import plotly.graph_objects as go
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app.chart import chart
from app.settings import settings


def figure(
    fig: go.Figure, name: str, what: str, of: str = "", on_pick: Callable[[list[int]], None] | None = None
) -> None:
    """A figure with "What am I looking at?" (Markdown) and downloads.

    ``of`` is what it shows beside the subject of the settings; see :func:`app.chart.chart`.
    """
    chart(fig, f"figure-{name}", f"{settings().subject} {of}", on_pick, name=name, words=what)


def abreast(name: str, *, wide_left: bool = False) -> tuple[DeltaGenerator, DeltaGenerator]:
    """Two places side by side, or one below the other where the window is narrow; ``name`` is used once in a page."""
    line = st.container(horizontal=True, gap="medium", key=f"abreast{'-wide-left' if wide_left else ''}-{name}")
    return line.container(), line.container()


def loader_badges(found: Mapping[str, str]) -> str:
    """Markdown: which programs load an export, and why others do not, as the library's ``loads_in`` says it."""
    badges = [f":{'gray' if reason else 'green'}-badge[{name}]" for name, reason in found.items()]
    reasons = [f"{name}: {plain(reason)}" for name, reason in found.items() if reason]
    return " ".join(badges) + (f"  \n:small[Not in {'; '.join(reasons)}]" if reasons else "")


def table(columns: dict[str, Sequence], name: str, **options) -> None:
    """A table that downloads as CSV; ``options`` are those of ``st.dataframe``."""
    st.dataframe(columns, hide_index=True, width="stretch", **options)

    st.download_button(
        "Download as CSV",
        lambda: _csv(list(columns), zip(*columns.values(), strict=True)),
        f"{name}.csv",
        "text/csv",
        on_click="ignore",
        key=f"table-{name}",
        type="tertiary",
        icon=":material/download:",
    )


def downloads(fig: go.Figure, name: str) -> None:
    """Downloads of a figure that stands for a picture which is none of plotly's."""
    line = st.container(horizontal=True)
    rows = [(trace.name, x, y) for trace in fig.data for x, y in zip(trace.x, trace.y, strict=True)]
    for label, kind, made in (
        ("HTML", "text/html", fig.to_html),
        ("JSON", "application/json", fig.to_json),
        ("CSV", "text/csv", lambda: _csv(("trace", "x", "y"), rows)),
    ):
        line.download_button(label, made, f"{name}.{label.lower()}", kind, on_click="ignore", key=f"{name}-{label}")


def _csv(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


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
