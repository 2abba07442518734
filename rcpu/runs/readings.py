"""What a study reads off its cells: quantities with their intervals, and paired differences over windows and seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rcpu.measure.intervals import Difference, Interval, crossed_interval, percent

Table = tuple[tuple[float, ...], ...]  # strata (tasks; all windows of a text) of units (items, windows)


@dataclass(frozen=True)
class Quantity:
    """One number of a model, its unit, and where it is found in a point of a study."""

    label: str
    unit: str  # of its differences: "%" of the first, "points", or its own
    lower: bool  # whether less is better
    kind: str  # of the answer it is read from; '' for what the run itself tells
    read: Callable[[Mapping[str, Any]], Table]
    shown: Callable[[float], float] = float  # of the mean
    exact: bool = False  # no sample: the same every time, or a single measurement
    digits: int = 2
    log: bool = False  # may have a logarithmic axis, where values lie far apart
    relative: bool = True  # a multiple of the dense model's says something


def _exact(label: str, name: str, scale: float = 1.0, digits: int = 1, relative: bool = True) -> Quantity:
    """What a run tells of itself."""
    more = {"exact": True, "digits": digits, "log": True, "relative": relative}
    return Quantity(label, "%", True, "", lambda about: ((about[name] / scale,),), **more)


def _geometry(label: str, name: str, lower: bool) -> Quantity:
    """One kind of geometry; of the dense model itself there is nothing to tell."""
    read = lambda answer: (tuple(answer["by_window"][name]),)  # noqa: E731
    return Quantity(label, "", lower, "geometry", read, digits=3, relative=False)


def _accuracies(answer: Mapping[str, Any]) -> Table:
    return tuple(tuple(100 * v for v in task["values"]) for task in answer.values() if task["metric"][:3] == "acc")


def _exp(mean: float) -> float:
    return math.exp(mean) if mean < 700 else math.inf


QUANTITIES = {
    "perplexity": Quantity("Perplexity", "%", True, "perplexity", lambda a: (tuple(a["by_window"]),), _exp, log=True),
    "accuracy": Quantity("Mean accuracy, %", "points", False, "tasks", _accuracies),
    "norm": _geometry("Norms are off by, share", "norm", True),
    "cosine": _geometry("Cosine with the dense outputs", "cosine", False),
    "inner": _geometry("Inner products are off by, share", "inner", True),
    "seconds": _exact("Seconds a layer", "seconds_a_layer", digits=2, relative=False),
    "memory": _exact("Memory of the weights, MiB", "bytes_after", 2**20),
    "parameters": _exact("Parameters, millions", "parameters_after", 1e6),
}


@dataclass(frozen=True)
class Point:
    """One cell under one set of labels: what was measured and what its run tells."""

    labels: Mapping[str, str]
    seed: str
    answers: Mapping[str, Mapping[str, Any]]  # by what is measured: kind, asked, answer
    about: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""  # its id in the store


@dataclass(frozen=True)
class Reading:
    """One quantity under one set of labels, with as many seeds as there are."""

    labels: Mapping[str, str]
    seeds: tuple[str, ...]
    tables: tuple[Table, ...]  # a seed each
    value: float
    interval: Interval | None
    unit: str = ""  # what was asked: readings of other units are not paired

    def of_seeds(self, seeds: Sequence[str]) -> list[Table]:
        """The tables of these seeds in this order."""
        by_seed = dict(zip(self.seeds, self.tables, strict=True))
        return [by_seed[seed] for seed in seeds]


def strata(tables: Sequence[Table]) -> list[list[tuple[float, ...]]]:
    """Seeds of strata as strata of seeds."""
    return [list(rows) for rows in zip(*tables, strict=True)]


def mean(tables: Sequence[Table]) -> float:
    """The mean over seeds and units; strata weigh the same."""
    return sum(sum(map(sum, rows)) / sum(map(len, rows)) for rows in strata(tables)) / len(tables[0])


def readings(points: Sequence[Point], quantity: str) -> list[Reading]:
    """Points with the same labels joined over their seeds; several texts measured are labels of their own."""
    q = QUANTITIES[quantity]
    groups: dict[tuple, dict[str, tuple[Table, str]]] = {}
    for point in points:
        sources = (
            {"": (point.about, "")}
            if not q.kind
            else {
                name: (a["answer"], str(sorted(a["asked"].items())))
                for name, a in point.answers.items()
                if a["kind"] == q.kind
            }
        )
        for name, (source, asked) in sources.items():
            labels = dict(point.labels) | ({"measured": name} if len(sources) > 1 else {})
            try:
                table = q.read(source)
            except KeyError:
                continue
            groups.setdefault(tuple(sorted(labels.items())), {})[point.seed] = (table, asked)
    found = []
    for labels, by_seed in groups.items():
        seeds = tuple(sorted(by_seed, key=lambda s: (len(s), s)))
        tables = tuple(by_seed[seed][0] for seed in seeds)
        ends = None if q.exact else crossed_interval(strata(tables))
        shown = ends and Interval(q.shown(ends.low), q.shown(ends.high))
        found.append(Reading(dict(labels), seeds, tables, q.shown(mean(tables)), shown, by_seed[seeds[0]][1]))
    return found


def paired(quantity: str, first: Reading, second: Reading) -> Difference | None:
    """By how much ``second`` exceeds ``first`` on the same windows or items and seeds; None if they share none."""
    q = QUANTITIES[quantity]
    seeds = [seed for seed in first.seeds if seed in second.seeds]
    ours, theirs = first.of_seeds(seeds), second.of_seeds(seeds)
    if (
        not seeds
        or first.unit != second.unit
        or [list(map(len, t)) for t in ours] != [list(map(len, t)) for t in theirs]
    ):
        return None
    if q.exact:
        a, b = mean(ours), mean(theirs)
        gap = 100 * (b / a - 1) if q.unit == "%" else b - a
        return Difference(gap, q.unit, gap, gap, len(seeds))
    gaps = [
        tuple(tuple(y - x for x, y in zip(a, b, strict=True)) for a, b in zip(t, u, strict=True))
        for t, u in zip(ours, theirs, strict=True)
    ]
    told = percent if q.unit == "%" else float
    ends = crossed_interval(strata(gaps))
    between = (None, None) if ends is None else (told(ends.low), told(ends.high))
    return Difference(told(mean(gaps)), q.unit, *between, sum(map(len, gaps[0])))


def _shapes(tables: Sequence[Table]) -> list[list[int]]:
    return [[len(units) for units in table] for table in tables]
