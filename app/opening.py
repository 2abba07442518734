"""Runs of the store brought back: their models rebuilt, or a pruning that ended early gone on with."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

import rcpu
from app import demo
from app.demo import limits
from app.job_panels import job_panel, own_job, start
from app.jobs import Job
from app.kept import PrunedRun, bring, find, named_runs, opened, store, store_of
from app.runs import session_runs
from app.settings import settings
from app.shared import jobs, models, windows
from app.story import Story
from app.widgets import plain, say
from app.work import loaded
from rcpu.models import footprint
from rcpu.runs import Run, has_weights, how_far, load_result, resume_into


def open_runs() -> dict[str, PrunedRun]:
    """The runs that this session's link names, with their models; those that are not in memory are on their way.

    What is under way, or why a run cannot be opened, is said in place.
    """
    s, found = settings(), session_runs()
    named = {run_id: run for run_id, run in named_runs().items() if run.state == "done"}
    wanted = list(named)[-limits().runs :]  # as many as memory holds: more would push one another out
    missing = [i for i in s.runs.split(",") if i and i not in named and not _active(i)]
    if missing:
        what = "A run" if len(missing) == 1 else f"{len(missing)} runs"
        say(f"{what} that this link names cannot be opened: deleted, or not finished.")
    closed = tuple(run_id for run_id in wanted if run_id not in found)
    job = own_job("open")
    if closed and (job is None or (not job.active and job.asks != closed)):
        try:
            job = open_job(closed)
            s.open = job.id
        except rcpu.RcpuError as error:
            say(error)
    if job is not None and closed:
        job_panel(job)
    return found


def unfinished_run(run_id: str) -> None:
    """What became of a run that is no job of this process, and a button to go on with it where that can be done."""
    run = find(run_id)
    if run is None:
        st.info("The run that this link points at is not here any more: it was deleted.", icon=":material/info:")
    elif run.state == "running":
        st.info(f"{plain(run.name)} is being pruned by another process.", icon=":material/info:")
    elif run.state != "done":
        reason = f": {run.error}" if run.error else ""
        label, button = st.columns([5, 1], vertical_alignment="bottom")
        label.warning(plain(f"{run.name}: {run.state} after {how_far(store_of(run_id), run)}{reason}."))
        if button.button("Go on", key=f"resume-{run_id}", width="stretch", help="From where it was"):
            start("run", lambda: resume_job(run))


def _active(run_id: str) -> bool:
    job = jobs().get(run_id)
    return job is not None and job.active


def open_job(run_ids: tuple[str, ...]) -> Job:
    """Queue the rebuilding of runs from their dense models, which are loaded if need be."""
    runs = [run for run in map(find, run_ids) if run is not None]
    for run in runs:
        demo.check_model(run.recipe["model"])
        if not has_weights(run):
            raise rcpu.RcpuError(f"the weights of the run {run.name} were not kept: run it again to compare its models")

    def work(job: Job) -> None:
        for run in runs:
            if opened().get(run.id) is None:
                model = dense_of(job, run)
                job.report(0.9, f"rebuilding {run.name}")
                result = load_result(store_of(run.id), run, model)
                bring(run, model, result)

    names = ", ".join(run.name for run in runs)
    return jobs().submit("open", f"Open {names}", work, run_ids)


def resume_job(run: Run) -> Job:
    """Queue what is left of a run that ended early; ``partial`` is the story so far."""
    recipe = rcpu.Recipe.from_dict(run.recipe)
    demo.check_model(recipe.model)
    demo.check_text(recipe.text)
    drawn = windows()

    def work(job: Job) -> str:
        model = dense_of(job, run)
        job.report(0.0, "drawing calibration windows")
        job.partial = Story(recipe)

        def progress(p: rcpu.Progress) -> None:
            job.report(p.fraction, p.message)
            if p.site is not None:
                job.partial = replace(job.partial, sites=(*job.partial.sites, p.site))

        calibration = drawn.get(model, recipe, patient=True)
        ended, result = resume_into(store(), run, model, calibration, progress=progress, cancelled=job.cancelled)
        job.partial = bring(ended, model, result).story
        return run.id

    jobs().forget(run.id)
    return jobs().submit("prune", f"Prune: {run.name}", work, run.id, job_id=run.id)


def dense_of(job: Job, run: Run) -> rcpu.Model:
    """The dense model of a run: one that is loaded, else from where it was."""
    wanted = run.fingerprint, run.about["dtype"]
    if (model := models().matching(*wanted)) is not None:
        return model
    name = run.recipe["model"]
    found = footprint(name)
    auto = found is None or found.dtype == run.about["dtype"] or demo.limits().demo
    return loaded(job, (name, "auto", "auto" if auto else run.about["dtype"]))
