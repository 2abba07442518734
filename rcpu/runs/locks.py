"""Who works on a run: a lock that the system lets go of when its process ends, however it does.

No list of process numbers is kept, for they are given again, after a restart of the machine too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

LOCK = "lock"


@contextlib.contextmanager
def held(folder: Path, patience: float = 0.0) -> Iterator[bool]:
    """Whether the lock on this run could be had within ``patience`` seconds; after the block it is let go of."""
    handle = _opened(folder / LOCK)
    if handle is None:
        yield False
        return
    try:
        yield _locked(handle, time.monotonic() + patience)
    finally:
        os.close(handle)


def _opened(path: Path) -> int | None:
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):  # the second for a disk that cannot be written
        with contextlib.suppress(OSError):
            return os.open(path, flags, 0o600)
    return None


def _locked(handle: int, end: float) -> bool:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= end:
                return False
        time.sleep(0.02)
