"""Flags that make a recipe: its fields, and the options of every method, from what they say of themselves."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import rcpu
from rcpu.base.errors import RcpuError, choose
from rcpu.base.options import Option, options_of
from rcpu.cli.common import with_field

#: Fields of a recipe and how their flag is read; without the flag, the recipe's value stays.
FIELDS = {
    "text": (str, "calibration: embedded, a file of text or rows, wikitext2 or a hub id"),
    "samples": (int, "calibration windows"),
    "window": (int, "tokens a window"),
    "held_out": (int, "further windows, disjoint, to report errors on"),
    "seed": (int, "of the windows"),
    "ratio": (float, "share of units to remove"),
    "sites": (lambda text: tuple(dict.fromkeys(s.strip() for s in text.split(","))), "o_proj,down_proj or one of them"),
    "layers": (rcpu.parse_layers, "all, or numbers and ranges like 0-3,7"),
}


def field_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for every field."""
    defaults = rcpu.Recipe()
    for name, (_, about) in FIELDS.items():
        usual = {"sites": "both", "layers": "all"}.get(name, getattr(defaults, name))
        parser.add_argument(flag(name), default=None, metavar="VALUE", help=f"{about} (default: {usual})")


def option_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for every option of every method."""
    options = parser.add_argument_group("options of methods")
    for name, row in all_options().items():
        about = _help(name, row)
        if row.kind is bool:
            options.add_argument(flag(name), nargs="?", const="true", default=None, metavar="true|false", help=about)
        else:
            options.add_argument(flag(name), default=None, metavar="VALUE", help=about)


def _help(name: str, row: Option) -> str:
    """What a flag says of an option: its choices or bounds, its default, and what it is to methods that differ."""
    choices = f": {', '.join(row.choices)}" if row.choices else ""
    bounds = f", {row.low:g} to {row.high:g}" if None not in (row.low, row.high) and row.kind is not bool else ""
    about = f"{row.label}{choices}. {row.help} (default: {row.written(row.default)}{bounds})"
    for method, known in rcpu.METHODS.items():
        own = options_of(known.options).get(name)
        if own is not None and (own.label, own.default) != (row.label, row.default):
            about += f" {method}: {own.label} (default: {own.written(own.default)})"
    return about.replace("%", "%%")


def flag(name: str) -> str:
    """How a setting is written as a flag."""
    return f"--{name.replace('_', '-')}"


def all_options() -> dict[str, Option]:
    """Options of all methods by name; where two share a name, the first says what it is."""
    found = {}
    for method in rcpu.METHODS.values():
        found = options_of(method.options) | found
    return found


def recipe_of(options) -> rcpu.Recipe:
    """The recipe that flags ask for: that of ``--recipe`` or the usual one, and what flags say instead.

    Raises:
        RcpuError: a value that cannot be read, or an option that the method does not have.
    """
    base = rcpu.load_recipe(options.recipe) if options.recipe else rcpu.Recipe()
    changes: dict = {"method": options.method or base.method}
    if options.model is not None:
        changes["model"] = options.model
    for name, (read, _) in FIELDS.items():
        if (text := getattr(options, name)) is not None:
            try:
                changes[name] = read(text)
            except RcpuError:
                raise
            except ValueError as error:
                kind = "a whole number" if read is int else "a number"
                raise RcpuError(f"{flag(name)} must be {kind}, got {text!r}") from error
    if options.layer_ratios is not None:
        changes["ratios"] = rcpu.parse_ratios(options.layer_ratios)
    own = options_of(choose("method", changes["method"], rcpu.METHODS).options)
    for name in all_options():
        if (text := getattr(options, name)) is None:
            continue
        if name not in own:
            raise RcpuError(
                f"method {changes['method']!r} has no option {flag(name)}: it has {', '.join(own) or 'none'}"
            )
        changes[name] = own[name].parse(text)
    config = replace(base, **changes)
    return replace(config, text=with_field(config.text, options.text_field))


def idle(options, config: rcpu.Recipe) -> Iterator[str]:
    """A sentence for every flag that was given and changes nothing beside the others."""
    for name, row in options_of(rcpu.METHODS[config.method].options).items():
        if getattr(options, name) is not None and not row.matters(config.options):
            other, values = row.when
            told = f"{flag(other)} {' or '.join(values)}, and that is {getattr(config, other)} here"
            yield f"{flag(name)} changes nothing: it belongs to {told}"
