"""Studies as data: a grid of recipes, what is measured of each, what is claimed, and what was published.

A study is a YAML file; those of the paper ship in grids/. A label may name a recipe that ships (``recipe: best``): it
stands for that recipe's method and options. Knows no models and no results: see studying.py and verdicts.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from itertools import product
from typing import Any

from rcpu.base.errors import RcpuError, choose
from rcpu.base.options import options_of
from rcpu.base.paths import existing
from rcpu.methods.catalog import METHODS
from rcpu.pruning.library import RECIPES
from rcpu.pruning.recipe import Recipe, read_yaml
from rcpu.pruning.target import OF
from rcpu.runs.asks import Ask, ask_of

SUFFIX = ".yaml"
RATIOS, SEEDS = (0.1, 0.2, 0.3), (0, 1, 2)
RATIO, SEED, MEASURED = "ratio", "seed", "measured"  # axes that every study has
SIZES = {"small": "cut so that two cores finish in minutes", "paper": "as the paper has it"}
Labels = dict[str, str]


@dataclass(frozen=True)
class Axis:
    """One thing that varies: labels, each with the settings it stands for."""

    label: str
    values: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Claim:
    """``first`` has a lower, higher or the same quantity as ``than``, for all labels that they share."""

    says: str
    first: Mapping[str, str]
    relation: str  # lower, higher or same
    than: Mapping[str, str]
    quantity: str
    margin: float = 0.0  # in the quantity's unit: by how much at least, or at most for "same"
    some: str = ""  # an axis: it is enough that one of its labels does


@dataclass(frozen=True)
class Study:
    """A declared grid; ``definition`` is all of it as its file has it."""

    name: str
    title: str
    source: str
    question: str
    axes: Mapping[str, Axis]
    measures: Mapping[str, Mapping[str, Any]]
    quantities: tuple[str, ...]
    claims: tuple[Claim, ...]
    figure: Mapping[str, Any]
    published: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]
    definition: dict
    equal: str = ""  # a key of OF: what ratios are of; each recipe's own is then found that leaves as many parameters

    def cells(self, asked: Asked) -> list[Cell]:
        """What has to be run, seed by seed; labels that come to the same recipe are one cell under several labels.

        Raises:
            RcpuError: a setting that no recipe can have, or one text where the study compares two.
        """
        both = any("$evaluation" in row.values() for axis in self.axes.values() for row in axis.values.values())
        if both and asked.text == asked.evaluation:
            raise RcpuError(
                f"the study {self.name} compares two texts, and both are {asked.text}: give another one to measure on"
            )
        given = {"$text": asked.text, "$evaluation": asked.evaluation}
        varied = {name: asked.labels(self, name) for name in self.axes}
        found: dict[Recipe, Cell] = {}
        for seed, ratio, *labels in product(asked.seeds, asked.ratios, *varied.values()):
            named = dict(zip(varied, labels, strict=True))
            settings = {"text": "$text", **asked.settings, **self.definition.get("recipe", {})}
            for axis, label in named.items():
                settings |= self.axes[axis].values[label]
            settings = {k: given.get(v, v) if isinstance(v, str) else v for k, v in settings.items()}
            recipe = plain_recipe(Recipe(**{"model": asked.model, "ratio": ratio, "seed": seed, **settings}))
            told = {**named, RATIO: percent(ratio), SEED: str(seed)}
            cell = found.setdefault(recipe, Cell(recipe, ()))
            found[recipe] = replace(cell, labels=(*cell.labels, told))
        return list(found.values())

    def asks(self, asked: Asked) -> dict[str, Ask]:
        """What is measured of every cell and of the dense model, by what it is called."""
        given = {"$text": asked.text, "$evaluation": asked.evaluation, "$tasks": list(asked.tasks)}
        found = {}
        for name, values in self.measures.items():
            defaults = {"perplexity": {"text": "$evaluation"}, "geometry": {"text": "$evaluation"}}
            values = {**defaults.get(values.get("kind"), {}), **values}
            values = {k: given.get(v, v) if isinstance(v, str) else v for k, v in values.items()}
            ask_of(values)  # as the study has it
            if asked.limit is not None:
                values["limit"] = min(asked.limit, values.get("limit") or asked.limit)
            if "window" in asked.settings and values["kind"] != "tasks":
                values["window"] = asked.settings["window"]
            found[name] = ask_of(values)
        return found


@dataclass(frozen=True)
class Cell:
    """One recipe and the labels it answers for."""

    recipe: Recipe
    labels: tuple[Labels, ...]

    def name(self, study: Study) -> str:
        """What its run is called."""
        return " · ".join([study.name, *self.labels[0].values()])


@dataclass(frozen=True)
class Asked:
    """How large a study shall be, and on what."""

    model: str = "embedded"
    text: str = "embedded"
    evaluation: str = "embedded"
    seeds: tuple[int, ...] = SEEDS
    ratios: tuple[float, ...] = RATIOS
    limit: int | None = None  # windows to measure on at most, or items a task
    tasks: tuple[str, ...] = ("embedded",)
    settings: Mapping[str, Any] = field(default_factory=dict)  # of all recipes, where the study says nothing
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # labels of an axis, where not all

    def labels(self, study: Study, axis: str) -> list[str]:
        """The labels of one axis that are run."""
        return [label for label in study.axes[axis].values if label in self.only.get(axis, (label,))]


def sized(study: Study, size: str = "small", **given: Any) -> Asked:
    """How a study is run at this size, except for what was given; None is as good as not given.

    Raises:
        RcpuError: no such size.
    """
    choose("size", size, SIZES)
    own = dict(study.definition)
    small = own.get("small", {}) if size == "small" else {}
    found: dict[str, Any] = {name: tuple(small.get(name, own[name])) for name in ("ratios", "seeds") if name in own}
    found |= {name: tuple(small[name]) for name in ("ratios", "seeds") if name in small}
    if size == "small":
        found.setdefault("seeds", (0,))
        found |= {"limit": small.get("limit", 64), "settings": small.get("recipe", {})}
        found["only"] = {axis: tuple(labels) for axis, labels in small.get("axes", {}).items()}
    found |= {name: value for name, value in given.items() if value is not None}
    return Asked(**found)


def left_out(study: Study, present: Sequence[Labels]) -> list[str]:
    """What of the full grid has not been run, in words, for every figure of it."""
    found = []
    for name, axis, full in (("ratios", RATIO, RATIOS), ("seeds", SEED, SEEDS)):
        full = study.definition.get(name, full)
        wanted = [percent(v) if axis == RATIO else str(v) for v in full]
        if missing := [label for label in wanted if all(labels[axis] != label for labels in present)]:
            found.append(f"{name} {', '.join(missing)}")
    for axis, row in study.axes.items():
        if missing := [label for label in row.values if all(labels[axis] != label for labels in present)]:
            found.append(f"{row.label.lower()} {', '.join(missing)}")
    return found


def plain_recipe(recipe: Recipe) -> Recipe:
    """The same run with options that change nothing at their defaults, so that equal runs are equal recipes."""
    rows = options_of(METHODS[recipe.method].options)
    idle = {n: row.default for n, row in rows.items() if not row.matters(recipe.options)}
    return replace(recipe, **idle)


def numbers_of(text: str | None, kind: type, what: str) -> tuple | None:
    """Numbers with commas between them, None for no text; raises ``RcpuError``."""
    if not text:
        return None
    try:
        found = tuple(dict.fromkeys(kind(part) for part in text.split(",") if part.strip()))
    except ValueError as error:
        like = "0,1,2" if kind is int else "0.1,0.2,0.3"
        raise RcpuError(f"{what} must be numbers like {like}; got {text!r}") from error
    if not found:
        raise RcpuError(f"{what} names nothing: give at least one number")
    return found


def percent(ratio: float) -> str:
    """A ratio as labels have it."""
    return f"{100 * ratio:g} %"


def read_study(name: str, values: Mapping[str, Any]) -> Study:
    """The study of a YAML file.

    Raises:
        RcpuError: a setting is missing, unknown or of another kind.
    """
    values = json.loads(json.dumps(dict(values)))  # as it comes back from a record: keys are texts
    known = {f.name for f in fields(Study)} - {"name", "definition"} | {"recipe", "small", *("ratios", "seeds")}
    if unknown := sorted(set(values) - known):
        raise RcpuError(f"the study {name} has unknown settings {', '.join(unknown)}; known are {', '.join(known)}")
    try:
        axes = {key: Axis(row.get("label", key), _settings(row["values"])) for key, row in values["axes"].items()}
        quantities = tuple(values.get("quantities", ["perplexity"]))
        claims = tuple(
            Claim(
                row["says"],
                _labels(row["first"]),
                row["is"],
                _labels(row["than"]),
                row.get("quantity", quantities[0]),
                row.get("margin", 0.0),
                row.get("some", ""),
            )
            for row in values.get("claims", [])
        )
        study = Study(
            name,
            str(values["title"]),
            str(values.get("source", "")),
            str(values.get("question", "")),
            axes,
            values.get("measures", {"perplexity": {"kind": "perplexity"}}),
            quantities,
            claims,
            values["figure"],
            tuple(values.get("published", [])),
            tuple(values.get("notes", [])),
            values,
            str(values.get("equal", "")),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise RcpuError(f"the study {name} cannot be read: {misfit(error)}") from error
    if study.equal:
        choose(f"equal in the study {name}", study.equal, OF)
    for claim in study.claims:
        choose(f"relation in the study {name}", claim.relation, dict.fromkeys(("lower", "higher", "same")))
        for axis in {*claim.first, *claim.than} - {RATIO, MEASURED}:
            choose(f"axis in the study {name}", axis, axes)
    return study


def misfit(error: Exception) -> str:
    """In words what a key or a value that was not as expected comes to."""
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else "a value has another form"


def _labels(row: Mapping) -> Labels:
    return {str(k): str(v) for k, v in row.items()}


def _settings(values: Mapping) -> dict[str, Mapping]:
    """What every label stands for, a recipe that it names by its method and options."""
    found = {}
    for label, row in values.items():
        row, named = dict(row), {}
        if "recipe" in row:
            recipe = choose("recipe", row.pop("recipe"), RECIPES).recipe
            named = {"method": recipe.method, **recipe.to_dict()["options"]}
        found[str(label)] = named | row
    return found


class Studies(Mapping[str, Study]):
    """The studies that ship with the library, by name; a file is read when it is first asked for."""

    def __init__(self) -> None:
        self._folder = resources.files("rcpu.runs") / "grids"
        self._read: dict[str, Study] = {}

    def __getitem__(self, name: str) -> Study:
        if name not in self._read:
            if name not in set(self):
                raise KeyError(name)
            text = (self._folder / f"{name}{SUFFIX}").read_text(encoding="utf-8")
            self._read[name] = read_study(name, read_yaml(text))
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        found = (f.name.removesuffix(SUFFIX) for f in self._folder.iterdir() if f.name.endswith(SUFFIX))
        return iter(sorted(found, key=lambda name: (not name.startswith(("table", "fig")), name)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


STUDIES = Studies()


def load_study(name: str) -> Study:
    """The study of that name, or of a YAML file; raises ``RcpuError`` if there is neither."""
    if name in STUDIES:
        return STUDIES[name]
    path = existing(name)
    if path is None or not path.is_file():
        raise RcpuError(f"no study {name!r}: give one of {', '.join(STUDIES)}, or a YAML file")
    try:
        return read_study(path.stem, read_yaml(path.read_text(encoding="utf-8-sig")))
    except (OSError, UnicodeDecodeError) as error:
        raise RcpuError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from error
