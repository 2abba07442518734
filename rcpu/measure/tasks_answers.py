"""What a net answered before, on disk, one file a net: told by its weights, so that before and after never mix."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from rcpu.models.embedded import cache_folder

COMMIT = 2.0  # seconds between two commits
KEPT = 64  # files: of the nets asked last


def answers_folder() -> Path:
    """Where answers are kept unless said otherwise."""
    return cache_folder() / "tasks"


def net_digest(net: nn.Module, tokenizer) -> str:
    """Twenty-four hex digits of configuration, weights, precision, kind of device and tokenizer."""
    settings = net.config.to_dict()
    for name in ("_name_or_path", "transformers_version", "architectures", "auto_map", "dtype", "torch_dtype"):
        settings.pop(name, None)
    digest = hashlib.sha256(json.dumps([net.device.type, settings], sort_keys=True, default=str).encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    digest.update(words.encode())
    for name, weight in net.named_parameters():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:24]


class Answers:
    """Answers to requests of one net; without a folder, or on a disk that refuses, nothing is kept.

    Use it from one thread.
    """

    def __init__(self, folder: Path | None, name: str):
        self._db, self._last = None, time.monotonic()
        if folder is None:
            return
        with self._unless_refused():
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{name}.sqlite"
            self._db = sqlite3.connect(path, timeout=60)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("CREATE TABLE IF NOT EXISTS answers (request TEXT PRIMARY KEY, answer TEXT NOT NULL)")
            self._db.commit()
            path.touch()
            _sweep(folder)

    def get(self, kind: str, request: Sequence) -> object | None:
        """The answer that was kept, None if there is none."""
        row = None
        if self._db is not None:
            with self._unless_refused():
                asked = "SELECT answer FROM answers WHERE request = ?"
                row = self._db.execute(asked, (_key(kind, request),)).fetchone()
        if row is None:
            return None
        found = json.loads(row[0])
        return tuple(found) if isinstance(found, list) else found

    def put(self, kind: str, request: Sequence, answer: object) -> None:
        """Keep an answer; what was kept is on the disk within two seconds."""
        if self._db is None:
            return
        with self._unless_refused():
            row = _key(kind, request), json.dumps(answer)
            self._db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", row)
            if time.monotonic() - self._last > COMMIT:
                self._db.commit()
                self._last = time.monotonic()

    def close(self) -> None:
        """Write what is not written yet."""
        if self._db is not None:
            with self._unless_refused():
                self._db.commit()
                self._db.close()

    @contextlib.contextmanager
    def _unless_refused(self) -> Iterator[None]:
        """A full or broken disk costs what would have been kept, and not the result."""
        try:
            yield
        except (sqlite3.Error, OSError):
            self._db = None


def _key(kind: str, request: Sequence) -> str:
    return hashlib.sha256(json.dumps([kind, *request], sort_keys=True, default=str).encode()).hexdigest()


def _sweep(folder: Path) -> None:
    files = sorted(folder.glob("*.sqlite"), key=lambda f: f.stat().st_mtime)
    for file in files[:-KEPT]:
        for suffix in ("", "-wal", "-shm"):
            file.with_name(file.name + suffix).unlink(missing_ok=True)
