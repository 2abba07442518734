"""Which code made a result: kept results are found again by the code that would make the same."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARY = Path(__file__).parent.parent
COMPUTING = ("torch", "transformers")


@cache
def code_version(*rooms: str) -> str:
    """Sixteen hex digits of the source of these rooms of the library, and of the versions of what computes for it."""
    digest = hashlib.sha256()
    for package in COMPUTING:
        try:
            digest.update(f"{package} {version(package)}\n".encode())
        except PackageNotFoundError:  # torch from a source tree
            digest.update(f"{package}\n".encode())
    for room in rooms:
        for path in sorted((LIBRARY / room).rglob("*.py")):
            digest.update(f"{path.relative_to(LIBRARY).as_posix()}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
