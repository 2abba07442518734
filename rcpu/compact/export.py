"""A pruned model on disk: safetensors, configuration, tokenizer and the record of the run, all or nothing."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from rcpu.base.errors import RcpuError

RECORD = "rcpu_run.json"


def check_target(folder: Path | str, overwrite: bool = False) -> Path:
    """The folder to write to, absolute; call it before a long run.

    Raises:
        RcpuError: it exists and ``overwrite`` is not set, it exists and is not an export of ours, or its parent
            cannot take it.
    """
    try:
        folder = Path(folder).expanduser().resolve()  # a link stays, and what it points at is replaced
        if folder.exists():
            if not overwrite:
                raise RcpuError(f"{folder} exists: choose another name, or allow it to be overwritten (--overwrite)")
            if not (folder / RECORD).is_file() and (not folder.is_dir() or any(folder.iterdir())):
                raise RcpuError(f"{folder} is not an earlier export (it has no {RECORD}): it is not overwritten")
        parent = next(p for p in folder.parents if p.exists())
        tempfile.TemporaryFile(dir=parent).close()
        if any(
            len(os.fsencode(name)) > os.pathconf(parent, "PC_NAME_MAX") for name in folder.relative_to(parent).parts
        ):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    except RcpuError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # ValueError: a null byte
        raise RcpuError(f"cannot write to {folder}: {getattr(error, 'strerror', None) or error}") from error
    return folder
