"""The run store: every pruning with its recipe, what was found and what was measured of it, in one folder.

A SQLite file tells what there is; a folder a run holds its tensors, edits only and never a second copy of a model. A
run is finished when its row says so, and its files are whole before that. Whoever works on a run holds its lock, so one
whose row says "running" and whose lock is free was interrupted. Knows of tensors, dicts and names, not what they mean.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from rcpu.base.errors import Cancelled, RcpuError
from rcpu.runs.locks import held
from rcpu.runs.measures import Measures
from rcpu.runs.parts import disk_bytes, drop_part, drop_temporary, parts, read_notes, read_part, write_part
from rcpu.runs.records import Run, plain_subject, read_run
from rcpu.runs.schema import connection, prepare

YOUNG = 60.0  # seconds that a folder without a row may be one that just begins
PATIENCE = 1.0  # seconds that a look at a lock by another process may take


def home_folder() -> Path:
    """``$RCPU_HOME``, else ``rcpu`` in the user's data folder."""
    if path := os.environ.get("RCPU_HOME"):
        return Path(path).expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "rcpu"


def open_store(folder: Path | None = None) -> Store:
    """The store in ``folder`` (default: :func:`home_folder`), made if there is none.

    Raises:
        RcpuError: it cannot be made or read, or was written by a newer version.
    """
    return Store(folder or home_folder())


class Store:
    """One folder of runs; any number of objects, threads and processes may use it at once."""

    def __init__(self, folder: Path):
        self.folder, self.file = folder, folder / "runs.sqlite"
        self.refusal = prepare(self.file)  # why it can only be read
        self.measures = Measures(self._reading, self._writing)
        if not self.refusal:
            (folder / "runs").mkdir(exist_ok=True)
            self._sweep()

    def folder_of(self, run_id: str) -> Path:
        """Where the tensors of a run are."""
        return self.folder / "runs" / run_id

    @contextlib.contextmanager
    def begin(
        self, *, name: str, recipe: dict, content: str, fingerprint: str, about: dict, run_id: str = ""
    ) -> Iterator[UnderWay]:
        """A new run, under way inside the block, whose end or what it raises says what becomes of it.

        A block that ends without :meth:`UnderWay.finish` has failed. What it wrote by then stays, to be resumed.

        Raises:
            RcpuError: the disk refuses.
        """
        self._must_write()
        run_id = run_id or new_id()
        folder = self.folder_of(run_id)
        try:
            folder.mkdir()
        except OSError as error:
            raise RcpuError(f"cannot keep a run in {folder}: {error.strerror}") from error
        with held(folder):
            try:
                with self._writing() as db:
                    db.execute(
                        "INSERT INTO runs (id, name, state, content, fingerprint, recipe, about, created) "
                        "VALUES (?, ?, 'running', ?, ?, ?, ?, ?)",
                        (run_id, name, content, fingerprint, json.dumps(recipe), json.dumps(about), time.time()),
                    )
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            yield from self._under_way(run_id)

    @contextlib.contextmanager
    def resume(self, run_id: str) -> Iterator[UnderWay]:
        """A run that did not come to its end, under way once more.

        Raises:
            RcpuError: there is no such run, it is finished, or another process works on it.
        """
        run = self.get(run_id)
        with held(self.folder_of(run_id), PATIENCE) as ours:
            if not ours:
                raise RcpuError(f"the run {run.name} is being worked on by another process: wait until it ends")
            with self._writing() as db:
                if self._run(db, run_id).state == "done":
                    raise RcpuError(f"the run {run.name} is finished: there is nothing to resume")
                db.execute("UPDATE runs SET state = 'running', error = '', ended = NULL WHERE id = ?", (run_id,))
            drop_temporary(self.folder_of(run_id))
            yield from self._under_way(run_id)

    def _under_way(self, run_id: str) -> Iterator[UnderWay]:
        under_way, state, error = UnderWay(self, run_id), "failed", "it ended early"
        try:
            yield under_way
        except (Cancelled, KeyboardInterrupt):
            state, error = "cancelled", ""
            raise
        except BaseException as problem:
            error = str(problem) or type(problem).__name__
            raise
        finally:
            if not under_way.finished:
                with contextlib.suppress(RcpuError):  # a full disk: then it reads as interrupted
                    self._end(run_id, state, error)

    def _end(self, run_id: str, state: str, error: str = "") -> None:
        with self._writing() as db:
            db.execute(
                "UPDATE runs SET state = ?, error = ?, ended = ? WHERE id = ? AND state = 'running'",
                (state, error[:2000], time.time(), run_id),
            )

    def runs(self) -> list[Run]:
        """All runs, newest first."""
        with self._reading() as db:
            found = list(map(read_run, db.execute("SELECT * FROM runs ORDER BY created DESC, id")))
        return [self._settled(run) for run in found]

    def get(self, run_id: str) -> Run:
        """The run with this id; raises ``RcpuError`` if there is none."""
        with self._reading() as db:
            run = self._run(db, run_id)
        return self._settled(run)

    def named(self, name: str) -> Run:
        """The run with this name or id.

        Raises:
            RcpuError: none has it, or several do.
        """
        found = [run for run in self.runs() if name in (run.id, run.name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise RcpuError(f"{len(found)} runs are called {name!r}: say which by id, {', '.join(r.id for r in found)}")
        raise RcpuError(f"no run is called {name!r}: `python -m rcpu runs` lists those there are")

    def find(self, content: str) -> Run | None:
        """The newest finished run with this digest of all that its result depends on."""
        with self._reading() as db:
            row = db.execute(
                "SELECT * FROM runs WHERE content = ? AND state = 'done' ORDER BY created DESC LIMIT 1", (content,)
            ).fetchone()
        return row and read_run(row)

    def change(
        self, run_id: str, *, name: str | None = None, note: str | None = None, tags: Iterable[str] | None = None
    ) -> None:
        """Give a run another name, note or tags; raises ``RcpuError`` if there is no such run."""
        new = {"name": name, "note": note, "tags": None if tags is None else json.dumps(list(dict.fromkeys(tags)))}
        with self._writing() as db:
            self._run(db, run_id)
            for column, value in new.items():
                if value is not None:
                    db.execute(f"UPDATE runs SET {column} = ? WHERE id = ?", (value, run_id))

    def delete(self, run_id: str) -> None:
        """Let go of a run, of its files and of what was measured of it.

        Raises:
            RcpuError: there is no such run, or it is under way.
        """
        run, folder = self.get(run_id), self.folder_of(run_id)
        with held(folder, PATIENCE) as ours:
            if not ours and folder.exists():
                raise RcpuError(f"the run {run.name} is under way: cancel it first")
            with self._writing() as db:
                db.execute("DELETE FROM runs WHERE id = ?", (run_id,))
                db.execute("DELETE FROM measures WHERE subject IN (?, ?)", (run_id, plain_subject(run_id)))
            shutil.rmtree(folder, ignore_errors=True)  # what a kill leaves of it has no row: the next start sweeps it

    def parts(self, run_id: str) -> list[str]:
        """The names of what a run has written, ascending."""
        return parts(self.folder_of(run_id))

    def read(self, run_id: str, part: str, want: Callable[[str], bool] = lambda _: True) -> dict[str, Tensor]:
        """The tensors of one part whose names are wanted; raises ``RcpuError`` if it is not there or broken."""
        return read_part(self.folder_of(run_id), part, want)

    def notes(self, run_id: str, part: str) -> Any:
        """The plain values that were written with a part; raises ``RcpuError`` if it is not there or broken."""
        return read_notes(self.folder_of(run_id), part)

    def add(self, run_id: str, part: str, tensors: Mapping[str, Tensor], notes: object = None) -> None:
        """Add a part to a finished run, e.g. what somebody asked of it; raises ``RcpuError`` if the disk refuses."""
        self._must_write()
        write_part(self.folder_of(run_id), part, tensors, notes)

    def bytes_of(self, run_id: str) -> int:
        """What the files of a run take on disk."""
        return disk_bytes(self.folder_of(run_id))

    def bytes(self) -> int:
        """What all of the store takes on disk."""
        return disk_bytes(self.folder)

    def _settled(self, run: Run) -> Run:
        """A run whose row says that it is running, and that nobody holds, was interrupted: its row says so from now."""
        if run.state != "running":
            return run
        folder = self.folder_of(run.id)
        with held(folder) as ours:
            if not ours and folder.exists():
                return run
            if not self.refusal:
                drop_temporary(folder)
                with contextlib.suppress(RcpuError):  # a full disk: it reads as interrupted all the same
                    self._end(run.id, "interrupted")
        with self._reading() as db:
            run = self._run(db, run.id)  # it may have come to its end just now
        return replace(run, state="interrupted") if run.state == "running" else run

    def _sweep(self) -> None:
        """Remove folders without a row: killed before they were a run, or while they were deleted."""
        with self._reading() as db:
            known = {row["id"] for row in db.execute("SELECT id FROM runs")}
        for folder in (self.folder / "runs").iterdir():
            with contextlib.suppress(OSError):
                if folder.name not in known and time.time() - folder.stat().st_mtime > YOUNG:
                    with held(folder) as ours:
                        if ours:
                            shutil.rmtree(folder, ignore_errors=True)

    def _must_write(self) -> None:
        if self.refusal:
            raise RcpuError(self.refusal)

    def _reading(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        return connection(self.file, read_only=bool(self.refusal))

    def _writing(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        self._must_write()
        return connection(self.file, write=True)

    def _run(self, db: sqlite3.Connection, run_id: str) -> Run:
        row = db.execute("SELECT * FROM runs WHERE id = ?", (run_id,)).fetchone()
        if row is None:
            raise RcpuError(f"there is no run {run_id!r} in {self.folder}: it may have been deleted")
        return read_run(row)


class UnderWay:
    """A run that is being made: it writes its tensors part by part, and is there for good once it is finished."""

    def __init__(self, store: Store, run_id: str):
        self.store, self.id, self.finished = store, run_id, False

    def write(self, part: str, tensors: Mapping[str, Tensor], notes: object = None) -> None:
        """Write a part with plain values that belong to it, whole or not at all.

        Raises:
            RcpuError: the disk refuses.
        """
        write_part(self.store.folder_of(self.id), part, tensors, notes)

    def drop(self, part: str) -> None:
        """Remove a part that is not needed any more."""
        drop_part(self.store.folder_of(self.id), part)

    def finish(self, about: dict) -> None:
        """All parts are written: from now on this run is done. ``about`` joins what the run began with."""
        with self.store._writing() as db:
            run = self.store._run(db, self.id)
            db.execute(
                "UPDATE runs SET state = 'done', error = '', about = ?, ended = ? WHERE id = ?",
                (json.dumps(run.about | about), time.time(), self.id),
            )
        self.finished = True


def new_id() -> str:
    """An id that nobody guesses: in a demo whoever knows it may look at the run."""
    return secrets.token_hex(8)
