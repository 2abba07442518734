"""Folders to write in until all is there; what processes that were killed have left behind goes with the next one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError


@contextlib.contextmanager
def scratch(place: Path, prefix: str) -> Iterator[Path]:
    """A new folder in this place, gone after the block; its lock tells it from one that was left behind.

    Raises:
        OSError: the system refuses.
    """
    place.mkdir(parents=True, exist_ok=True)
    for path in place.glob(f"{prefix}*"):
        if not path.name.endswith("-old") and (lock := _lock(path)) is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
    while True:
        folder = place / f"{prefix}{secrets.token_hex(4)}"
        folder.mkdir()
        lock = _lock(folder)
        if folder.exists():  # not taken for one left behind before it was locked
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """A handle that locks a folder for as long as it is open; None if another has it, or the disk knows no locks."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def refusal(error: BaseException) -> str | None:
    """What the system says where it refuses to write: libraries that are not written in Python have their own words."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, Exception) and (found := re.search(r"([^:]+?) \(os error \d+\)", str(error))):
        return found[1].strip()
    return str(error) if isinstance(error, SafetensorError) else None
