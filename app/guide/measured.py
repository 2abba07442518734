"""What ``make compare`` measured of every recipe at equal parameters, where somebody ran it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COMPARE = Path(__file__).parents[2] / "assets" / "compare.json"


@dataclass(frozen=True)
class Level:
    """One recipe with so much less in the decoder layers."""

    less: float
    parameters: int
    decoder: float  # ÷ the dense model's
    perplexity: float
    interval: tuple[float, float]  # 95 %
    tokens_per_second: float  # ÷ the dense model's
    forwards: float  # seconds of the prune ÷ those of a bare forward
    peak: float  # bytes above the model


@dataclass(frozen=True)
class Measured:
    """All levels by recipe, ascending, and the dense model; ``of``: windows and texts."""

    of: str
    dense: tuple[int, float] | None  # parameters and perplexity
    recipes: Mapping[str, Sequence[Level]]


def read_measured() -> Measured | None:
    """The rows of the file; None where there is none, or none that can be read."""
    try:
        rows = json.loads(COMPARE.read_text(encoding="utf-8"))
        dense = next((r for r in rows if r["recipe"] == "dense"), None)
        found: dict[str, list[Level]] = {}
        for r in sorted((r for r in rows if r["recipe"] != "dense"), key=lambda r: r["less"]):
            values = [r[key] for key in ("less", "parameters", "decoder", "perplexity")]
            ends, peak = tuple(r["interval"]), r["peak_mib"] * 2**20
            level = Level(*values, ends, r["tokens_per_second"], r["forwards"], peak)
            found.setdefault(r["recipe"], []).append(level)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    known = dense and (dense["parameters"], dense["perplexity"])
    return Measured(dense.get("of", "") if dense else "", known, found) if found else None
