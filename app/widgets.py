"""Pieces of pages that more than one page draws: figures with their explanation and downloads, jobs, empty states."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

import plotly.graph_objects as go
import streamlit as st

from app.jobs import Job
from app.state import jobs, settings

POLL = 0.7  # seconds between two looks at a running job


def figure(fig: go.Figure, name: str, what: str) -> None:
    """A figure with its alternative text, "What am I looking at?" (Markdown) and downloads."""
    alt = fig.layout.meta["alt"]
    st.plotly_chart(fig, width="stretch", key=f"figure-{name}", alt=alt, config={"displaylogo": False})
    left, right = st.columns([3, 2])
    with left.expander("What am I looking at?"):
        st.markdown(f"{what}\n\n*{alt}.*")
    with right.popover("Download", width="stretch"):
        for label, data, kind in (
            ("HTML", lambda: fig.to_html(include_plotlyjs=True), "text/html"),
            ("JSON", lambda: fig.to_json(), "application/json"),
            ("CSV", lambda: to_csv(fig), "text/csv"),
        ):
            st.download_button(
                label,
                data,
                f"{name}.{label.lower()}",
                kind,
                on_click="ignore",
                key=f"download-{name}-{label}",
                width="stretch",
            )


def to_csv(fig: go.Figure) -> str:
    """The points of a figure as CSV: trace, x, y."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["trace", fig.layout.xaxis.title.text or "x", fig.layout.yaxis.title.text or "y"])
    for trace in fig.data:
        x, y = trace.x, trace.y
        count = len(x if x is not None else y)
        rows = zip(x if x is not None else [""] * count, y if y is not None else [""] * count, strict=True)
        writer.writerows([trace.name or "", a, b] for a, b in rows)
    return out.getvalue()


def job_panel(job: Job, running: Callable[[Job], None] = lambda _: None) -> None:
    """Progress and cancel of an active job, polled; the page runs again when it has ended.

    ``running`` draws what can be shown meanwhile. A failed or cancelled job says so.
    """
    if job.active:

        @st.fragment(run_every=POLL)
        def poll() -> None:
            if not job.active:
                st.rerun()
            if job.state == "waiting":
                ahead = jobs().ahead(job)
                message = f"waiting: {ahead} job{'s' * (ahead != 1)} before it"
            else:
                message = f"{job.message or 'starting'} · {job.seconds:.0f} s"
            bar, button = st.columns([5, 1], vertical_alignment="bottom")
            bar.progress(min(max(job.fraction, 0.0), 1.0), text=f"{job.title}: {message}")
            if button.button("Cancel", key=f"cancel-{job.id}", width="stretch", disabled=job.cancelled()):
                jobs().cancel(job)
                st.rerun()
            running(job)

        poll()
    elif job.state == "failed":
        st.error(f"{job.title}: {job.error}", icon=":material/error:")
    elif job.state == "cancelled":
        st.info(f"{job.title}: cancelled after {job.seconds:.0f} s.", icon=":material/cancel:")


def known_job(name: str) -> Job | None:
    """The job that the setting ``name`` points at; says so if a link points at one that is gone."""
    job_id = getattr(settings(), name)
    job = jobs().get(job_id)
    if job_id and job is None:
        st.info("The results that this link points at are no longer in memory: run it again.", icon=":material/info:")
        setattr(settings(), name, "")
    return job


def empty(message: str, page: str, label: str) -> None:
    """An empty state: what is missing, and the way there."""
    with st.container(border=True):
        st.markdown(f"#### {message}")
        st.page_link(page, label=label, icon=":material/arrow_forward:")


def count(value: float, unit: str = "") -> str:
    """A number as people read it: 134.5 M, 513 MiB."""
    if unit == "B":
        for name, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
            if value >= scale:
                return f"{value / scale:,.1f} {name}"
        return f"{value:,.0f} B"
    for name, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:,.1f} {name}{unit}"
    return f"{value:,.0f} {unit}".strip()
