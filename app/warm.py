"""What the server does before the first visitor comes: imports, and the model that the app begins with."""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil

import app
from rcpu import RcpuError

SCRIPTS = ("app.main", "app.server", "app.example")  # run, not imported


def import_all() -> None:
    """Import whatever a page needs: a first page then answers at once."""
    for module in pkgutil.walk_packages(app.__path__, "app."):
        if module.name not in SCRIPTS:
            importlib.import_module(module.name)


def prepare() -> None:
    """Queue the default model and its dense path on the default windows for all who come, unless RCPU_PREPARE is 0."""
    if os.environ.get("RCPU_PREPARE", "").strip() == "0":
        return
    from app.demo import limits
    from app.settings import Settings
    from app.work import load_model_job

    usual = Settings()
    with contextlib.suppress(RcpuError):  # pages say what is wrong
        offered = limits().models
        name = usual.model if offered is None or usual.model in offered else offered[0]
        load_model_job((name, usual.device, usual.dtype), usual.recipe("columns"), shared=True)
