"""Run a study cell by cell into the store, and gather what the store has of it; no cell is run twice.

A cell is a run like any other. What makes it part of a study is a measure of kind "cell" beside it: its labels, and
what was read of it. So a study goes on after a kill, grows by seeds and ratios, and two of them share what is equal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import transformers

from rcpu.base.errors import Cancelled, RcpuError
from rcpu.models.sizes import cost
from rcpu.pruning.recipe import Recipe
from rcpu.pruning.survey import looked_at
from rcpu.pruning.target import planned_share, with_ratio
from rcpu.runs.asks import Ask, Bench, ask_dict
from rcpu.runs.readings import Point
from rcpu.runs.records import dense_subject, digest_of
from rcpu.runs.running import measure_dense, run_recipe
from rcpu.runs.store import Store
from rcpu.runs.studies import SEED, Asked, Cell, Study, left_out, misfit, plain_recipe, read_study
from rcpu.runs.verdicts import Verdict, verdicts
from rcpu.statistics.passes import Progress
from rcpu.text.leaks import leak_note, overlap
from rcpu.text.windows import divided

KIND = "cell"
ABOUT = ("seconds", "layers", "bytes_after", "parameters_after", "device")


@dataclass(frozen=True)
class Findings:
    """All that is known of a study on one model, one pair of texts and one set of windows: a series."""

    study: Study
    series: Mapping[str, Any]  # what it was run on, and how
    dense: Point
    points: tuple[Point, ...]
    failed: tuple[str, ...] = ()  # cells that ended in an error just now

    @property
    def verdicts(self) -> list[Verdict]:
        """A verdict for each claim."""
        return verdicts(self.study, self.points)

    @property
    def cut(self) -> list[str]:
        """What is missing of the study as it is declared."""
        present = [{**point.labels, SEED: point.seed} for point in self.points]
        found = left_out(self.study, present)
        limits = {ask["limit"] for ask in self.series["asks"].values() if ask.get("limit")}
        found = [f"not run: {'; '.join(found)}"] if found else []
        whole = math.prod(len({labels[axis] for labels in present}) for axis in (present or [{}])[0])
        if len(present) < whole:
            found.append(f"{len(present)} of {whole} cells so far")
        found += [f"measured on at most {limit} windows of a text or items of a task" for limit in sorted(limits)]
        if layers := self.series["recipe"].get("layers"):
            found.append(f"{len(layers)} layers alone are pruned")
        return found

    def to_dict(self) -> dict:
        """Plain values for JSON, the study's definition among them."""
        return {
            "study": self.study.name,
            "definition": self.study.definition,
            "series": dict(self.series),
            "dense": asdict(self.dense),
            "points": [asdict(point) for point in self.points],
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "cut": self.cut,
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Findings:
        """Back from :meth:`to_dict`; raises ``RcpuError`` for something else."""
        try:
            study = read_study(found["study"], found["definition"])
            points = tuple(Point(**point) for point in found["points"])
            return cls(study, found["series"], Point(**found["dense"]), points)
        except (KeyError, TypeError, AttributeError) as error:
            raise RcpuError(f"these are no findings of a study: {misfit(error)}") from error


def run_study(
    study: Study,
    asked: Asked,
    bench: Bench,
    store: Store,
    *,
    keep_weights: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    found: Callable[[Findings], None] = lambda _: None,
) -> Findings:
    """Run what the store does not have yet; ``found`` is told all that is known after each cell.

    Cells share texts, windows and the dense model's measures. Those whose allocation or metric looks at the dense model
    alike follow one another and share that look, see ``Looks``. No other statistics are shared: along the pruned path
    each cell has its own from the second layer on, and the first layer's are 1 % of a cell.

    A cell that fails is told in ``failed`` and ends nothing else. Weights of cells are not kept unless asked: a grid of
    them would fill a disk.

    Raises:
        RcpuError: the study asks for something that this model cannot have, before the first cell is run.
        Cancelled: ``cancelled()`` was true; all cells that were finished stay.
    """
    cells, asks = _by_look(study.cells(asked)), study.asks(asked)
    if not cells:
        raise RcpuError(f"the study {study.name} has no cell to run: give at least one ratio and one seed")
    progress(Progress(0.0, "planning"))
    cells, failed = _possible(bench, study, cells, cancelled)
    series = series_of(study, asked, bench, asks, cells)
    key = digest_of([series[name] for name in ("study", "fingerprint", "dtype", "precision", "content")])
    progress(Progress(0.0, "the dense model"))
    dense = measure_dense(bench, list(asks.values()), store, cancelled=cancelled)
    subject, size = dense_subject(bench.model.fingerprint, bench.model.dtype), cost(bench.model.net)
    about = {"bytes_after": size.bytes, "parameters_after": size.parameters}
    _keep(store, subject, key, {"labels": {}, "seed": ""}, _answers(bench, asks, dense), about, series)
    started, fresh = time.monotonic(), 0
    for nth, cell in enumerate(cells):
        name = cell.name(study)
        left = _left(time.monotonic() - started, fresh, len(cells) - nth)

        def step(p: Progress, nth: int = nth, name: str = name, left: str = left) -> None:
            progress(Progress((nth + p.fraction) / len(cells), f"{nth + 1} of {len(cells)}{left}, {name}: {p.message}"))

        try:
            outcome = run_recipe(
                bench,
                cell.recipe,
                list(asks.values()),
                store,
                name=name,
                keep_weights=keep_weights,
                progress=step,
                cancelled=cancelled,
            )
        except RcpuError as error:
            failed.append(f"{name}: {error}")
            continue
        fresh += outcome.pruned
        store.change(outcome.run.id, tags=(*outcome.run.tags, study.name))
        about = {k: outcome.run.about[k] for k in ABOUT if k in outcome.run.about}
        about["seconds_a_layer"] = about["seconds"] / about["layers"]
        for labels in cell.labels:
            rest = {k: v for k, v in labels.items() if k != SEED}
            told = {"labels": rest, "seed": labels[SEED]}
            _keep(store, outcome.run.id, key, told, _answers(bench, asks, outcome.answers), about, series)
        found(replace(_gathered(store, key, study), failed=tuple(failed)))
    progress(Progress(1.0, "done"))
    return replace(_gathered(store, key, study), failed=tuple(failed))


def _possible(
    bench: Bench, study: Study, cells: Sequence[Cell], cancelled: Callable[[], bool]
) -> tuple[list[Cell], list[str]]:
    """The cells with the ratios that they are run at, and what is wrong with the others.

    Raises what is wrong with the first cell if something is with all of them: nothing would come of the rest.
    """
    found, errors, ratios = [], {}, {}  # which no seed changes
    for cell in cells:
        if cancelled():
            raise Cancelled("cancelled")
        alike = replace(cell.recipe, seed=0)
        try:
            if alike not in ratios:
                recipe = with_ratio(bench.model.net, alike, study.equal)
                planned_share(bench.model.net, recipe)
                ratios[alike] = recipe.ratio
            found.append(replace(cell, recipe=replace(cell.recipe, ratio=ratios[alike])))
        except RcpuError as error:
            errors[cell.name(study)] = error
    if not found:
        raise next(iter(errors.values()))
    return found, [f"{name}: {error}" for name, error in errors.items()]


def _by_look(cells: Sequence[Cell]) -> list[Cell]:
    """In the order that they came in, but those that share a look at the dense model together."""
    places: dict[Recipe, int] = {}
    return sorted(cells, key=lambda cell: places.setdefault(looked_at(cell.recipe) or cell.recipe, len(places)))


def _left(seconds: float, fresh: int, cells: int) -> str:
    if not fresh:
        return ""
    left = seconds / fresh * cells
    return f", {left / 60:.0f} min left" if left > 90 else f", {left:.0f} s left"


def series_of(study: Study, asked: Asked, bench: Bench, asks: Mapping[str, Ask], cells: Sequence[Cell]) -> dict:
    """What makes cells comparable: model, texts, windows and settings that they share; raises as asks do."""
    base = {**asked.settings, **study.definition.get("recipe", {}), "text": asked.text}
    recipe = plain_recipe(Recipe(**base)).to_dict()
    settings = {k: v for k, v in recipe.items() if k not in ("model", "text", "seed", "ratio")}
    told = {name: ask.asked(bench) for name, ask in asks.items()}
    warnings = []
    texts = sorted({cell.recipe.text for cell in cells})
    for ask in asks.values():
        if ask.kind != "perplexity" or "samples" not in recipe:
            continue
        windows = bench.evaluation(ask.text, ask.window, ask.limit)
        for text in texts:
            counts = {"samples": recipe["samples"], "held_out": recipe["held_out"]}
            seen, _ = divided(bench.text(text), bench.model.tokenizer, **counts)
            names = bench.text(text).name, bench.text(ask.text).name
            if text != ask.text or not bench.text(text).disjoint:
                warnings += [note] if (note := leak_note(overlap(seen, windows), *names)) else []
    return {
        "study": study.name,
        "definition": study.definition,
        "model": bench.model.name,
        "fingerprint": bench.model.fingerprint,
        "dtype": bench.model.dtype,
        "device": str(bench.model.device),
        "precision": bench.precision,
        "text": bench.text(asked.text).name,
        "evaluation": bench.text(asked.evaluation).name,
        "recipe": {k: v for k, v in recipe.items() if k not in ("ratio", "seed")},
        "asks": {name: ask_dict(ask) for name, ask in asks.items()},
        "content": [settings, bench.text(asked.text).digest, told, *filter(None, [study.equal])],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "warnings": list(dict.fromkeys(warnings)),
    }


def gathered(store: Store, study: str | None = None) -> list[Findings]:
    """All series that the store has of a study, or of all, the one that grew last first."""
    keys = {}
    for measure in store.measures.all(kind=KIND):
        if study in (None, measure.asked["study"]):
            keys[measure.asked["series"]] = measure.created
    return [_gathered(store, key) for key in sorted(keys, key=keys.get, reverse=True)]


def _gathered(store: Store, key: str, study: Study | None = None) -> Findings:
    points, dense, series = [], None, {}
    for measure in store.measures.all(kind=KIND):
        if measure.asked["series"] != key:
            continue
        value = measure.value
        run = "" if measure.subject.startswith("dense:") else measure.subject
        point = Point(value["labels"], value["seed"], value["answers"], value["about"], run)
        if run:
            points.append(point)
        else:
            dense, series = point, value["series"]
    newest = {(tuple(sorted(p.labels.items())), p.seed): p for p in points}  # of two versions of the code the later one
    return Findings(study or read_study(series["study"], series["definition"]), series, dense, tuple(newest.values()))


def _answers(bench: Bench, asks: Mapping[str, Ask], answers: Sequence[dict]) -> dict:
    return {
        name: {"kind": ask.kind, "asked": ask.asked(bench), "answer": answer}
        for (name, ask), answer in zip(asks.items(), answers, strict=True)
    }


def _keep(store: Store, subject: str, key: str, told: dict, answers: dict, about: dict, series: dict) -> None:
    own = series if not told["seed"] else {}  # once, with the dense model
    value = {**told, "answers": answers, "about": about, "series": own}
    store.measures.put(subject, KIND, {"study": series["study"], "series": key, **told}, value)
