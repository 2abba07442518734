"""The job of the page Benchmarks: tasks on every chosen model, one after the other."""

from __future__ import annotations

from pathlib import Path

import rcpu
from app import demo
from app.jobs import Job
from app.measuring import asked_models
from app.runs import Variant
from app.shared import jobs
from rcpu.base import existing
from rcpu.measure import TaskProgress, TaskResult, answers_folder, check_numbers, run_tasks


def folder_of(name: str) -> Path | None:
    """The folder of tasks that a person named, None for none.

    Raises:
        RcpuError: this host reads no folders, or there is none of that name.
    """
    if not name:
        return None
    demo.check_tasks((), name, 1)
    if (path := existing(name)) is None or not path.is_dir():
        raise rcpu.RcpuError(f"no folder {name[:200]!r}: give one with JSONL rows, or leave it empty")
    return path


def tasks_job(
    tokenizer: object, variants: dict[str, Variant], names: tuple[str, ...], folder: str, limit: int, few_shot: int
) -> Job:
    """Queue tasks on every variant; ``partial`` has what is done, by variant and task."""
    demo.check_tasks(names, folder, limit)
    check_numbers(limit, few_shot, "auto")
    if not names:
        raise rcpu.RcpuError("no task is chosen: take at least one, like embedded")
    place = folder_of(folder)
    keep = None if demo.limits().demo else answers_folder()  # nothing of a visitor's outlives the process

    def work(job: Job) -> dict[str, dict[str, TaskResult]]:
        job.partial = {}
        for i, (key, variant) in enumerate(variants.items()):

            def told(p: TaskProgress, i=i, label=variant.label) -> None:
                left = "" if p.seconds_left is None else f", about {_time(p.seconds_left * (len(variants) - i))} left"
                job.report((i + p.fraction) / len(variants), f"{label}{left}")

            found = run_tasks(
                variant.net,
                tokenizer,
                names,
                folder=place,
                limit=limit,
                few_shot=few_shot,
                answers=keep,
                yaml=False,
                progress=told,
                cancelled=job.cancelled,
            )
            job.partial = job.partial | {key: found}
        return job.partial

    asks = asked_models(variants), names, folder, limit, few_shot
    return jobs().submit("bench", f"Tasks: {', '.join(names)}", work, asks)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
