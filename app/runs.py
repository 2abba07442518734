"""Named runs: pruned models that this session can look at and compare, and what to call each variant of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import rcpu
from app.settings import settings
from app.shared import jobs

PLAIN = ":plain"  # after a run's id: the same removal, not repaired
DENSE = "dense"


@dataclass(frozen=True)
class PrunedRun:
    """A finished pruning with the dense model it came from and its uncompensated twin, which shares its parts."""

    name: str
    model: rcpu.Model
    result: rcpu.PruneResult
    uncompensated: Any  # CompactLlamaForCausalLM


@dataclass(frozen=True)
class Variant:
    """One model to compare: its key in the URL, its name, its part in the story, and how many-th of its part it is."""

    key: str
    label: str
    role: str  # dense, pruned or compensated: a colour of figures.base.COLORS
    order: int
    net: Any


def default_name(config: rcpu.Recipe) -> str:
    """What a run is called unless it was given a name."""
    return f"{config.compensation.replace('_', ' ')} {config.ratio:.0%} {config.scorer}"


def session_runs() -> dict[str, PrunedRun]:
    """The finished runs that this session's URL names and that are still in memory, by id, oldest first."""
    found = {}
    for job_id in filter(None, settings().runs.split(",")):
        job = jobs().get(job_id)
        if job is not None and job.state == "done":
            found[job_id] = job.result
    return found


def remember(job_id: str) -> None:
    """Put a run among those of this session."""
    ids = list(filter(None, settings().runs.split(",")))
    settings().runs = ",".join([*(i for i in ids if i != job_id), job_id][-8:])


def forget(job_id: str) -> None:
    """Take a run out of this session and out of memory."""
    s = settings()
    s.runs = ",".join(i for i in s.runs.split(",") if i != job_id)
    s.compare = ",".join(k for k in s.compare.split(",") if k.removesuffix(PLAIN) != job_id)
    s.run = "" if s.run == job_id else s.run
    jobs().forget(job_id)


def run_names(runs: dict[str, PrunedRun]) -> dict[str, str]:
    """What each run is called; a name that was given before gets a number, for widgets tell options apart by it."""
    found: dict[str, str] = {}
    for job_id, run in runs.items():
        name, again = run.name, 1
        while name in found.values():
            again += 1
            name = f"{run.name} ({again})"
        found[job_id] = name
    return found


def variants(runs: dict[str, PrunedRun]) -> dict[str, Variant]:
    """Everything these runs let one compare, by key: dense, and each run as it is and not repaired.

    Runs of another model than the newest one's are left out: their tokens would not be the same.
    """
    if not runs:
        return {}
    model = next(reversed(runs.values())).model
    found = {DENSE: Variant(DENSE, "dense", "dense", 0, model.net)}
    named = run_names(runs)
    for i, (job_id, run) in enumerate((k, r) for k, r in runs.items() if r.model is model):
        name, plain = named[job_id], job_id + PLAIN
        found[plain] = Variant(plain, f"{name}, not repaired", "pruned", i, run.uncompensated)
        found[job_id] = Variant(job_id, name, "compensated", i, run.result.net)
    return found


def usual(all_variants: dict[str, Variant]) -> list[str]:
    """What to compare unless something else was chosen: dense, and the newest run without and with repair."""
    last = list(all_variants)[-1]
    return [DENSE, last + PLAIN, last]
