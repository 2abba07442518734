"""What the lessons ask to be done: each function queues one job. The work itself is the library's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import streamlit as st
from torch import Tensor

import rcpu
from app import demo
from app.figures.learn import ORDER_NAMES
from app.jobs import Job
from app.shared import jobs, windows
from app.texts import content_of, load_text
from app.work import asked_windows
from rcpu.base import Answers
from rcpu.explain import Rung, Step, climb, drift_curve, grow, stream_drift
from rcpu.methods import column_scores
from rcpu.models import SITES, weight_of
from rcpu.statistics import Collection

RATIOS = tuple(i / 20 for i in range(19))  # 0 to 0.9
GROWING = {"samples": 128, "held_out": 16}  # windows of the lesson on calibration
LAYERS = (0, 1, 2, 3)  # pruned in both orders
ORDERED = {"samples": 16, "held_out": 4}
EVALUATED = 32  # windows
KEPT = 32  # drifts, a few kilobytes each


@dataclass(frozen=True)
class Drift:
    """Errors without repair of every measured layer, (layer) → an error for each of RATIOS, by site."""

    errors: Mapping[str, Mapping[int, list[float]]]


@dataclass(frozen=True)
class Growth:
    """Errors over growing calibration windows, and of which projection they are."""

    layer: int
    site: str
    ratio: float
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Ladder:
    """Errors after each ingredient with few and many windows, and of which projection they are."""

    layer: int
    site: str
    ratio: float
    rungs: tuple[Rung, ...]


@dataclass(frozen=True)
class Orders:
    """The same layers pruned in both orders: drift along the layers, and perplexity."""

    config: rcpu.Recipe  # of order "paper"
    drift: Mapping[str, list[float]]  # by order, and "none"
    perplexity: Mapping[str, rcpu.Perplexity]  # by order, "none" and "dense"


@st.cache_resource(show_spinner=False)
def drifts() -> Answers:
    """Drifts that were added up, by :func:`drift_key`."""
    return Answers(KEPT)


def drift_key(found: Collection, layers: tuple[int, ...], config: rcpu.Recipe) -> tuple:
    """What a drift depends on."""
    return found.folder, layers, config.scorer, config.seed, config.unit


def drift_job(
    model: rcpu.Model,
    found: Collection,
    layers: tuple[int, ...],
    config: rcpu.Recipe,
    layouts: Mapping[str, Tensor],  # (strata, units, columns) of each site
) -> Job:
    """Queue the errors without repair of every measured layer at all ratios; they are put into ``drifts()``."""
    kept, key = drifts(), drift_key(found, layers, config)

    def drift(job: Job) -> Drift:
        errors: dict[str, dict[int, list[float]]] = {site: {} for site in SITES}
        for done, layer in enumerate(layers):
            for site in SITES:
                if job.cancelled():
                    raise rcpu.Cancelled
                weight = weight_of(model.net, layer, site).float()
                x = found.get(layer, site).calibration.to(weight.device)
                scores = column_scores(weight, x, config.scorer, layer=layer, site=site, seed=config.seed)
                errors[site][layer] = drift_curve(weight, x, scores, layouts[site], RATIOS)
            job.report((done + 1) / len(layers), f"layer {layer}")
        return Drift(errors)

    def work(job: Job) -> Drift:
        return kept.ask(key, lambda: drift(job))

    return jobs().submit("drift", f"Lesson 2: drift by {config.scorer}", work, key)


def growth_asked(model: rcpu.Model, config: rcpu.Recipe, layer: int, site: str) -> tuple:
    """What errors over growing windows depend on."""
    windows_asked = asked_windows(model, replace(config, **GROWING))
    return (*windows_asked, config.scorer, config.unit, config.ratio, layer, site)


def growth_job(model: rcpu.Model, config: rcpu.Recipe, layer: int, site: str) -> Job:
    """Queue held-out errors of one projection over more and more calibration windows; ``partial`` grows by steps."""
    title = f"Lesson 5: layer {layer} {site}, {config.ratio:.0%}"
    asked = growth_asked(model, config, layer, site)
    measure = partial(grow, scorer=config.scorer, unit=config.unit)
    return _grown("curve", title, asked, model, config, Growth(layer, site, config.ratio, ()), "steps", measure)


def ladder_asked(model: rcpu.Model, config: rcpu.Recipe, layer: int, site: str) -> tuple:
    """What the ladder of ingredients depends on."""
    return (*asked_windows(model, replace(config, **GROWING)), config.ratio, layer, site)


def ladder_job(model: rcpu.Model, config: rcpu.Recipe, layer: int, site: str) -> Job:
    """Queue the ladder of one projection; ``partial`` grows by a number of windows at a time."""
    title = f"Lesson 7: layer {layer} {site}, {config.ratio:.0%}"
    asked = ladder_asked(model, config, layer, site)
    return _grown("ladder", title, asked, model, config, Ladder(layer, site, config.ratio, ()), "rungs", climb)


def _grown(
    kind: str,
    title: str,
    asked: tuple,
    model: rcpu.Model,
    config: rcpu.Recipe,
    empty: Growth | Ladder,
    grows: str,  # its field that gets one more with every number of windows
    measure: Callable,
) -> Job:
    config = replace(config, **GROWING)
    demo.check_text(config.text)
    demo.check_calibration(config.samples, config.window, config.held_out)
    drawn = windows()

    def work(job: Job) -> Growth | Ladder:
        job.report(0.0, "drawing calibration windows")
        calibration = drawn.get(model, config, patient=True)
        job.partial = empty

        def told(p: rcpu.Progress) -> None:
            job.report(p.fraction, p.message)
            if p.site is not None:
                job.partial = replace(job.partial, **{grows: (*getattr(job.partial, grows), p.site)})

        of = {"layer": empty.layer, "site": empty.site, "ratio": empty.ratio}
        measure(model, calibration, **of, progress=told, cancelled=job.cancelled)
        return job.partial

    return jobs().submit(kind, title, work, asked)


def orders_asked(model: rcpu.Model, config: rcpu.Recipe, eval_text: str) -> tuple:
    """What pruning in both orders depends on."""
    windows_asked = asked_windows(model, replace(config, **ORDERED))
    return (*windows_asked, config.scorer, config.unit, config.ratio, config.proper, content_of(eval_text))


def orders_job(model: rcpu.Model, config: rcpu.Recipe, eval_text: str) -> Job:
    """Queue the pruning of the first layers in both orders, and what either does to the model."""
    asked = orders_asked(model, config, eval_text)
    config = replace(config, **ORDERED)
    demo.check_text(config.text)
    demo.check_text(eval_text)
    demo.check_calibration(config.samples, config.window, config.held_out)
    demo.check_evaluation(EVALUATED, config.window)
    layers = tuple(i for i in LAYERS if i < model.net.config.num_hidden_layers)
    config = replace(config, layers=layers, ratios=(), sites=SITES, compensation="rotation", order="paper")
    drawn = windows()

    def work(job: Job) -> Orders:
        job.report(0.0, "drawing calibration windows")
        calibration = drawn.get(model, config, patient=True)
        source = load_text(eval_text, "evaluation")
        measured = rcpu.evaluation_windows(source, model.tokenizer, window=config.window, max_windows=EVALUATED)
        results, nets = {}, {}
        for i, order in enumerate(rcpu.ORDERS):
            results[order] = rcpu.prune(
                model.net,
                calibration,
                replace(config, order=order),
                progress=lambda p, i=i, order=order: job.report(
                    0.3 * (i + p.fraction), f"{ORDER_NAMES[order]}: {p.message}"
                ),
                cancelled=job.cancelled,
            )
            nets[order] = results[order].net
        nets["none"] = results["paper"].uncompensated(model.net)
        drift = stream_drift(
            model.net,
            nets,
            calibration.held_out,
            progress=lambda f: job.report(0.6 + 0.1 * f, "drift along the layers"),
            cancelled=job.cancelled,
        )
        perplexity = {}
        for i, (name, net) in enumerate({"dense": model.net, **nets}.items()):
            perplexity[name] = rcpu.perplexity(
                net,
                measured,
                text=source.name,
                progress=lambda f, i=i, name=name: job.report(
                    0.7 + 0.3 * (i + f) / 4, f"perplexity, {ORDER_NAMES.get(name, name)}"
                ),
                cancelled=job.cancelled,
            )
        return Orders(config, drift, perplexity)

    title = f"Lesson 6: both orders, {config.ratio:.0%}"
    return jobs().submit("orders", title, work, asked)
