"""A recipe: what a pruning run is asked to do. It hashes, compares, and turns into YAML that people pass around."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

import yaml

from rcpu.base.errors import RcpuError, check_seed, choose, meant
from rcpu.base.options import options_of
from rcpu.methods.catalog import METHODS
from rcpu.models.families import SITES
from rcpu.pruning.lists import format_ratios

LIKE = {"layers": "[0, 1, 7]", "ratios": "[[0, 0.1], [7, 0.3]]", "sites": f"[{', '.join(SITES)}]"}  # lists, in YAML


@dataclass(frozen=True, init=False)
class Recipe:
    """Settings of one run; the same object is the cache key, the run's record and what people share.

    Options of the method can be given by name beside the fields, and read as if they were fields:
    ``Recipe(ratio=0.3, scorer="flap").scorer``; ``dataclasses.replace`` takes both, too.

    Raises:
        RcpuError: on construction, if a value is out of range, or a method or an option is unknown.
    """

    method: str = "columns"
    model: str = "embedded"
    text: str = "embedded"
    samples: int = 128  # calibration windows
    window: int = 128  # tokens a window
    held_out: int = 16  # further windows, disjoint from those, on which errors are reported and λ is chosen
    seed: int = 0
    ratio: float = 0.2  # of what a unit is to the method: floor(ratio · units) columns leave every stratum
    ratios: tuple[tuple[int, float], ...] = ()  # (layer, ratio) where a layer has its own
    sites: tuple[str, ...] = SITES
    layers: tuple[int, ...] | None = None  # None: all
    options: Any = None  # of the method: a frozen dataclass of scalars

    def __init__(self, method: str = "columns", **values: Any) -> None:
        own = {f.name: f.default for f in fields(self)} | {"method": method}
        own |= {name: values.pop(name) for name in list(values) if name in own}
        kind = choose("method", method, METHODS).options
        options, known = own["options"], options_of(kind)
        if options is not None and not isinstance(options, kind):  # another method was chosen since
            options = None
        given = {name: getattr(options, name) for name in known} if options is not None else {}
        if unknown := [name for name in values if name not in known]:
            raise RcpuError(
                f"method {method!r} has no option {unknown[0]!r}: it has {', '.join(known)}, beside "
                f"{', '.join(name for name in own if name != 'options')}"
            )
        own["options"] = kind(**given | values)
        for name, value in own.items():
            object.__setattr__(self, name, value)
        self._check()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "options" not in self.__dict__:
            raise AttributeError(name)
        try:
            return getattr(self.__dict__["options"], name)
        except AttributeError:
            raise AttributeError(f"a recipe of method {self.method!r} has no {name!r}") from None

    def _check(self) -> None:
        for ratio in (self.ratio, *(r for _, r in self.ratios)):
            if not 0 <= ratio < 1:
                raise RcpuError(f"ratio must be at least 0 and below 1 (0.2 removes a fifth), got {ratio:g}")
        if any(layer < 0 for layer, _ in self.ratios) or len(dict(self.ratios)) < len(self.ratios):
            raise RcpuError(f"ratios must name each layer once, from 0; got {format_ratios(self.ratios)}")
        if self.samples < 1 or self.window < 2 or self.held_out < 0:
            raise RcpuError(
                f"need at least 1 window of at least 2 tokens and no negative number of held-out windows, got "
                f"{self.samples} × {self.window} and {self.held_out}"
            )
        check_seed(self.seed)
        if not self.sites:
            raise RcpuError(f"no site to prune: choose one or more of {', '.join(SITES)}")
        for site in self.sites:
            choose("site", site, dict.fromkeys(SITES))
        if len(set(self.sites)) < len(self.sites):
            raise RcpuError(f"sites must name each site once; got {', '.join(self.sites)}")
        if self.layers is not None and (not self.layers or min(self.layers) < 0):
            raise RcpuError(f"layers must be one or more numbers from 0, or all; got {self.layers}")
        METHODS[self.method].check(self)

    def layer_indices(self, count: int) -> tuple[int, ...]:
        """The chosen layers of a model with ``count``, ascending; raises ``RcpuError`` beyond the last."""
        if self.ratios and (last := max(layer for layer, _ in self.ratios)) >= count:
            raise RcpuError(f"layer {last} has a ratio but does not exist: this model has layers 0 to {count - 1}")
        if self.layers is None:
            return tuple(range(count))
        if max(self.layers) >= count:
            raise RcpuError(f"layer {max(self.layers)} does not exist: this model has layers 0 to {count - 1}")
        return tuple(sorted(set(self.layers)))

    def ratio_of(self, layer: int) -> float:
        """The ratio of one layer: its own, or that of all."""
        return dict(self.ratios).get(layer, self.ratio)

    def layers_by_ratio(self, layers: tuple[int, ...]) -> dict[float, list[int]]:
        """Which of these layers have which ratio."""
        found: dict[float, list[int]] = {}
        for layer in layers:
            found.setdefault(self.ratio_of(layer), []).append(layer)
        return found

    @property
    def whole(self) -> bool:
        """Whether its method is more than a choice of columns, and works on the whole model."""
        return METHODS[self.method].run is not None

    @property
    def digest(self) -> str:
        """Sixteen hex digits of everything that was set."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict:
        """Plain values for JSON; :meth:`from_dict` takes them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> Recipe:
        """The recipe of a record; options stand under ``options`` or beside the other settings.

        Raises:
            RcpuError: a key that is not one of its fields or options, or a value that one cannot have.
        """
        known = {f.name: f.default for f in fields(cls)}
        options = values.get("options") or {}
        if not isinstance(options, dict):
            raise RcpuError(f"the recipe's options must be names with values, got {options!r}")
        flat = {k: v for k, v in values.items() if k != "options"} | options
        method = flat.get("method", known["method"])
        if not isinstance(method, str):
            raise RcpuError(f"the recipe's method cannot be {method!r}; without it, it is {known['method']!r}")
        rows = options_of(choose("method", method, METHODS).options)
        if unknown := set(flat) - set(known) - set(rows):
            names = sorted(map(str, unknown))
            raise RcpuError(
                f"unknown settings in the recipe: {', '.join(names)}; known are {', '.join([*known, *rows])}"
                f"{meant(names[0], [*known, *rows])}"
            )
        given = {k: _tuples(v) for k, v in flat.items()}
        for name, value in given.items():
            if name in rows:
                try:
                    rows[name].check(value)
                except (RcpuError, TypeError) as error:
                    raise RcpuError(f"the recipe's {error}") from error
            elif not _fits(name, value, known[name]):
                number = isinstance(known[name], int | float) and isinstance(value, str)
                like = f"write it like {LIKE[name]}; " if name in LIKE else "a number has no quotes; " * number
                told = f"the recipe's {name} cannot be {flat[name]!r}; {like}without it, it is {known[name]!r}"
                raise RcpuError(told)
        return cls(**given)

    def to_yaml(self) -> str:
        """The recipe as people read and edit it; :meth:`from_yaml` takes it back."""
        return yaml.safe_dump(_lists(self.to_dict()), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, text: str) -> Recipe:
        """The recipe of a YAML text; ``about`` and ``source`` may say where it comes from.

        Raises:
            RcpuError: no YAML, no mapping, or as :meth:`from_dict`.
        """
        return cls.from_dict({k: v for k, v in read_yaml(text).items() if k not in ("about", "source")})


def plain_yaml(text: str) -> object:
    """What is written in YAML; raises ``YAMLError`` where it cannot be read, and where a value contains itself."""
    values = yaml.safe_load(text)
    try:
        json.dumps(values, default=str, skipkeys=True)
    except (ValueError, RecursionError) as error:
        raise yaml.YAMLError("a value contains itself, or is too deep") from error
    return values


def read_yaml(text: str) -> dict:
    """A mapping written in YAML; raises ``RcpuError`` with the place where it cannot be read."""
    try:
        values = plain_yaml(text)
    except yaml.YAMLError as error:
        raise RcpuError(f"a recipe is YAML, and this cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"{'a list' if isinstance(values, list) else 'the value'} {values!r}"
        raise RcpuError(f"expected settings with a value each, like 'ratio: 0.2', a line each; got {found:.80}")
    return values


def _fits(name: str, value: Any, default: Any) -> bool:
    if name == "layers" and value is None:
        return True
    if name in LIKE and not isinstance(value, tuple):
        return False
    if name == "layers":
        return all(_fits("layer", layer, 0) for layer in value)
    if name == "ratios":
        pairs = all(isinstance(pair, tuple) and len(pair) == 2 for pair in value)
        return pairs and all(_fits("layer", layer, 0) and _fits("ratio", ratio, 0.0) for layer, ratio in value)
    if name == "sites":
        return all(isinstance(site, str) for site in value)
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, type(default)) and isinstance(value, bool) == isinstance(default, bool)


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _lists(value: object) -> object:
    if isinstance(value, dict):
        return {k: _lists(v) for k, v in value.items()}
    return [_lists(v) for v in value] if isinstance(value, list | tuple) else value
