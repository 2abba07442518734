"""Workers that the system kills, in a module that is imported quickly."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def die_once(cell: dict) -> None:
    """Kill this process the first time that a cell of seed 1 comes to it."""
    mark = Path(cell["home"]) / f"died-{cell['recipe']['ratio']}"
    if cell["recipe"]["seed"] == 1 and not mark.exists():
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def work(cell: dict) -> dict:
    """Cells of seed 1 die once, that of the smaller ratio always."""
    if (cell["recipe"]["seed"], cell["recipe"]["ratio"]) == (1, 0.2):
        os.kill(os.getpid(), signal.SIGKILL)
    die_once(cell)
    return {"name": cell["name"], "run": "a run"}
