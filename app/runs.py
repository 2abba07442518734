"""Named runs: pruned models that this session can look at and compare, and what to call each variant of them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import rcpu
from app.demo import limits
from app.kept import PrunedRun, named_runs, opened, store, store_of, story_of
from app.labels import COMPENSATIONS, SCORERS, short, shortened
from app.settings import settings
from app.shared import jobs
from app.story import ROLES, Evaluation, Story
from app.texts import content_of
from rcpu.runs import Run, dense_subject, found_of, plain_subject

PLAIN = ":plain"  # after a run's id: the same removal, not repaired
DENSE = "dense"


@dataclass(frozen=True, eq=False)
class KeptRun:
    """A run as the store has it, and what it says."""

    run: Run
    story: Story

    @property
    def name(self) -> str:
        """What it is called."""
        return self.run.name

    @property
    def found(self) -> Mapping[str, Tensor]:
        """What a whole method found."""
        return found_of(store_of(self.run.id), self.run.id)


@dataclass(frozen=True)
class Variant:
    """One model to compare: its key in the URL, its name, its part in the story, and how many-th of its part it is."""

    key: str
    label: str
    role: str  # dense, pruned or compensated: a colour of figures.base.COLORS
    order: int
    net: Any
    identity: str  # of what it is, whatever its key: "dense" is a model in one session and another in the next
    subject: str = ""  # what its measures are kept under


def dense(model: rcpu.Model) -> Variant:
    """The model that nothing was taken from."""
    identity = f"{model.fingerprint} {model.dtype} {model.device}"
    return Variant(DENSE, "dense", "dense", 0, model.net, identity, dense_subject(model.fingerprint, model.dtype))


def pruned(run_id: str, name: str, plain: Any, repaired: Any, order: int = 0) -> tuple[Variant, ...]:
    """The models of a run: not repaired, where there is such a one, and as it is."""
    key = run_id + PLAIN
    found = (
        Variant(key, f"{name}, not repaired", "pruned", order, plain, key, plain_subject(run_id)),
        Variant(run_id, name, "compensated", order, repaired, run_id, run_id),
    )
    return found if plain is not None else found[1:]


def described(config: rcpu.Recipe) -> str:
    """The settings of a run in a line."""
    where = "all layers" if config.layers is None else f"layers {shortened(rcpu.format_layers(config.layers), 24)}"
    how = rcpu.METHODS[config.method].label
    if config.method == "columns":
        how = f"by {short(SCORERS, config.scorer)}, {COMPENSATIONS[config.compensation]}"
    return f"{where}, {config.ratio:.0%} {how}, {config.samples} × {config.window} tokens, seed {config.seed}"


def session_runs() -> dict[str, PrunedRun]:
    """The finished runs that this session's link names and whose models are in memory, in the link's order."""
    found = {run_id: opened().get(run_id) for run_id in settings().runs.split(",")}
    return {run_id: run for run_id, run in found.items() if run is not None}


def stories() -> dict[str, KeptRun]:
    """The finished runs that this session's link names, from the store: no model is needed to look at them."""
    found = {}
    for run_id, run in named_runs().items():
        with contextlib.suppress(rcpu.RcpuError):  # of another version, or broken: the page Runs says so
            if run.state == "done":
                found[run_id] = KeptRun(run, story_of(run))
    return found


def remember(job_id: str) -> None:
    """Put a run among those of this session, and what it finds in the place of what was compared before."""
    s = settings()
    ids = list(filter(None, s.runs.split(",")))
    s.runs = ",".join([*(i for i in ids if i != job_id), job_id][-8:])
    s.measure = s.generate = ""


def forget(run_id: str) -> None:
    """Take a run out of this session and its models out of memory; in a demo out of the store, too."""
    s = settings()
    s.runs = ",".join(i for i in s.runs.split(",") if i != run_id)
    s.compare = ",".join(k for k in s.compare.split(",") if k.removesuffix(PLAIN) != run_id)
    s.run = "" if s.run == run_id else s.run
    opened().drop(run_id)
    jobs().forget(run_id)
    if limits().demo:
        with contextlib.suppress(rcpu.RcpuError):
            store().delete(run_id)


def run_names(runs: Mapping[str, PrunedRun | KeptRun]) -> dict[str, str]:
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
    found = {DENSE: dense(model)}
    named = run_names(runs)
    for i, (job_id, run) in enumerate((k, r) for k, r in runs.items() if r.model is model):
        of_run = pruned(job_id, named[job_id], run.uncompensated, run.result.net, i)
        found |= {variant.key: variant for variant in of_run}
    return found


def usual(all_variants: dict[str, Variant]) -> list[str]:
    """What to compare unless something else was chosen: dense, and the newest run without and with repair."""
    last = list(all_variants)[-1]
    return [key for key in (DENSE, last + PLAIN, last) if key in all_variants]


@dataclass(frozen=True)
class Known:
    """What runs found themselves of the models that are compared, by their keys."""

    perplexity: dict[str, rcpu.Perplexity]
    texts: dict[str, rcpu.Generated]
    edited: bool  # whether the text that was measured on is another by now


def known(runs: Mapping[str, PrunedRun], chosen: Mapping[str, Variant], asked: Evaluation) -> Known:
    """What is already there of what Compare asks for: each run measures itself on what the settings said then."""
    perplexity, texts, edited = {}, {}, False
    for job_id, run in runs.items():
        of, then = run.story, run.story.asked
        keys = dict(zip(ROLES, (DENSE, job_id + PLAIN, job_id), strict=True))
        if then is None or (job_id not in chosen and job_id + PLAIN not in chosen):
            continue
        if (then.text, then.window, then.windows) == (asked.text, asked.window, asked.windows):
            perplexity |= {keys[role]: found for role, found in of.perplexity.items() if keys[role] in chosen}
            edited = edited or of.content[-1:] != (content_of(asked.text),)
        if (then.prompt, then.sampling) == (asked.prompt, asked.sampling):
            texts |= {keys[role]: made for role, made in of.texts.items() if keys[role] in chosen}
    return Known(perplexity, texts, edited)
