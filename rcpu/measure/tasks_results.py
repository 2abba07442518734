"""What a model scored on a task, item by item, and whether two models differ on the same items."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property

import numpy as np

from rcpu.base.errors import RcpuError
from rcpu.measure.intervals import CONFIDENCE, DRAWS, RESAMPLES, Difference, Interval, mean_interval, percent

MAIN = ("acc_norm", "acc", "exact_match", "perplexity")  # the first that a task has is the one that it goes by
CALLED = {"acc": "accuracy", "acc_norm": "accuracy, by length", "perplexity": "perplexity"}


@dataclass(frozen=True)
class Item:
    """One question: what was asked, what the model made of it, and what each metric gave."""

    digest: str  # of question, choices and answer
    context: str
    choices: tuple[str, ...]  # one where the model had to continue, none where it wrote freely
    loglikelihoods: tuple[float, ...]  # ln of the probability of each choice, nats
    gold: int | None
    metrics: Mapping[str, float]

    def chosen(self, metric: str) -> int | None:
        """The choice that the model preferred by a metric."""
        if len(self.choices) < 2:
            return None
        lengths = [len(c) if metric == "acc_norm" else 1 for c in self.choices]
        return int(np.argmax([ll / max(1, n) for ll, n in zip(self.loglikelihoods, lengths, strict=True)]))


@dataclass(frozen=True)
class Score:
    """A metric over all items of a task; accuracies are shares of 1."""

    metric: str
    value: float
    error: float | None  # standard error; None for one item
    interval: Interval | None
    chance: float | None  # expected of a uniform guess
    constant: float | None  # of always the same answer, the best of these
    items: int


@dataclass(frozen=True)
class TaskResult:
    """All items of one task for one model."""

    task: str
    items: tuple[Item, ...]
    few_shot: int
    version: str

    @cached_property
    def digest(self) -> str:
        """Of the items and the number of examples before each: what is compared must have the same."""
        told = "".join(item.digest for item in self.items) + f" {self.few_shot}"
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Their names, the main one first."""
        found = list(self.items[0].metrics)
        return tuple(sorted(found, key=lambda m: MAIN.index(m) if m in MAIN else len(MAIN)))

    @property
    def main(self) -> str:
        """The metric that the task goes by: by length where it has it, as the tables of pruning papers."""
        return self.metrics[0]

    def values(self, metric: str | None = None) -> list[float]:
        """What each item gave."""
        return [float(item.metrics[metric or self.main]) for item in self.items]

    def score(self, metric: str | None = None) -> Score:
        """A metric over all items, the main one unless said otherwise."""
        metric = metric or self.main
        values = np.array(self.values(metric))
        count, mean, ends = len(values), float(values.mean()), mean_interval(values)
        error = float(values.std(ddof=1) / math.sqrt(count)) if count > 1 else None
        if metric == "perplexity":  # of ln p of what was asked for
            between = ends and Interval(math.exp(-ends.high), math.exp(-ends.low))
            return Score(metric, math.exp(-mean), error and error * math.exp(-mean), between, None, None, count)
        return Score(metric, mean, error, ends, *self._guesses(metric), count)

    def _guesses(self, metric: str) -> tuple[float | None, float | None]:
        if not metric.startswith("acc"):
            return None, None
        if all(len(item.choices) == 1 for item in self.items):  # to be written: one of the vocabulary's words
            words = [item.choices[0] for item in self.items]
            return 0.0, max(words.count(w) for w in set(words)) / len(words)
        if any(not item.choices or item.gold is None for item in self.items):
            return None, None
        places = [item.gold for item in self.items]
        return (
            float(np.mean([1 / len(item.choices) for item in self.items])),
            max(places.count(p) for p in set(places)) / len(places),
        )

    def to_dict(self, items: bool = True) -> dict:
        """Plain values for JSON; without ``items`` only the scores, which :meth:`from_dict` cannot read."""
        found = {"task": self.task, "few_shot": self.few_shot, "version": self.version, "digest": self.digest}
        found["scores"] = {metric: asdict(self.score(metric)) for metric in self.metrics}
        return found | ({"items": [asdict(item) for item in self.items]} if items else {})

    @classmethod
    def from_dict(cls, found: Mapping) -> TaskResult:
        """Back from :meth:`to_dict`."""
        items = tuple(
            Item(**{f.name: tuple(v) if isinstance(v := item[f.name], list) else v for f in fields(Item)})
            for item in found["items"]
        )
        return cls(found["task"], items, found["few_shot"], found["version"])


@dataclass(frozen=True)
class Comparison:
    """Two models on the same items: the difference, and the items that only one of them got right."""

    task: str
    metric: str
    difference: Difference  # second less first, points of 100; % for perplexity
    only_first: tuple[int, ...]
    only_second: tuple[int, ...]
    p: float | None  # exact McNemar: were the items that only one got right a matter of chance?

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return {**asdict(self), "difference": self.difference.to_dict()}


def compare_tasks(first: TaskResult, second: TaskResult, metric: str | None = None) -> Comparison:
    """How much better the second is, with a paired bootstrap interval over items and an exact McNemar test.

    Raises:
        RcpuError: they did not answer the same items.
    """
    from scipy.stats import binomtest

    metric = metric or first.main
    gaps = _gaps(first, second, metric)
    ends, mean = mean_interval(gaps), sum(gaps) / len(gaps)
    if metric == "perplexity":
        found = (percent(-ends.high), percent(-ends.low)) if ends else (None, None)
        return Comparison(first.task, metric, Difference(percent(-mean), "%", *found, len(gaps)), (), (), None)
    found = (100 * ends.low, 100 * ends.high) if ends else (None, None)
    only_first = tuple(i for i, gap in enumerate(gaps) if gap < 0)
    only_second = tuple(i for i, gap in enumerate(gaps) if gap > 0)
    p = None
    if {*first.values(metric), *second.values(metric)} <= {0.0, 1.0}:
        apart = len(only_first) + len(only_second)
        p = float(binomtest(len(only_second), apart, 0.5).pvalue) if apart else 1.0
    return Comparison(
        first.task, metric, Difference(100 * mean, "points", *found, len(gaps)), only_first, only_second, p
    )


def _gaps(first: TaskResult, second: TaskResult, metric: str) -> list[float]:
    """What the second gave more than the first, item by item; raises ``RcpuError`` if the items are not the same."""
    if first.digest != second.digest:
        raise RcpuError(
            f"two models can be compared on the same items only: {first.task} was run with {len(first.items):,} items "
            f"and {first.few_shot} examples before each, {second.task} with {len(second.items):,} and "
            f"{second.few_shot}, or their texts differ; run both again with the same settings"
        )
    return [y - x for x, y in zip(first.values(metric), second.values(metric), strict=True)]


def metric_of(result: TaskResult, metric: str = "") -> str:
    """The metric asked for where a task has it, else its main one."""
    return metric if metric in result.metrics else result.main


def mean_accuracy(results: Sequence[TaskResult], metric: str = "") -> float | None:
    """The plain mean of the tasks' accuracies, None if one has none."""
    if not results or any(not r.main.startswith("acc") for r in results):
        return None
    return float(np.mean([r.score(metric_of(r, metric)).value for r in results]))


def mean_difference(pairs: Sequence[tuple[TaskResult, TaskResult]], metric: str = "") -> Difference:
    """By how many points the second model's mean accuracy exceeds the first's; items are drawn again in every task."""
    from scipy.stats import bootstrap

    gaps = [100 * np.array(_gaps(first, second, metric_of(first, metric))) for first, second in pairs]
    count = sum(map(len, gaps))
    mean = float(np.mean([g.mean() for g in gaps]))
    if min(map(len, gaps)) < 2:
        return Difference(mean, "points", None, None, count)
    if all(np.ptp(g) == 0 for g in gaps):
        return Difference(mean, "points", mean, mean, count)
    ends = bootstrap(
        gaps,
        lambda *drawn, axis=-1: sum(d.mean(axis=axis) for d in drawn) / len(drawn),
        n_resamples=RESAMPLES,
        batch=max(1, DRAWS // count),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Difference(mean, "points", float(ends.low), float(ends.high), count)
