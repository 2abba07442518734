"""The job of the page Benchmarks: tasks on every chosen model, one after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import rcpu
from app import demo, remembered
from app.jobs import Job
from app.measuring import asked_models, dtype_of
from app.runs import Variant
from app.shared import jobs
from app.texts import content_of
from rcpu.base import existing
from rcpu.measure import (
    EMBEDDED,
    TaskProgress,
    TaskResult,
    answers_folder,
    check_numbers,
    expanded,
    folder_tasks,
    run_tasks,
)


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


def tasks_asked(names: Sequence[str], folder: str, limit: int, few_shot: int) -> dict[str, Any]:
    """Which items: told by what a folder's files and the embedded text hold, and by lm-eval's version otherwise."""
    place = folder_of(folder)
    own = folder_tasks(place) if place else {}
    made = {name: _content(name, own) for name in expanded(names)}
    return {"tasks": made, "limit": limit, "few_shot": few_shot}


def _content(name: str, own: Mapping[str, Path]) -> str:
    if name in own:
        return hashlib.sha256(own[name].read_bytes()).hexdigest()[:16]
    return content_of("embedded") if name in EMBEDDED else f"lm-eval {version('lm-eval')}"


def tasks_job(
    tokenizer: object, variants: dict[str, Variant], names: tuple[str, ...], folder: str, limit: int, few_shot: int
) -> Job:
    """Queue tasks on every variant; ``partial`` has what is done, by variant and task."""
    demo.check_tasks(names, folder, limit)
    check_numbers(limit, few_shot, "auto")
    if not names:
        raise rcpu.RcpuError("no task is chosen: take at least one, like embedded")
    place, asked = folder_of(folder), tasks_asked(names, folder, limit, few_shot)
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
            remembered.keep_tasks(variant, asked, found, dtype_of(variant))
            job.partial = job.partial | {key: found}
        return job.partial

    asks = asked_models(variants), names, folder, limit, few_shot
    return jobs().submit("bench", f"Tasks: {', '.join(names)}", work, asks)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
