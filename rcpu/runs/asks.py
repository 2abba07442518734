"""What can be asked of a model, dense or pruned, so that the answer lasts: perplexity, accuracy, geometry.

An ask is plain values, so that it stands in a YAML file and travels to another machine. What an answer depends on
beside the model is told by content: digests of windows and texts, never their names.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from torch import Tensor, nn

from rcpu.base.errors import RcpuError, choose
from rcpu.measure.perplexity import perplexity, windows_digest
from rcpu.measure.shapes import geometry
from rcpu.measure.tasks import run_tasks
from rcpu.measure.tasks_sources import EMBEDDED, expanded
from rcpu.models.devices import DTYPES
from rcpu.models.loading import Model
from rcpu.pruning.recipe import Recipe
from rcpu.pruning.survey import Looks
from rcpu.text.leaks import leak_note, overlap
from rcpu.text.texts import Text, load_text
from rcpu.text.windows import Windows, calibration_windows, divided, evaluation_windows

Step = Callable[[float], None]
Stop = Callable[[], bool]


@dataclass(eq=False)
class Bench:
    """A model at work: each text is read once for all that is pruned and measured here.

    ``measure_in`` is the precision of measuring, '' for the model's own: bf16 takes two fifths of the time on a CPU.
    """

    model: Model
    measure_in: str = ""
    read: Callable[[str], Text] = load_text  # what a text's name means
    looks: Looks = field(default_factory=Looks, init=False)  # at the dense model, what runs share of them
    _kept: dict = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.measure_in:
            choose("precision", self.measure_in, DTYPES)

    def text(self, name: str) -> Text:
        """A text by its name."""
        return self._once(("text", name), lambda: self.read(name))

    def windows(self, recipe: Recipe) -> Windows:
        """What a recipe calibrates on."""
        counts = {name: getattr(recipe, name) for name in ("samples", "window", "held_out", "seed")}
        made = lambda: calibration_windows(self.text(recipe.text), self.model.tokenizer, **counts)  # noqa: E731
        return self._once(("windows", recipe.text, *counts.values()), made)

    def drawn_from(self, recipe: Recipe) -> Tensor:
        """The tokens, (tokens,), from which a recipe's calibration windows are drawn."""
        counts = {"samples": recipe.samples, "held_out": recipe.held_out}
        made = lambda: divided(self.text(recipe.text), self.model.tokenizer, **counts)[0]  # noqa: E731
        return self._once(("drawn from", recipe.text, *counts.values()), made)

    def evaluation(self, text: str, window: int, most: int | None) -> Tensor:
        """Windows to measure on, (windows, window)."""
        made = lambda: evaluation_windows(  # noqa: E731
            self.text(text), self.model.tokenizer, window=window, max_windows=most
        )
        return self._once(("evaluation", text, window, most), made)

    @property
    def precision(self) -> str:
        """What is measured in."""
        return self.measure_in or self.model.dtype

    def ready(self, net: nn.Module) -> nn.Module:
        """A net in the precision of measuring; the one passed in stays as it is."""
        if self.precision == self.model.dtype:
            return net
        return copy.deepcopy(net).to(DTYPES[self.precision])

    @property
    def dense(self) -> nn.Module:
        """The dense net in the precision of measuring."""
        return self._once("dense", lambda: self.ready(self.model.net))

    def _once(self, key: object, made: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = made()
        return self._kept[key]


@dataclass(frozen=True)
class PerplexityAsk:
    """Perplexity on non-overlapping windows from the start of a text's evaluation part."""

    kind: ClassVar[str] = "perplexity"
    text: str = "embedded"
    window: int = 128
    limit: int | None = None  # windows at most

    def asked(self, bench: Bench) -> dict:
        """All that the answer depends on beside the model."""
        windows = bench.evaluation(self.text, self.window, self.limit)
        return {"windows": windows_digest(windows), "dtype": bench.precision}

    def answer(self, bench: Bench, net: nn.Module, progress: Step, cancelled: Stop) -> dict:
        """Plain values, the loss of every window among them."""
        windows, name = bench.evaluation(self.text, self.window, self.limit), bench.text(self.text).name
        return perplexity(net, windows, text=name, progress=progress, cancelled=cancelled).to_dict(losses=True)

    def leak(self, bench: Bench, recipe: Recipe) -> str | None:
        """A sentence of warning where these windows stand in what the recipe draws calibration windows from."""
        windows, name = bench.evaluation(self.text, self.window, self.limit), bench.text(self.text).name
        return leak_note(overlap(bench.drawn_from(recipe), windows), bench.text(recipe.text).name, name)


@dataclass(frozen=True)
class GeometryAsk:
    """Norms, directions and inner products of outputs on windows that nobody calibrated on."""

    kind: ClassVar[str] = "geometry"
    text: str = "embedded"
    window: int = 128
    limit: int | None = 16

    def asked(self, bench: Bench) -> dict:
        """All that the answer depends on beside the model."""
        windows = bench.evaluation(self.text, self.window, self.limit)
        return {"windows": windows_digest(windows), "dtype": bench.precision}

    def answer(self, bench: Bench, net: nn.Module, progress: Step, cancelled: Stop) -> dict:
        """Plain values, each kind by window and by layer."""
        windows = bench.evaluation(self.text, self.window, self.limit)
        return geometry(bench.dense, net, windows, progress=progress, cancelled=cancelled).to_dict()


@dataclass(frozen=True)
class TasksAsk:
    """Accuracy on tasks of lm-eval, item by item, by the metric that each task goes by."""

    kind: ClassVar[str] = "tasks"
    tasks: tuple[str, ...] = ("embedded",)
    few_shot: int | None = None
    text: str = "embedded"  # what the embedded tasks are made of
    limit: int | None = None  # items a task at most

    def asked(self, bench: Bench) -> dict:
        """All that the answer depends on beside the model."""
        names = list(expanded(self.tasks))
        made_of = bench.text(self.text).digest if set(names) & set(EMBEDDED) else ""
        how = {"few_shot": self.few_shot, "limit": self.limit, "dtype": bench.precision}
        return {"tasks": names, "text": made_of, **how}

    def answer(self, bench: Bench, net: nn.Module, progress: Step, cancelled: Stop) -> dict:
        """Plain values by task: the metric, what each item gave, and chance."""
        found = run_tasks(
            net,
            bench.model.tokenizer,
            list(self.tasks),
            limit=self.limit,
            few_shot=self.few_shot,
            text=bench.text(self.text),
            progress=lambda p: progress(p.fraction),
            cancelled=cancelled,
        )
        return {
            name: {"metric": r.main, "values": r.values(), "chance": r.score().chance, "digest": r.digest}
            for name, r in found.items()
        }


Ask = PerplexityAsk | GeometryAsk | TasksAsk
ASKS: dict[str, type] = {kind.kind: kind for kind in (PerplexityAsk, GeometryAsk, TasksAsk)}
BOUNDS = {"window": (2, math.inf), "limit": (1, math.inf), "few_shot": (0, 64)}
SETTINGS = {
    "text": "the name of a text",
    "tasks": "a list of one or more names",
    "window": "a whole number of at least 2",
    "limit": "a whole number of at least 1, or left out",
    "few_shot": "a whole number from 0 to 64, or left out",
}


def ask_of(values: Mapping[str, Any]) -> Ask:
    """The ask that plain values stand for: ``{kind: perplexity, text: embedded}``.

    Raises:
        RcpuError: an unknown kind, a setting that it does not have, or a value that a setting cannot have.
    """
    if not isinstance(values, Mapping):
        raise RcpuError(f"a measure is settings like {{kind: perplexity, text: embedded}}, got {values!r}")
    settings = dict(values)
    kind = choose("measure", str(settings.pop("kind", "")), ASKS)
    known = [f.name for f in fields(kind)]
    if unknown := [name for name in settings if name not in known]:
        raise RcpuError(f"measure {kind.kind!r} has no setting {unknown[0]!r}: it has {', '.join(known)}")
    for name, value in settings.items():
        if not _fits(name, value):
            raise RcpuError(f"measure {kind.kind!r}: {name} cannot be {value!r}, it is {SETTINGS[name]}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})


def _fits(name: str, value: Any) -> bool:
    if name == "text":
        return isinstance(value, str)
    if name == "tasks":
        return isinstance(value, list | tuple) and bool(value) and all(isinstance(task, str) for task in value)
    if value is None:
        return name != "window"
    low, high = BOUNDS[name]
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def ask_dict(ask: Ask) -> dict:
    """Plain values that :func:`ask_of` reads back."""
    return {"kind": ask.kind, **{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(ask).items()}}
