"""A grid of models × recipes × seeds with what is measured of each: every cell a run of the store, on any engine.

A cell is plain values, so that it travels to another process or machine; what the store has already is not done again.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from rcpu.base.errors import RcpuError
from rcpu.models.loading import footprint, load_model
from rcpu.pruning.library import load_recipe
from rcpu.pruning.recipe import Recipe
from rcpu.runs.asks import Bench, ask_dict, ask_of
from rcpu.runs.running import run_recipe
from rcpu.runs.store import home_folder, open_store
from rcpu.runs.studies import Asked, Study

KEYS = ("models", "recipes", "vary", "seeds", "measures", "device", "dtype")
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
    error: str = ""


def read_grid(path: Path, home: Path | None = None) -> list[Cell]:
    """The cells of a YAML file::

        models: [embedded]
        recipes: [rcpu-paper, {scorer: flap, compensation: bias}]
        vary: {ratio: [0.1, 0.2]}
        seeds: [0, 1]
        measures: [{kind: perplexity, text: embedded, limit: 40}]

    Raises:
        RcpuError: it cannot be read, has an unknown key, or names a recipe, a setting or a measure that there is not.
    """
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RcpuError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise RcpuError(f"{path} is not YAML in UTF-8: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(said, dict) or (unknown := sorted(set(said) - set(KEYS))):
        what = f"has no key {unknown[0]!r}" if isinstance(said, dict) else "is no grid"
        raise RcpuError(f"{path} {what}: a grid has {', '.join(KEYS)}")
    vary = _mapping(said.get("vary") or {}, path)
    recipes = [_recipe(given, path) for given in _list(said.get("recipes", ["rcpu-paper"]), "recipes", path)]
    asks = tuple(ask_dict(ask_of(given)) for given in _list(said.get("measures", []), "measures", path))
    axes = [_list(said.get("models", ["embedded"]), "models", path), recipes]
    axes += [_list(values, name, path) for name, values in vary.items()]
    axes += [_list(said.get("seeds", [0]), "seeds", path)]
    cells: dict[tuple, Cell] = {}
    for model, recipe, *values, seed in itertools.product(*axes):
        made = replace(recipe, model=model, seed=seed, **dict(zip(vary, values, strict=True)))
        told = ", ".join([model, made.method, *(f"{k} {v}" for k, v in zip(vary, values, strict=True)), f"seed {seed}"])
        where = {"device": said.get("device", "auto"), "dtype": said.get("dtype", "auto")}
        cell = Cell(told, model, made.to_dict(), asks, **where, home=str(home or home_folder()))
        cells.setdefault((model, made.digest), cell)
    return list(cells.values())


def study_cells(study: Study, asked: Asked, home: Path, **where: Any) -> list[Cell]:
    """The cells of a study, for an engine; ``run_study`` then finds them in the store."""
    asks = tuple(ask_dict(ask) for ask in study.asks(asked).values())
    found = []
    for cell in study.cells(asked):
        label = " · ".join([study.name, *cell.labels[0].values()])
        found.append(Cell(label, asked.model, cell.recipe.to_dict(), asks, home=str(home), label=label, **where))
    return found


def run_cell(cell: Mapping[str, Any]) -> dict:
    """Do one cell in this process and return plain values; what goes wrong with its input is an answer, too."""
    c = Cell(**cell)
    try:
        bench, recipe = _bench(c.model, c.device, c.dtype, c.measure_in), Recipe.from_dict(c.recipe)
        asks, store = [ask_of(ask) for ask in c.measures], open_store(Path(c.home))
        done = run_recipe(bench, recipe, asks, store, name=c.label, keep_weights=c.keep_weights)
    except RcpuError as error:
        return asdict(Done(c.name, error=str(error)))
    return asdict(Done(c.name, done.run.id, not done.pruned, done.answers))


_benches: dict[tuple[str, ...], Bench] = {}


def _bench(model: str, device: str, dtype: str, measure_in: str) -> Bench:
    """One model at a time in a process: cells of one model follow one another."""
    key = (model, device, dtype, measure_in)
    if key not in _benches:
        _benches.clear()
        _benches[key] = Bench(load_model(model, device, dtype), measure_in)
    return _benches[key]


def _recipe(given: Any, path: Path) -> Recipe:
    if isinstance(given, str):
        return load_recipe(given)
    if not isinstance(given, dict):
        raise RcpuError(f"{path}: a recipe is a name, a file or settings, got {given!r}")
    return Recipe.from_dict(given)


def _list(given: Any, name: str, path: Path) -> list:
    if not isinstance(given, list) or (not given and name != "measures"):
        raise RcpuError(f"{path}: {name} must be a list with at least one entry, got {given!r}")
    return given


def _mapping(given: Any, path: Path) -> dict[str, list]:
    if not isinstance(given, dict):
        raise RcpuError(f"{path}: vary must map settings to lists of values, got {given!r}")
    return given
