"""Lists of layers and of ratios as people write them, and back."""

from __future__ import annotations

import re

from rcpu.base.errors import RcpuError

LONGEST = 1000  # characters of a list of layers: it may come from a link


def parse_layers(text: str) -> tuple[int, ...] | None:
    """``all``, or numbers and ranges with both ends included: ``0-3,7`` is (0, 1, 2, 3, 7)."""
    if text.strip() == "all":
        return None
    if len(text) > LONGEST:
        raise RcpuError(f"the list of layers has {len(text):,} characters, more than {LONGEST:,}: write ranges")
    layers: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part.strip())
        if not found:
            raise RcpuError(f"layers must be 'all' or like '0-3,7', got {text!r}")
        layers += range(int(found[1]), int(found[2] or found[1]) + 1)
    if not layers:
        raise RcpuError(f"layers {text!r} name none: the first number of a range is the smaller one")
    return tuple(sorted(set(layers)))


def format_layers(layers: tuple[int, ...] | None) -> str:
    """The shortest text that :func:`parse_layers` reads back: (0, 1, 2, 3, 7) is ``0-3,7``."""
    if layers is None:
        return "all"
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ",".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


def parse_ratios(text: str) -> tuple[tuple[int, float], ...]:
    """Ratios of single layers: ``0-3=0.1,29=0`` is ((0, 0.1), (1, 0.1), (2, 0.1), (3, 0.1), (29, 0.0))."""
    found: dict[int, float] = {}
    if len(text) > LONGEST:
        raise RcpuError(f"the list of ratios has {len(text):,} characters, more than {LONGEST:,}: write ranges")
    for part in filter(None, (p.strip() for p in text.split(","))):
        layers, equals, ratio = part.partition("=")
        try:
            value = float(ratio)
        except ValueError:
            equals = ""
        if not equals or layers.strip() == "all":
            raise RcpuError(f"ratios of single layers must be like '0-3=0.1,29=0', got {part!r}")
        found |= dict.fromkeys(parse_layers(layers) or (), value)
    return tuple(sorted(found.items()))


def format_ratios(ratios: tuple[tuple[int, float], ...]) -> str:
    """The shortest text that :func:`parse_ratios` reads back."""
    by_ratio: dict[float, list[int]] = {}
    for layer, ratio in ratios:
        by_ratio.setdefault(ratio, []).append(layer)
    parts = [f"{run}={ratio:g}" for ratio, ls in by_ratio.items() for run in format_layers(tuple(ls)).split(",")]
    return ",".join(sorted(parts, key=lambda p: int(p.split("=")[0].split("-")[0])))
