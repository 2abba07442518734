"""A run store that ends with its process: for a demo, and where none can be kept."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
from pathlib import Path

from rcpu.runs.locks import held
from rcpu.runs.store import Store

PREFIX = "rcpu-runs-"
_open = contextlib.ExitStack()  # locks on the stores of this process: the system lets go of them if nobody else does


def temporary_store() -> Store:
    """A new store that is removed when this process ends, or, if it was killed, when the next one begins."""
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    _open.enter_context(held(folder))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Store(folder)


def _sweep() -> None:
    """Remove the stores whose process was killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with held(folder) as ours, contextlib.suppress(OSError):
            if ours:
                shutil.rmtree(folder, ignore_errors=True)
