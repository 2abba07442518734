"""``python -m app.example``: prune the embedded model with the settings that the app begins with, and keep the story.

Start shows it, with its settings, until a visitor's first run.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import rcpu
from app.jobs import Job
from app.kept import opened
from app.settings import Settings
from app.story import EXAMPLE, Evaluation
from app.turns import turned
from app.work import prune_job


def main() -> None:
    """Run it as the app would, in full, and write it; the same run gives the same file, but for the seconds."""
    model = rcpu.load_model("embedded")
    job = prune_job(model, Settings().recipe("columns"), evaluation=Evaluation())
    wait(job)
    run = opened().get(job.result)
    sites = tuple(filter(None, (turned(job.result, site) for site in run.story.sites)))
    text = json.dumps(replace(run.story, sites=sites).to_dict(), ensure_ascii=False, separators=(",", ":"))
    with EXAMPLE.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        packed.write(text.encode())
    print(f"{EXAMPLE}: {EXAMPLE.stat().st_size:,} bytes, {job.seconds:.0f} s")


def wait(job: Job) -> None:
    """Say how far it is until it ends; raises what went wrong."""
    told = ""
    while job.active:
        if (message := f"{job.fraction:4.0%} {job.message}") != told:
            print(told := message, flush=True)
        job.finished.wait(1.0)
    if job.state != "done":
        raise SystemExit(f"{job.title}: {job.state}: {job.error}")


if __name__ == "__main__":
    main()
