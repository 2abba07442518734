"""One recipe from end to end: prune, measure, and keep both in the store; what is there already is not done again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from rcpu.pruning.loop import prune
from rcpu.pruning.recipe import Recipe
from rcpu.runs.asks import Ask, Bench, PerplexityAsk
from rcpu.runs.pruned import content_of, has_weights, load_result, prune_into, resume_into
from rcpu.runs.records import Run, dense_subject
from rcpu.runs.store import Store
from rcpu.statistics.passes import Progress

PRUNING = 0.7  # share of the time that pruning takes beside measuring, for a bar that does not jump


@dataclass(frozen=True)
class Outcome:
    """A run in the store and what was measured of it, an answer an ask."""

    run: Run
    answers: tuple[dict, ...]
    pruned: bool  # now, rather than found
    notes: tuple[str, ...] = ()  # what to know before answers are believed


def run_recipe(
    bench: Bench,
    recipe: Recipe,
    asks: Sequence[Ask],
    store: Store,
    *,
    name: str = "",
    keep_weights: bool = True,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Outcome:
    """The one way in which studies and sweeps run a cell: ``run_recipe(Bench(model), recipe, [ask], store)``.

    A cell is told by content: settings, the model's fingerprint, the windows' tokens, precision and code. A finished
    run of the same content is taken from the store, one that ended early goes on, and only what was never asked of it
    is measured. Any process that opened the same store may run other cells at the same time.

    Raises:
        RcpuError: as :func:`rcpu.prune` and what is asked; the store then has the run and why it failed.
        Cancelled: ``cancelled()`` was true; what was done by then is kept.
    """
    windows = bench.windows(recipe)
    content = content_of(bench.model, windows, recipe)
    found, result, pruned = store.find(content), None, False
    how = {"looks": bench.looks, "progress": _first(progress, PRUNING), "cancelled": cancelled}
    if found is None:
        early = unfinished(store, content)
        if early is not None:
            found, result = resume_into(store, early, bench.model, windows, **how)
        else:
            more = {"name": name, "text_digest": bench.text(recipe.text).digest, "keep_weights": keep_weights}
            found, result = prune_into(store, bench.model, windows, recipe, **more, **how)
        pruned = True
    run = found

    def net() -> nn.Module:
        if result is not None:
            return result.net
        if has_weights(run):
            return load_result(store, run, bench.model).net
        return prune(bench.model.net, windows, recipe, **how).net

    answers = answers_of(bench, store, run.id, net, asks, progress=_rest(progress, PRUNING), cancelled=cancelled)
    leaks = (ask.leak(bench, recipe) for ask in asks if isinstance(ask, PerplexityAsk))
    return Outcome(run, answers, pruned, tuple(note for note in leaks if note))


def measure_dense(
    bench: Bench,
    asks: Sequence[Ask],
    store: Store,
    *,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[dict, ...]:
    """The same asked of the dense model, measured once for all runs of it; raises as :func:`run_recipe`."""
    subject = dense_subject(bench.model.fingerprint, bench.model.dtype)
    return answers_of(bench, store, subject, lambda: bench.model.net, asks, progress=progress, cancelled=cancelled)


def answers_of(
    bench: Bench,
    store: Store,
    subject: str,
    net: Callable[[], nn.Module],
    asks: Sequence[Ask],
    *,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[dict, ...]:
    """What the store knows, and the rest from ``net()``, which is asked for only where something is missing."""
    asked = [ask.asked(bench) for ask in asks]
    known = [store.measures.get(subject, ask.kind, what) for ask, what in zip(asks, asked, strict=True)]
    answers = [measure and measure.value for measure in known]
    missing = [i for i, answer in enumerate(answers) if answer is None]
    ready = None
    for nth, i in enumerate(missing):
        ready = ready if ready is not None else bench.ready(net())
        step = _step(progress, nth / len(missing), 1 / len(missing), f"measuring {asks[i].kind}")
        answers[i] = asks[i].answer(bench, ready, step, cancelled)
        store.measures.put(subject, asks[i].kind, asked[i], answers[i])
    progress(Progress(1.0, "measured"))
    return tuple(answers)


def unfinished(store: Store, content: str) -> Run | None:
    """The newest run of this content that ended before its time."""
    early = ("interrupted", "cancelled")
    return next((r for r in store.runs() if r.content == content and r.state in early), None)


def _first(progress: Callable[[Progress], None], share: float) -> Callable[[Progress], None]:
    return lambda p: progress(Progress(share * p.fraction, p.message, p.site))


def _rest(progress: Callable[[Progress], None], start: float) -> Callable[[Progress], None]:
    return lambda p: progress(Progress(start + (1 - start) * p.fraction, p.message, p.site))


def _step(progress: Callable[[Progress], None], start: float, share: float, message: str) -> Callable[[float], None]:
    return lambda fraction: progress(Progress(start + share * fraction, message))
