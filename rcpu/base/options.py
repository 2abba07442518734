"""Options of methods as data: a dataclass field with a label, bounds and one sentence.

Page controls, command-line flags, help and the checks of a recipe are made from these rows, so that a method with a new
option needs no line elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

from rcpu.base.errors import RcpuError, choose

AUTO = "auto"  # how None is written where an option may be chosen by the method itself


@dataclass(frozen=True)
class Option:
    """One option of a method, as its dataclass declares it."""

    name: str
    default: Any
    label: str
    help: str  # one sentence, without what the label says
    low: float | None = None
    high: float | None = None
    choices: Mapping[str, Any] | None = None  # keys to choose from, each with a label or what has one
    auto: bool = False  # None is allowed, written "auto"
    when: tuple[str, tuple[str, ...]] | None = None  # (other option, its values) where this one matters

    @property
    def kind(self) -> type:
        """bool, int, float or str."""
        return float if self.default is None else type(self.default)

    def check(self, value: Any) -> Any:
        """The value as the option has it: None for auto, whole numbers as floats; raises ``RcpuError``."""
        if self.auto and (value is None or value == AUTO):
            return None
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, self.kind) or isinstance(value, bool) != (self.kind is bool):
            raise RcpuError(f"{self.name} cannot be {value!r}; without it, it is {self.written(self.default)}")
        if self.choices is not None:
            choose(self.name, value, self.choices)
        if self.kind in (int, float):
            self._check_number(value)
        return value

    def _check_number(self, value: float) -> None:
        low, high = (-math.inf if self.low is None else self.low), (math.inf if self.high is None else self.high)
        if not (low <= value <= high and math.isfinite(value)):
            bounds = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
            auto = ", or auto" if self.auto else ""
            raise RcpuError(f"{self.name} must be a finite number {bounds}{auto}; got {value:g}")

    def parse(self, text: str) -> Any:
        """The value that a person wrote; raises ``RcpuError``."""
        text = text.strip()
        if self.auto and text == AUTO:
            return None
        if self.kind is bool:
            words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False}
            words["off"] = False
            if text.lower() not in words:
                raise RcpuError(f"{self.name} must be true or false, got {text!r}")
            return words[text.lower()]
        try:
            value = self.kind(text)
        except ValueError as error:
            kind = "a whole number" if self.kind is int else "a number"
            raise RcpuError(f"{self.name} must be {kind}{' or auto' if self.auto else ''}, got {text!r}") from error
        return self.check(value)

    def written(self, value: Any) -> str:
        """The text that :meth:`parse` reads back."""
        if value is None:
            return AUTO
        return str(value).lower() if isinstance(value, bool) else str(value)

    def matters(self, options: Any) -> bool:
        """Whether this option changes anything beside the others."""
        return self.when is None or getattr(options, self.when[0]) in self.when[1]


def option(default: Any, label: str, help: str, **more: Any) -> Any:
    """A dataclass field that is an option; ``more`` are fields of :class:`Option`."""
    return field(default=default, metadata={"option": {"label": label, "help": help, **more}})


def options_of(kind: type) -> dict[str, Option]:
    """The options that a dataclass declares, by name."""
    return {f.name: Option(f.name, f.default, **f.metadata["option"]) for f in fields(kind) if "option" in f.metadata}


def check_options(options: Any) -> None:
    """Raise ``RcpuError`` for a value that its option cannot have; call it in ``__post_init__``."""
    for name, row in options_of(type(options)).items():
        object.__setattr__(options, name, row.check(getattr(options, name)))


@dataclass(frozen=True)
class Part:
    """A way to do one step of a method: its function, what people call it, and options of its own."""

    function: Callable
    label: str
    options: type | None = None  # a dataclass of options
    source: str = ""  # the paper or the project

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def joined(name: str, module: str, own: type, parts: Mapping[str, Mapping[str, Part]]) -> type:
    """A frozen dataclass with the options of ``own`` and those of every part that can be chosen.

    ``parts``: by the name of the option in ``own`` that chooses among them. Several parts share an option where their
    dataclasses inherit it from one.
    """
    rows = [(f.name, f.type, f) for f in fields(own)]
    found: dict[str, tuple[Any, str, list[str]]] = {}
    for chooser, known in parts.items():
        for key, part in known.items():
            for f in fields(part.options) if part.options is not None else ():
                found.setdefault(f.name, (f, chooser, []))[2].append(key)
    for f, chooser, keys in found.values():
        about = {"when": (chooser, tuple(keys)), **f.metadata["option"]}
        rows.append((f.name, f.type, field(default=f.default, metadata={"option": about})))
    copies = [(n, t, field(default=f.default, metadata=f.metadata)) for n, t, f in rows]
    made = make_dataclass(name, copies, frozen=True, bases=(own,), namespace={"__doc__": own.__doc__})
    made.__module__ = module
    return made


def named(known: Mapping[str, Any]) -> dict[str, str]:
    """What each key of a registry is called: a text, or the label of what stands there."""
    return {key: value if isinstance(value, str) else value.label for key, value in known.items()}
