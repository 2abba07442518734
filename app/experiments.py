"""What the page Experiments asks to be done, and what of studies it draws; the studies are the library's."""

from __future__ import annotations

import html
import json
from dataclasses import asdict

import plotly.graph_objects as go

import rcpu
from app.demo import limits
from app.jobs import Job
from app.kept import place
from app.shared import jobs
from app.texts import load_text
from rcpu.runs import Asked, Bench, Findings, Study, figures, gathered, run_study, verdict_rows

STATES = {"holds": "✓ holds", "fails": "✗ does not hold", "open": "– not decided"}


def check_allowed() -> None:
    """Raise ``RcpuError`` where studies are not run."""
    if limits().demo:
        raise rcpu.RcpuError(
            "this public demo runs no studies, they take minutes to hours: run the app or `python -m rcpu study` on a "
            "machine of your own"
        )


def study_job(model: rcpu.Model, study: Study, asked: Asked, measure_in: str) -> Job:
    """Queue a study; ``partial`` is what is known of it after each cell.

    Raises:
        RcpuError: this host runs none, or the study asks for what no recipe can have.
    """
    check_allowed()
    study.cells(asked)
    bench, store = Bench(model, measure_in, load_text), place().store

    def work(job: Job) -> Findings:
        def found(now: Findings) -> None:
            job.partial = now

        return run_study(
            study,
            asked,
            bench,
            store,
            progress=lambda p: job.report(p.fraction, p.message),
            cancelled=job.cancelled,
            found=found,
        )

    wanted = json.dumps([study.name, asdict(asked), model.fingerprint, model.dtype, measure_in], sort_keys=True)
    return jobs().submit("study", f"{study.source}: {study.title}", work, wanted)


def known(study: str) -> list[Findings]:
    """What this machine has of a study; nothing in a demo, where nobody sees what others did.

    Raises:
        RcpuError: the store cannot be read.
    """
    return [] if limits().demo else [found for store in place().stores for found in gathered(store, study)]


def drawn(found: Findings, quantity: str, relative: bool) -> list[go.Figure]:
    """The figures of a quantity, one a facet."""
    return [go.Figure({**f, "layout": {**f["layout"], "template": "none"}}) for f in figures(found, quantity, relative)]


def verdict_table(found: Findings) -> str:
    """The verdicts as a table of HTML; names are text."""
    columns = {name: list(map(html.escape, column)) for name, column in verdict_rows(found).items()}
    columns["Here"] = [f'<span class="rcpu-{v.state}">{STATES[v.state]}</span>' for v in found.verdicts]
    head = "".join(f"<th>{name}</th>" for name in columns)
    rows = ("".join(f"<td>{cell}</td>" for cell in row) for row in zip(*columns.values(), strict=True))
    return f'<table class="rcpu-verdicts"><tr>{head}</tr>{"".join(f"<tr>{row}</tr>" for row in rows)}</table>'
