"""What was measured of runs and of dense models: perplexities, task results, texts, views of tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from sqlite3 import Connection

from safetensors.torch import load, save
from torch import Tensor

from rcpu.base.errors import RcpuError
from rcpu.runs.records import Measure, digest_of, read_measure

_SELECT = "SELECT subject, kind, key, asked, value, created FROM measures"
_THIS = "WHERE subject = ? AND kind = ? AND key = ?"


class Measures:
    """The measures of a store, each under its subject, its kind and what was asked.

    What was asked is all that the answer depends on beside the subject: digests of content, never names alone.
    """

    def __init__(
        self, reading: Callable[[], AbstractContextManager[Connection]], writing: Callable[[], AbstractContextManager]
    ):
        self._reading, self._writing = reading, writing

    def put(
        self, subject: str, kind: str, asked: dict, value: dict, tensors: Mapping[str, Tensor] | None = None
    ) -> str:
        """Keep an answer, in the place of an earlier one to the same; returns its key.

        Raises:
            RcpuError: the subject is a run that is not there, or the disk refuses.
        """
        key = digest_of(asked)
        blob = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}) if tensors else None
        with self._writing() as db:
            run_id = subject.partition(":")[0]
            if run_id != "dense" and not db.execute("SELECT 1 FROM runs WHERE id = ?", (run_id,)).fetchone():
                raise RcpuError(f"the run {run_id!r} is not in the store: what was measured of it is not kept")
            db.execute(
                "INSERT OR REPLACE INTO measures VALUES (?, ?, ?, ?, ?, ?, ?)",
                (subject, kind, key, json.dumps(asked), json.dumps(value), blob, time.time()),
            )
        return key

    def get(self, subject: str, kind: str, asked: dict) -> Measure | None:
        """The answer to exactly this, or None."""
        with self._reading() as db:
            row = db.execute(f"{_SELECT} {_THIS}", (subject, kind, digest_of(asked))).fetchone()
        return row and read_measure(row)

    def all(self, subject: str | None = None, kind: str | None = None) -> list[Measure]:
        """What was measured of a subject, or of all, oldest first."""
        where = "WHERE (?1 IS NULL OR subject = ?1) AND (?2 IS NULL OR kind = ?2) ORDER BY created"
        with self._reading() as db:
            return list(map(read_measure, db.execute(f"{_SELECT} {where}", (subject, kind))))

    def tensors(self, measure: Measure) -> dict[str, Tensor]:
        """The tensors that were kept with a measure, if any."""
        with self._reading() as db:
            row = db.execute(f"SELECT tensors FROM measures {_THIS}", _key(measure)).fetchone()
        return load(row["tensors"]) if row and row["tensors"] else {}

    def drop(self, measure: Measure) -> None:
        """Let go of one measure."""
        with self._writing() as db:
            db.execute(f"DELETE FROM measures {_THIS}", _key(measure))


def _key(measure: Measure) -> tuple[str, str, str]:
    return measure.subject, measure.kind, measure.key
