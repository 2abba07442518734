"""The run store's SQLite file: its tables, how an older file becomes a newer one, and connections that wait in turn.

Many processes write at once: every write is one short transaction in WAL mode, so readers never wait for it, and one
that is killed leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from rcpu.base.errors import RcpuError

ELSEWHERE = "set RCPU_HOME to a folder that can be written"
UNWRITABLE = "can be read, but not written"
PATIENCE = 30.0  # seconds that a write waits for those of other processes
#: Statements that bring a file from version i to i + 1. Only ever add to the end: there are files of every version.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE runs (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            state TEXT NOT NULL,
            content TEXT NOT NULL,  -- digest of all that the result depends on
            fingerprint TEXT NOT NULL,
            recipe TEXT NOT NULL,  -- JSON
            about TEXT NOT NULL,  -- JSON: model, device, versions, sizes, summaries of sites
            error TEXT NOT NULL DEFAULT '',
            note TEXT NOT NULL DEFAULT '',
            tags TEXT NOT NULL DEFAULT '[]',  -- JSON
            created REAL NOT NULL,
            ended REAL
        )""",
        "CREATE INDEX runs_by_content ON runs (content)",
        """CREATE TABLE measures (
            subject TEXT NOT NULL,  -- a run, a run with :plain, or dense: with fingerprint and precision
            kind TEXT NOT NULL,
            key TEXT NOT NULL,  -- digest of what was asked
            asked TEXT NOT NULL,  -- JSON
            value TEXT NOT NULL,  -- JSON
            tensors BLOB,  -- safetensors
            created REAL NOT NULL,
            PRIMARY KEY (subject, kind, key)
        )""",
    ),
)


def prepare(path: Path) -> str:
    """Create the file or bring it to this version; returns why it can only be read, or an empty string.

    Raises:
        RcpuError: it cannot be read or made, is no store, or was written by a newer version.
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return _prepared(path)
        except sqlite3.OperationalError as error:  # to become a WAL file takes it alone, and SQLite does not wait
            if error.sqlite_errorcode not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or time.monotonic() > end:
                raise RcpuError(f"cannot open the run store {path}: {error}; {ELSEWHERE}") from error
            time.sleep(0.02)
        except sqlite3.DatabaseError as error:
            raise RcpuError(f"{path} is not a run store ({error}): move it away, or {ELSEWHERE}") from error


def _prepared(path: Path) -> str:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.closing(_connect(path)) as db:
            version, refusal = _migrated(db), ""
        if not all(os.access(place, os.W_OK) for place in (path, path.parent)):
            refusal = UNWRITABLE
    except OSError as error:
        raise RcpuError(f"cannot make the run store {path}: {error.strerror}; {ELSEWHERE}") from error
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            raise
        if not path.exists():
            raise RcpuError(f"cannot make the run store {path}: {error}; {ELSEWHERE}") from error
        with connection(path, read_only=True) as db:
            version, refusal = db.execute("PRAGMA user_version").fetchone()[0], UNWRITABLE
    known = len(MIGRATIONS)
    if version > known:
        raise RcpuError(
            f"the run store {path.parent} was written by a newer version (its schema is {version}, this version knows "
            f"{known}): update RCPU Explorer, or set RCPU_HOME to another folder"
        )
    if version < known:
        raise RcpuError(f"the run store {path.parent} is of an older version and cannot be written: {ELSEWHERE}")
    return refusal and f"the run store {path.parent} {refusal}: {ELSEWHERE}"


def _migrated(db: sqlite3.Connection) -> int:
    """Bring a file to this version, all the way or not at all; returns the version it then has."""
    if db.execute("PRAGMA user_version").fetchone()[0] < len(MIGRATIONS):
        db.execute("PRAGMA journal_mode = WAL")
    db.execute("BEGIN IMMEDIATE")
    version = db.execute("PRAGMA user_version").fetchone()[0]  # another process may have been faster
    for statement in (s for statements in MIGRATIONS[version:] for s in statements):
        db.execute(statement)
    if version < len(MIGRATIONS):
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    db.execute("COMMIT")
    return max(version, len(MIGRATIONS))


def _connect(path: Path, options: str = "mode=rwc") -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True, timeout=PATIENCE, isolation_level=None)
    db.row_factory = sqlite3.Row
    return db


@contextlib.contextmanager
def connection(path: Path, *, write: bool = False, read_only: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection for one look or, with ``write``, one transaction: all of it or nothing.

    Raises:
        RcpuError: the file or its disk refuses; nothing was changed.
    """
    try:
        with contextlib.closing(_read_only(path) if read_only else _connect(path, "mode=rw")) as db:
            if write:
                db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                if write:
                    db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
    except sqlite3.Error as error:
        what = "write to" if write else "read"
        raise RcpuError(f"cannot {what} the run store {path.parent}: {error}; nothing was changed") from error


def _read_only(path: Path) -> sqlite3.Connection:
    """On a disk that takes no lock files the last resort is to look at the file as one that nobody changes."""
    for options in ("mode=ro", "mode=ro&immutable=1"):
        db = _connect(path, options)
        try:
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            db.close()
            continue
        return db
    return _connect(path, "mode=ro")
