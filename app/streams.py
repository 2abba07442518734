"""The part of Model that prunes what does not fit: a layer at a time, from the disk to the disk."""

from __future__ import annotations

import shlex

import streamlit as st

import rcpu
from app.demo import limits
from app.job_panels import job_panel, known_job, start
from app.runs import described
from app.settings import settings
from app.sharing import folder_field
from app.widgets import plain, say, size
from app.work import stream_job
from rcpu.models import Footprint


def stream_section(found: Footprint) -> None:
    """What it takes, a button, and the same as a command; nothing where no models are saved."""
    if not limits().saving:
        return
    s = settings()
    try:
        recipe = s.recipe()
    except rcpu.RcpuError as error:
        say(error)
        return
    st.info(
        f"It can be pruned and measured all the same, **a layer at a time**, with about {size(found.streamed)} of "
        f"memory and {size(found.parameters * 2)} of disk in bf16. How long it takes is told when a first layer is "
        "done. What is done is kept: the same button goes on with it.",
        icon=":material/layers:",
    )
    folder, button = st.columns([5, 2], vertical_alignment="bottom")
    with folder:
        folder_field()
    if button.button("Prune it layer by layer", width="stretch", disabled=not s.folder):
        start("stream", lambda: stream_job((s.model, s.device, s.dtype), recipe, s.folder, s.eval_windows))
    elif job := known_job("stream"):
        job_panel(job)
        if job.state == "done":
            before, after = (job.result[f"perplexity_{name}"]["perplexity"] for name in ("dense", "pruned"))
            st.success(
                f"Saved to {plain(job.result['out'])}: perplexity {before:.2f} before, {after:.2f} after.",
                icon=":material/check:",
            )
            for note in job.result["notes"]:
                st.caption(plain(note))
    st.caption(f"As Prune is set: {plain(described(recipe))}. In a terminal:")
    st.code(f"python -m rcpu prune --model {shlex.quote(s.model)} --stream --out pruned", language="shell")
