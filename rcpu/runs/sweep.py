"""A grid of models × recipes × seeds with what is measured of each: every cell a run of the store, on any engine.

A cell is plain values, so that it travels to another process or machine; what the store has already is not done again.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from rcpu.base.errors import RcpuError
from rcpu.models.devices import check_names
from rcpu.models.loading import footprint, load_model
from rcpu.pruning.library import load_recipe
from rcpu.pruning.recipe import Recipe, plain_yaml
from rcpu.pruning.target import with_ratio
from rcpu.runs.asks import Bench, ask_dict, ask_of
from rcpu.runs.running import run_recipe
from rcpu.runs.store import home_folder, open_store
from rcpu.runs.studies import Asked, Study

KEYS = ("models", "recipes", "vary", "seeds", "measures", "device", "dtype")
OWN = {"model": "models", "seed": "seeds"}  # settings of a recipe with a key of their own
ROOM = 2.5  # times what loading a model takes: the compact one and statistics beside it


@dataclass(frozen=True)
class Cell:
    """One run to be, and what is measured of it."""

    name: str
    model: str
    recipe: dict
    measures: tuple[dict, ...]
    device: str
    dtype: str
    home: str  # folder of the store
    measure_in: str = ""  # precision; the model's own
    keep_weights: bool = True
    label: str = ""  # what its run is called
    equal: str = ""  # of what its ratio is a share, where not of what the method calls a unit

    @property
    def gpus(self) -> int:
        """How many it takes."""
        return int(self.device.startswith("cuda") or (self.device == "auto" and torch.cuda.is_available()))

    def bytes(self) -> int:
        """Memory that it takes, as far as that is known before the model is here."""
        size = footprint(self.model, self.device, self.dtype)
        return int(ROOM * size.need) if size else 0


@dataclass(frozen=True)
class Done:
    """What became of a cell: its run and answers, or the reason why not."""

    name: str
    run: str = ""
    found: bool = False  # it was in the store already
    answers: tuple[dict, ...] = ()
    notes: tuple[str, ...] = ()  # what to know before answers are believed
    error: str = ""


def read_grid(path: Path, home: Path | None = None) -> list[Cell]:
    """The cells of a YAML file::

        models: [embedded]
        recipes: [rcpu-paper, {scorer: flap, compensation: bias}]
        vary: {ratio: [0.1, 0.2]}
        seeds: [0, 1]
        measures: [{kind: perplexity, text: embedded, limit: 40}]

    A recipe's own model and seed stand where the grid has no ``models`` or ``seeds``; ``vary`` goes over the rest.

    Raises:
        RcpuError: it cannot be read, has an unknown key, names a recipe, a setting or a measure that there is not,
            gives a value that one cannot have, or a model or a seed both in a recipe and for all.
    """
    try:
        said = plain_yaml(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RcpuError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise RcpuError(f"{path} is not YAML in UTF-8: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(said, dict) or (unknown := [key for key in said if key not in KEYS]):
        what = f"has no key {unknown[0]!r}" if isinstance(said, dict) else "is no grid"
        raise RcpuError(f"{path} {what}: a grid has {', '.join(KEYS)}")
    try:
        return _cells(said, home or home_folder())
    except RcpuError as error:
        raise RcpuError(f"{path}: {error}") from error


def _cells(said: dict, home: Path) -> list[Cell]:
    where = {"device": said.get("device", "auto"), "dtype": said.get("dtype", "auto")}
    check_names(**where)
    vary = _vary(said.get("vary") or {})
    own = {axis: _list(said[key], key) for axis, key in OWN.items() if key in said}
    recipes = [_recipe(given, own) for given in _list(said.get("recipes", ["rcpu-paper"]), "recipes")]
    asks = tuple(ask_dict(ask_of(given)) for given in _list(said.get("measures", []), "measures"))
    models, seeds = own.get("model", [None]), own.get("seed", [None])
    cells: dict[tuple, Cell] = {}
    for model, recipe, *values, seed in itertools.product(models, recipes, *vary.values(), seeds):
        changes = dict(zip(vary, values, strict=True))
        told = [f"{name} {value}" for name, value in changes.items()]
        changes |= {axis: value for axis, value in {"model": model, "seed": seed}.items() if axis in own}
        made = _with(recipe, changes)
        name = ", ".join([made.model, made.method, *told, f"seed {made.seed}"])
        cell = Cell(name, made.model, made.to_dict(), asks, **where, home=str(home))
        cells.setdefault((made.model, made.digest), cell)
    return list(cells.values())


def study_cells(study: Study, asked: Asked, home: Path, **where: Any) -> list[Cell]:
    """The cells of a study, for an engine; ``run_study`` then finds them in the store."""
    asks = tuple(ask_dict(ask) for ask in study.asks(asked).values())
    found = []
    for cell in study.cells(asked):
        label, recipe = cell.name(study), cell.recipe.to_dict()
        told = {"label": label, "equal": study.equal}
        found.append(Cell(label, asked.model, recipe, asks, home=str(home), **told, **where))
    return found


def run_cell(cell: Mapping[str, Any]) -> dict:
    """Do one cell in this process and return plain values; what goes wrong with its input is an answer, too."""
    c = Cell(**cell)
    try:
        bench, recipe = _bench(c.model, c.device, c.dtype, c.measure_in), Recipe.from_dict(c.recipe)
        recipe = with_ratio(bench.model.net, recipe, c.equal)
        asks, store = [ask_of(ask) for ask in c.measures], open_store(Path(c.home))
        done = run_recipe(bench, recipe, asks, store, name=c.label, keep_weights=c.keep_weights)
    except RcpuError as error:
        return asdict(Done(c.name, error=str(error)))
    return asdict(Done(c.name, done.run.id, not done.pruned, done.answers, done.notes))


_benches: dict[tuple[str, ...], Bench] = {}


def _bench(model: str, device: str, dtype: str, measure_in: str) -> Bench:
    """One model at a time in a process: cells of one model follow one another."""
    key = (model, device, dtype, measure_in)
    if key not in _benches:
        _benches.clear()
        _benches[key] = Bench(load_model(model, device, dtype), measure_in)
    return _benches[key]


def _recipe(given: Any, own: Mapping[str, list]) -> Recipe:
    """A recipe of the list; of the axes that the grid has as its ``own`` it may not have a value, too."""
    if not isinstance(given, str | dict):
        raise RcpuError(f"a recipe is a name, a file or settings, got {given!r}")
    made = load_recipe(given) if isinstance(given, str) else Recipe.from_dict(given)
    for axis in own:
        value = getattr(made, axis)
        if value != getattr(Recipe, axis) or (isinstance(given, dict) and axis in given):
            raise RcpuError(f"a recipe has {axis} {value!r} and the grid has {OWN[axis]}: leave one of them out")
    return made


def _with(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A recipe with other settings; another method has its own options at their defaults."""
    values = recipe.to_dict()
    options = values.pop("options")
    same = changes.get("method", recipe.method) == recipe.method
    return Recipe.from_dict(values | (options if same else {}) | changes)


def _list(given: Any, name: str) -> list:
    if not isinstance(given, list) or (not given and name != "measures"):
        raise RcpuError(f"{name} must be a list with at least one entry, got {given!r}")
    return given


def _vary(given: Any) -> dict[str, list]:
    if not isinstance(given, dict):
        raise RcpuError(f"vary must map settings to lists of values, got {given!r}")
    if found := [axis for axis in OWN if axis in given]:
        raise RcpuError(f"vary has no {found[0]}: write {OWN[found[0]]}: {given[found[0]]!r} beside it")
    return {name: _list(values, f"{name} of vary") for name, values in given.items()}
