"""A run as a model: its dense model loaded as it was, and the compact one rebuilt from the edits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rcpu.base.errors import RcpuError
from rcpu.measure.perplexity import Perplexity
from rcpu.measure.tasks_results import TaskResult
from rcpu.models.loading import Model, check_name, load_model
from rcpu.pruning.result import PruneResult
from rcpu.runs.pruned import load_result
from rcpu.runs.records import Run, dense_subject, digest_of
from rcpu.runs.store import Store, open_store

PREFIX = "run:"  # what the name of a model that is a run begins with


def load_run(
    run: Run, store: Store, device: str = "auto", dtype: str = "auto", report: Callable[[str], None] = lambda _: None
) -> tuple[Model, PruneResult]:
    """The dense model that was pruned, in its precision, and the run's result with the compact model.

    Raises:
        RcpuError: the model cannot be had or has changed since, or the run is not finished.
    """
    _check_done(run)
    model = load_model(run.about["source"], device, run.about["dtype"] if dtype == "auto" else dtype, report=report)
    return model, load_result(store, run, model)


def compact_model(run: Run, dense: Model, result: PruneResult) -> Model:
    """The run's compact model as one that is loaded, with a fingerprint of its own."""
    return replace(dense, name=PREFIX + run.name, net=result.net, fingerprint=digest_of([run.fingerprint, run.id]))


def load_named(
    name: str, device: str = "auto", dtype: str = "auto", report: Callable[[str], None] = lambda _: None
) -> tuple[Model, str]:
    """A model as :func:`rcpu.load_model` names it, or ``run:`` and a run's name or id; and the subject of its measures.

    Raises:
        RcpuError: there is no such model or run.
    """
    if not name.startswith(PREFIX):
        model = load_model(name, device, dtype, report=report)
        return model, dense_subject(model.fingerprint, model.dtype)
    store = open_store()
    run = store.named(name.removeprefix(PREFIX))
    return compact_model(run, *load_run(run, store, device, dtype, report)), run.id


def check_named(name: str) -> None:
    """Raise ``RcpuError`` for what names neither a model nor a finished run, before anything is loaded."""
    if name.startswith(PREFIX):
        _check_done(open_store().named(name.removeprefix(PREFIX)))
    else:
        check_name(name)


def _check_done(run: Run) -> None:
    if run.state != "done":
        raise RcpuError(f"the run {run.name} is {run.state}: only a finished run has a model")


def keep_perplexity(store: Store, subject: str, found: Perplexity, dtype: str) -> str:
    """Attach a perplexity to its subject, under the very tokens and the precision of measuring; returns its key."""
    asked = {"windows": found.digest, "dtype": dtype}
    return store.measures.put(subject, "perplexity", asked, found.to_dict(losses=True))


def keep_task(store: Store, subject: str, found: TaskResult, dtype: str) -> str:
    """Attach a task's result, under its very items and the precision of measuring; returns its key."""
    asked = {"task": found.task, "items": found.digest, "dtype": dtype}
    return store.measures.put(subject, "task", asked, found.to_dict())


def measured_lines(store: Store, subject: str) -> list[str]:
    """What was measured of a subject, a line each, as model cards show it."""
    scores = [(t, t.score()) for t in task_results(store, subject)]
    found = [f"{t.task}, {s.metric} {s.value:.4f} on {s.items:,} items" for t, s in scores]
    return [p.line for p in perplexities(store, subject)] + found


def task_results(store: Store, subject: str) -> list[TaskResult]:
    """All results of tasks of a subject, oldest first."""
    return [TaskResult.from_dict(measure.value) for measure in store.measures.all(subject, "task")]


def perplexities(store: Store, subject: str) -> list[Perplexity]:
    """All perplexities of a subject, oldest first."""
    return [Perplexity.from_dict(measure.value) for measure in store.measures.all(subject, "perplexity")]
