"""Jobs as pages show them: progress and cancel in place, and the one list of them in the sidebar."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

import rcpu
from app.jobs import Job
from app.settings import settings
from app.shared import jobs
from app.widgets import plain, say

POLL = 0.7  # seconds between two looks at a running job
GLANCE = 10.0  # and at the jobs of other people
#: Settings that hold the id of a job, and the page that shows what became of it.
JOB_PAGES = {
    "load": "model",
    "collect": "calibration",
    "prices": "allocation",
    "sides": "rotation",
    "run": "prune",
    "gradients": "prune",
    "measure": "compare",
    "bench": "benchmarks",
    "generate": "compare",
    "view_tokens": "compare",
    "save": "compare",
    "push": "compare",
    "stream": "model",
    "experiment": "experiments",
    "open": "compare",
    "all_layers_job": "rotation",
    "drift": "learn",
    "ladder": "learn",
    "curve": "learn",
    "orders": "learn",
}


#: Jobs whose results outlive them, in the run store.
STORED = ("run", "measure", "generate", "view_tokens", "open", "bench")
#: What a setting's job is of, where it is not called so itself.
KINDS = {"run": "prune", "view_tokens": "tokens", "experiment": "study"}


def own_job(name: str) -> Job | None:
    """The job that the setting ``name`` points at, if it is one that the setting can mean: a link may hold any."""
    job = jobs().get(getattr(settings(), name))
    return job if job is not None and job.kind == KINDS.get(name, name) else None


def job_panel(job: Job, running: Callable[[Job], None] = lambda _: None) -> None:
    """Progress and cancel of an active job, polled; the page runs again when it has ended.

    ``running`` draws what can be shown meanwhile. A failed or cancelled job says so.
    """
    if job.active:

        @st.fragment(run_every=POLL)
        def poll() -> None:
            if not job.active:
                st.rerun()
            job_line(job)
            running(job)

        poll()
    elif job.state == "failed":
        say(f"{job.title}: {job.error}")
    elif job.state == "cancelled":
        st.info(f"{plain(job.title)}: cancelled after {job.seconds:.0f} s.", icon=":material/cancel:")


def job_line(job: Job) -> None:
    """How far an active job is, and a button that cancels it; whoever draws it looks again."""
    bar, button = st.columns([5, 1], vertical_alignment="bottom")
    with bar:
        _progress(job)
    _cancel(job, button, "cancel")


def _progress(job: Job) -> None:
    if job.state == "waiting":
        ahead = jobs().ahead(job)
        message = f"waiting: {ahead} job{'s' * (ahead != 1)} before it"
    else:
        message = f"{job.message or 'starting'} · {job.seconds:.0f} s"
    st.progress(min(max(job.fraction, 0.0), 1.0), text=f"{plain(job.title)}: {plain(message)}")


def _cancel(job: Job, place: object, name: str) -> None:
    if place.button("Cancel", key=f"{name}-{job.id}", width="stretch", disabled=job.cancelled()):
        jobs().cancel(job)
        st.rerun()


def jobs_sidebar() -> None:
    """The one place that shows jobs on every page: one's own with progress and cancel, and how many others run."""
    own = {name: job for name in JOB_PAGES if (job := own_job(name))}
    own |= {f"shared {job.kind}": job for job in jobs().all() if job.shared and job.active and job not in own.values()}
    active = {job.id for job in own.values() if job.active}
    others = [job for job in jobs().all() if job.active and job.id not in active]

    @st.fragment(run_every=POLL if active else GLANCE if others else None)
    def panel() -> None:
        ended = any(not job.active for job in own.values() if job.id in active)
        if ended or (others and not any(job.active for job in jobs().all())):  # the last one: nothing to look at now
            st.rerun()
        st.markdown("##### Jobs")
        running = [job for job in own.values() if job.active]
        for job in running:
            with st.container(border=True):
                _progress(job)
                _cancel(job, st, "side-cancel")
        elsewhere = sum(job.active for job in jobs().all()) - len(running)
        if elsewhere:
            st.caption(f"{elsewhere} job{'s' * (elsewhere != 1)} of other people in the queue")
        elif not running:
            st.caption("None is running.")
        for name, job in own.items():
            if not job.active and name in JOB_PAGES:
                sign = {"done": ":material/check:", "failed": ":material/error:"}.get(job.state, ":material/cancel:")
                told = plain(f"{job.state.capitalize()}: {job.title}")  # long ones are cut
                st.page_link(f"../pages/{JOB_PAGES[name]}.py", label=told, icon=sign, help=told)

    with st.sidebar:
        panel()


def known_job(name: str) -> Job | None:
    """The job that the setting ``name`` points at; says so if it is gone, and what it found with it."""
    job = own_job(name)
    if getattr(settings(), name) and job is None:
        if name not in STORED:
            st.info(
                "The results that this link points at are no longer in memory: run it again.", icon=":material/info:"
            )
        setattr(settings(), name, "")
    return job


def start(name: str, queue: Callable[[], Job]) -> None:
    """Queue a job, put its id in the setting ``name`` and draw the page anew; bad input is said in place."""
    try:
        setattr(settings(), name, queue().id)
        st.rerun()
    except rcpu.RcpuError as error:
        say(error)
