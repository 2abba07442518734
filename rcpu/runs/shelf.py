"""All runs side by side: sizes, errors, and what was measured of all of them on the same windows and items."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from rcpu.measure.intervals import Interval
from rcpu.measure.perplexity import Perplexity
from rcpu.measure.tasks_results import TaskResult
from rcpu.runs.records import Run, dense_subject
from rcpu.runs.store import Store


@dataclass(frozen=True)
class Row:
    """What one run comes to; the same of its dense model where that was measured, too."""

    run: Run
    parameters: int | None = None
    dense_parameters: int | None = None
    bytes: int | None = None
    dense_bytes: int | None = None
    error: float | None = None  # mean over sites, on held-out windows where there are any
    perplexity: Perplexity | None = None
    dense_perplexity: Perplexity | None = None
    accuracy: float | None = None  # mean over tasks
    dense_accuracy: float | None = None
    speed: float | None = None  # tokens/s decoding
    dense_speed: float | None = None


@dataclass(frozen=True, eq=False)
class Shelf:
    """The runs of a store and their measures, read at once; perplexities by subject and digest of windows."""

    runs: tuple[Run, ...]
    perplexity: dict[str, dict[str, Perplexity]] = field(default_factory=dict)
    accuracy: dict[str, dict[tuple[str, str], float]] = field(default_factory=dict)  # by task and digest of items
    speed: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store, runs: Sequence[Run] | None = None) -> Shelf:
        """What a store holds of these runs (default: all)."""
        perplexity, accuracy, speed = defaultdict(dict), defaultdict(dict), {}
        for measure in store.measures.all():
            if measure.kind == "perplexity":
                found = Perplexity.from_dict(measure.value)
                ends = measure.value.get("interval")
                vars(found)["interval"] = ends and Interval(*ends)  # a bootstrap each would take seconds for hundreds
                perplexity[measure.subject][found.digest] = found
            elif measure.kind == "task":
                result = TaskResult.from_dict(measure.value)
                accuracy[measure.subject][result.task, result.digest] = result.score().value
            elif measure.kind == "tasks":  # of a study or a sweep
                for task, one in measure.value.items():
                    accuracy[measure.subject][task, one["digest"]] = sum(one["values"]) / len(one["values"])
            elif measure.kind == "generation" and measure.value.get("tokens_per_second"):
                speed[measure.subject] = measure.value["tokens_per_second"]
        return cls(tuple(store.runs() if runs is None else runs), dict(perplexity), dict(accuracy), speed)

    def windows(self) -> dict[str, Perplexity]:
        """By digest an example of every set of windows that runs were measured on, the most common first."""
        found = [p for run in self.runs for p in self.perplexity.get(run.id, {}).values()]
        counts = Counter(p.digest for p in found)
        return {p.digest: p for p in sorted(found, key=lambda p: -counts[p.digest])}

    def items(self) -> list[tuple[str, str]]:
        """Tasks, with their items, that were run on most of the runs that any was run on."""
        counts = Counter(key for run in self.runs for key in self.accuracy.get(run.id, {}))
        most = max(counts.values(), default=0)
        return [key for key, count in counts.items() if count == most]

    def rows(self, windows: str) -> list[Row]:
        """All runs, with their perplexity on the windows of this digest and their accuracy on the common tasks."""
        return [self._row(run, windows) for run in self.runs]

    def _row(self, run: Run, windows: str) -> Row:
        about, dense = run.about, dense_subject(run.fingerprint, run.about["dtype"])
        held_out = about.get("mean_error_compensated_held_out")
        return Row(
            run,
            about.get("parameters_after"),
            about.get("parameters_before"),
            about.get("bytes_after"),
            about.get("bytes_before"),
            about.get("mean_error_compensated") if held_out is None else held_out,
            self.perplexity.get(run.id, {}).get(windows),
            self.perplexity.get(dense, {}).get(windows),
            self._mean(run.id),
            self._mean(dense),
            self.speed.get(run.id),
            self.speed.get(dense),
        )

    def _mean(self, subject: str) -> float | None:
        """Mean accuracy over the common tasks; None where one is missing."""
        found = [self.accuracy.get(subject, {}).get(key) for key in self.items()]
        return sum(found) / len(found) if found and None not in found else None


def settings_of(run: Run) -> dict[str, object]:
    """Every setting of a run in one level, by name: what its recipe says, and where it was run."""
    recipe = {k: v for k, v in run.recipe.items() if k != "options"} | (run.recipe.get("options") or {})
    place = {k: run.about.get(k) for k in ("dtype", "device", "text_digest", "windows", "machine", "versions")}
    return recipe | {"fingerprint": run.fingerprint} | place


def side_by_side(first: Run, second: Run) -> list[tuple[str, object, object]]:
    """Every setting of two runs, those that differ first; None where one has no such setting."""
    a, b = settings_of(first), settings_of(second)
    rows = [(name, a.get(name), b.get(name)) for name in dict.fromkeys([*a, *b])]
    return sorted(rows, key=lambda row: row[1] == row[2])
