"""The run store as the app uses it: what this session may see of it, what a run says, and models rebuilt from it.

In a public demo the store is one that ends with the process, and a visitor sees the runs that the link names. Where no
store can be written runs are kept for as long as the process lives, and pages say so.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

import rcpu
from app.demo import limits
from app.settings import settings
from app.story import ROLES, Evaluation, Story
from rcpu.runs import (
    Run,
    Store,
    dense_subject,
    home_folder,
    keep_perplexity,
    open_store,
    plain_subject,
    sites_of,
    temporary_store,
)

STORIES = 64  # of which the findings are remembered: vectors only
ROWS = 8  # runs that a link names at most


@dataclass(frozen=True)
class Place:
    """Where runs are kept, and why not for good; runs of ``others`` can be looked at, too."""

    store: Store
    why_not: str = ""
    others: tuple[Store, ...] = ()

    @property
    def stores(self) -> tuple[Store, ...]:
        """All of them, the one that is written first."""
        return self.store, *self.others


@dataclass(frozen=True, eq=False)
class PrunedRun:
    """A run with its models in memory: dense, compact, and its uncompensated twin, which share their parts."""

    name: str
    model: rcpu.Model
    result: rcpu.PruneResult
    uncompensated: Any  # CompactLlamaForCausalLM; None where a method has no removal apart from its repair
    story: Story


class Opened:
    """Runs with their models in memory; those used longest ago leave first, and can be rebuilt."""

    def __init__(self, most: int) -> None:
        self._most, self._runs, self._lock = most, OrderedDict[str, PrunedRun](), threading.Lock()

    def get(self, run_id: str) -> PrunedRun | None:
        """The run, if its models are in memory."""
        with self._lock:
            if run_id in self._runs:
                self._runs.move_to_end(run_id)
            return self._runs.get(run_id)

    def put(self, run_id: str, run: PrunedRun) -> None:
        """Have a run's models in memory."""
        with self._lock:
            self._runs[run_id] = run
            self._runs.move_to_end(run_id)
            while len(self._runs) > self._most:
                self._runs.popitem(last=False)

    def drop(self, run_id: str) -> None:
        """Let go of a run's models."""
        with self._lock:
            self._runs.pop(run_id, None)


@cache
def _place(folder: Path, demo: bool) -> Place:
    if demo:
        return Place(temporary_store())
    try:
        store = open_store(folder)
    except rcpu.RcpuError as error:
        return Place(temporary_store(), str(error))
    return Place(temporary_store(), store.refusal, (store,)) if store.refusal else Place(store)


def place() -> Place:
    """Where runs are kept: one for all sessions of this process."""
    return _place(home_folder(), limits().demo)


def store() -> Store:
    """Where new runs go."""
    return place().store


@st.cache_resource(show_spinner=False)
def opened() -> Opened:
    """The runs of this process whose models are in memory."""
    return Opened(limits().runs)


def store_of(run_id: str) -> Store | None:
    """The store that holds this run, if one does; whoever knows its id may look at it."""
    for one in place().stores:
        with contextlib.suppress(rcpu.RcpuError):
            one.get(run_id)
            return one
    return None


def find(run_id: str) -> Run | None:
    """The run with this id, if there is one."""
    found = store_of(run_id)
    return found and found.get(run_id)


def named_runs() -> dict[str, Run]:
    """The runs that this session's link names, in its order."""
    found = {run_id: find(run_id) for run_id in list(filter(None, settings().runs.split(",")))[-ROWS:]}
    return {run_id: run for run_id, run in found.items() if run is not None}


def visible_runs() -> list[Run]:
    """All runs that this session may see, newest first: in a demo those that its link names."""
    if limits().demo:
        return list(reversed(named_runs().values()))
    found = [run for one in place().stores for run in one.runs()]
    return sorted(found, key=lambda run: -run.created)


def subjects(run: Run) -> dict[str, str]:
    """What measures of a run's three models are kept under, by ROLES."""
    names = dense_subject(run.fingerprint, run.about["dtype"]), plain_subject(run.id), run.id
    return dict(zip(ROLES, names, strict=True))


@st.cache_resource(show_spinner=False, max_entries=STORIES)
def _sites(folder: str, run_id: str, ended: float | None, parts: int) -> tuple[rcpu.SiteResult, ...]:
    return sites_of(Store(Path(folder)), run_id)


def story_of(run: Run) -> Story:
    """What a run says, from the store alone: no model is needed.

    Raises:
        RcpuError: a part of it is broken.
    """
    one = store_of(run.id) or store()
    told = one.measures.get(run.id, "story", {})
    value: Mapping = told.value if told else {"asked": None, "content": [], "notes": [], "perplexity": {}, "texts": {}}
    about = run.about
    return Story(
        rcpu.Recipe.from_dict(run.recipe),
        _sites(str(one.folder), run.id, run.ended, len(one.parts(run.id))),
        {role: rcpu.Perplexity.from_dict(found) for role, found in value["perplexity"].items()},
        {role: rcpu.Generated(**made) for role, made in value["texts"].items()},
        value["asked"] and Evaluation(**value["asked"]),
        _tuples(value["content"]),
        (*about.get("notes", ()), *value["notes"]),
        (about.get("parameters_before", 0), about.get("parameters_after", 0)),
        about.get("seconds", 0.0),
    )


def keep_story(run: Run, story: Story) -> None:
    """Keep what a run found of itself at its end: perplexities and texts, each under its model, and all as one.

    Raises:
        RcpuError: the disk refuses.
    """
    own, names = store().measures, subjects(run)
    for role, found in story.perplexity.items():
        keep_perplexity(store(), names[role], found, run.about["dtype"])
    for role, made in story.texts.items():
        own.put(names[role], "generation", generation_asked(story.asked), asdict(made))
    new = story.to_dict()
    kept = {name: new[name] for name in ("asked", "perplexity", "texts")}
    notes = list(story.notes[len(run.about.get("notes", ())) :])
    own.put(run.id, "story", {}, kept | {"content": story.content, "notes": notes})


def bring(run: Run, model: rcpu.Model, result: rcpu.PruneResult, plain: Any = None) -> PrunedRun:
    """Have the models of a run in memory; what is the dense model's alone is not kept twice."""
    result = replace(result, sites=tuple(replace(site, before=None) for site in result.sites))
    if plain is None and result.sites:
        plain = result.uncompensated(model.net)
    opened().put(run.id, found := PrunedRun(run.name, model, result, plain, story_of(run)))
    if limits().demo:  # its disk is not for visitors to fill: the oldest leave the store as they leave memory
        for old in [one for one in store().runs() if one.state != "running"][limits().runs :]:
            with contextlib.suppress(rcpu.RcpuError):
                store().delete(old.id)
    return found


def generation_asked(asked: Evaluation) -> dict[str, Any]:
    """A prompt and how it is continued, as the command line keeps it, too."""
    return {"prompt": asked.prompt, **asked.sampling}


def _tuples(value: object) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
