"""What the run store tells: a run, a measure of it, and what both are keyed by."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from dataclasses import dataclass

STATES = ("running", "done", "failed", "cancelled", "interrupted")


@dataclass(frozen=True)
class Run:
    """One run; ``about`` holds whatever plain values its maker gave."""

    id: str
    name: str
    state: str  # one of STATES
    content: str  # digest of all that the result depends on
    fingerprint: str  # of the dense model
    recipe: dict
    about: dict
    error: str
    note: str
    tags: tuple[str, ...]
    created: float  # seconds since 1970
    ended: float | None


@dataclass(frozen=True)
class Measure:
    """What was asked of a subject, see :func:`plain_subject`, and what came out."""

    subject: str
    kind: str
    key: str  # digest of what was asked
    asked: dict
    value: dict
    created: float


def plain_subject(run_id: str) -> str:
    """The same units removed as in this run and nothing repaired, as the subject of a measure."""
    return f"{run_id}:plain"


def dense_subject(fingerprint: str, dtype: str) -> str:
    """A dense model as the subject of a measure."""
    return f"dense:{fingerprint}:{dtype}"


def digest_of(content: object) -> str:
    """Sixteen hex digits of plain values, the same whatever the order of keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_run(row: sqlite3.Row) -> Run:
    """The run of a row."""
    values = dict(row)
    for name in ("recipe", "about", "tags"):
        values[name] = json.loads(values[name])
    return Run(**{**values, "tags": tuple(values["tags"])})


def read_measure(row: sqlite3.Row) -> Measure:
    """The measure of a row, without its tensors."""
    values = dict(row)
    for name in ("asked", "value"):
        values[name] = json.loads(values[name])
    return Measure(**values)
