"""Names that may be files."""

from __future__ import annotations

from pathlib import Path

from rcpu.base.errors import RcpuError


def existing(name: str) -> Path | None:
    """The file or folder of this name, or None: also for a name that no file system would take.

    Raises:
        RcpuError: it lies in a folder that may not be looked into.
    """
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except PermissionError as error:
        raise RcpuError(f"cannot read {name}: permission denied") from error
    except (OSError, RuntimeError, ValueError):  # too long, no such user's home, a null byte
        return None
