"""What a lesson is, and what the pictures of several of them need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import streamlit as st

import rcpu
from app.dense import Dense, measuring, need_statistics
from app.job_panels import job_panel, known_job, own_job, start
from app.jobs import Job
from app.settings import PageEnd, change, control, settings
from app.shared import current_collection, current_model, jobs, model_key
from app.widgets import say
from app.work import collect_job, load_model_job
from rcpu.models import SITES

PAPER = "[RCPU, arXiv 2510.07782](https://arxiv.org/abs/2510.07782)"
SMALL = {"samples": 16, "held_out": 4, "layers": "all"}  # quick to measure, and enough for every lesson


@dataclass(frozen=True)
class Link:
    """A button that sets controls and opens another page, where the same thing can be seen."""

    label: str
    page: str  # a file of pages/
    settings: Mapping[str, Any]
    carried: Mapping[str, str] = field(default_factory=dict)  # settings there that are taken from others here


@dataclass(frozen=True)
class Lesson:
    """One lesson; all texts are Markdown of ours."""

    short: str  # in the list of lessons
    title: str
    idea: str  # in one sentence
    formula: str  # LaTeX
    formula_says: str
    steps: tuple[str, ...]
    task: str  # what to try with the figure
    question: str
    answer: str
    links: tuple[Link, ...]
    settings: Mapping[str, Any]  # of the controls, where the lesson begins
    picture: Callable[[], None]  # draws what is tried, with its controls; raises PageEnd where something is missing


def measured(model: rcpu.Model | None) -> bool:
    """Whether the model has statistics on the windows that are set; raises ``RcpuError`` for bad settings."""
    found = None if model is None else current_collection(model, settings().recipe("columns"))
    return found is not None and any(not found.missing([i]) for i in range(model.net.config.num_hidden_layers))


def prepare(model: rcpu.Model | None) -> NoReturn:
    """What a lesson needs and does not have: how far it is, or one button that gets it all; ends the picture."""
    job = jobs().asking("load", model_key()) or own_job("load")
    if model is not None:
        job = measuring(model, settings().recipe("columns"))
    if job and (job.active or job.state == "failed"):
        job_panel(job)
        if job.active:
            st.caption("The lesson goes on by itself when this is done. Read the text meanwhile.")
            raise PageEnd
    with st.container(border=True):
        st.markdown("#### This lesson looks at a real model")
        what, label, window = "", "Measure this model", settings().window
        if model is None:
            what, label = "loads the small model that comes with the app, and ", "Load the small model and measure it"
        st.markdown(
            f"One button {what}lets it read {SMALL['samples']} short pieces of text (*windows* of {window} tokens), so "
            "that every number here is measured and not invented. It takes a minute or so and is done once, for "
            "lessons 1, 2 and 4. Lessons 5 and 6 measure more when you press their button."
        )
        if st.button(label, type="primary", icon=":material/play_arrow:"):
            change(**SMALL)
            if model is not None:
                start("collect", lambda: collect_job(model, settings().recipe("columns")))
            change(model="embedded", device="auto", dtype="auto")
            start("load", lambda: load_model_job(model_key(), settings().recipe("columns")))
    raise PageEnd


def need_dense() -> Dense:
    """The statistics that a lesson looks at."""
    model = current_model()
    try:
        if measured(model):
            return need_statistics()
    except rcpu.RcpuError as error:
        say(error)
    prepare(model)


def need_net() -> rcpu.Model:
    """The model, for lessons that measure by themselves."""
    model = current_model()
    if model is None:
        prepare(None)
    return model


def job_button(label: str, kind: str, queue: Callable[[], Job]) -> Job | None:
    """The button that starts a lesson's job, and the job that this session started last."""
    job = known_job(kind)
    busy = bool(job and job.active)
    if st.button(label, type="primary", width="stretch", icon=":material/play_arrow:", disabled=busy):
        start(kind, queue)
    return job


def site_control() -> str:
    """o_proj or down_proj."""
    return control(st.segmented_control, "Projection", "site", options=list(SITES), required=True)
