"""What the published numbers of a study say of its claims: no intervals, for none were printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rcpu.runs.readings import QUANTITIES
from rcpu.runs.studies import RATIO, Claim, Labels, Study, percent


def in_print(study: Study, claim: Claim) -> str:
    """Model by model where the claim holds in print, and where it does not; empty where nothing was printed."""
    found = []
    rows = [r for r in study.published if r.get("quantity", study.quantities[0]) == claim.quantity]
    for name in dict.fromkeys(row["model"] for row in rows):
        known = dict(pair for row in rows if row["model"] == name for pair in _values(study, row))
        if settings := _settings(study, claim, known):
            read_off = " (read off a plot)" * any(row.get("read_off", False) for row in rows if row["model"] == name)
            found.append(f"{name}{read_off}: {_told(settings)}")
    return "; ".join(found)


def _values(study: Study, row: Mapping[str, Any]) -> Iterator[tuple[tuple, float]]:
    """Numbers of one row by their labels."""
    line, x = study.figure["line"], study.figure["x"]
    for label, value in row.get("level", {}).items():
        yield _key({**row.get("at", {}), line: label}), value
    for label, values in row.get("rows", {}).items():
        for at, value in values.items():
            yield _key({**row.get("at", {}), line: label, x: percent(float(at)) if x == RATIO else str(at)}), value


def _key(labels: Labels) -> tuple:
    return tuple(sorted(labels.items()))


def _settings(study: Study, claim: Claim, known: Mapping[tuple, float]) -> dict[str, bool]:
    """Whether the claim holds, by where."""
    found = {}
    for key, value in known.items():
        labels = dict(key)
        if any(labels.get(axis) != label for axis, label in claim.first.items() if axis != claim.some):
            continue
        other = known.get(_key({**labels, **claim.than}))
        if other is None:
            continue
        rest = {k: v for k, v in labels.items() if k not in claim.first and k not in claim.than}
        where = ", ".join(f"{v} {study.axes[k].label.lower()}" if v.isdigit() else v for k, v in rest.items())
        gap = value - other if QUANTITIES[claim.quantity].unit == "points" else 100 * (value / other - 1)
        if claim.relation == "same":
            found[where] = abs(gap) <= claim.margin
        else:
            found[where] = (gap if claim.relation == "higher" else -gap) > claim.margin
    return found


def _told(settings: Mapping[str, bool]) -> str:
    but = [where for where, holds in settings.items() if not holds]
    if not but:
        return "holds"
    return "does not hold" if len(but) == len(settings) else f"holds, but not at {'; '.join(but)}"
