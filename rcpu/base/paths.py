"""Names that may be files."""

from __future__ import annotations

from pathlib import Path


def existing(name: str) -> Path | None:
    """The file or folder of this name, or None: also for a name that no file system would take."""
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long, no such user's home, a null byte
        return None
