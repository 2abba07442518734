"""Files of tensors that are there whole or not at all, whatever ends the process or the machine."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rcpu.base.errors import RcpuError

SUFFIX, TEMPORARY = ".safetensors", ".tmp-"


def write_part(folder: Path, part: str, tensors: Mapping[str, Tensor], notes: object = None) -> None:
    """Write a part of a run, over an earlier one of that name; a tensor under two names is written once.

    ``notes`` are plain values that belong to the tensors.

    Raises:
        RcpuError: the disk refuses, e.g. because it is full; then what was there before still is.
    """
    own: dict[str, Tensor] = {}
    again: dict[str, str] = {}
    names: dict[tuple, str] = {}
    for name, tensor in tensors.items():
        first = names.setdefault((tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()), name)
        if first == name or not tensor.numel():
            own[name] = _alone(tensor)
        else:
            again[name] = first
    temporary = None
    try:
        handle, made = tempfile.mkstemp(prefix=part + TEMPORARY, dir=folder)
        temporary = Path(made)
        os.close(handle)
        save_file(own, temporary, metadata={"again": json.dumps(again), "notes": json.dumps(notes)})
        _sync(temporary)
        temporary.replace(folder / (part + SUFFIX))
        _sync(folder)
    except (OSError, SafetensorError) as error:
        raise RcpuError(f"cannot keep this run in {folder}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def read_part(folder: Path, part: str, want: Callable[[str], bool] = lambda _: True) -> dict[str, Tensor]:
    """The tensors of one part whose names are wanted; raises ``RcpuError`` if it is not there or broken."""
    with _opened(folder, part) as file:
        again = json.loads(file.metadata()["again"])
        names = {name: again.get(name, name) for name in (*file.keys(), *again) if want(name)}
        found = {name: file.get_tensor(name) for name in dict.fromkeys(names.values())}
    return {name: found[first] for name, first in names.items()}


def read_notes(folder: Path, part: str) -> Any:
    """The plain values that were written with a part; raises ``RcpuError`` as :func:`read_part`."""
    with _opened(folder, part) as file:
        return json.loads(file.metadata()["notes"])


@contextlib.contextmanager
def _opened(folder: Path, part: str) -> Iterator[Any]:
    try:
        with safe_open(folder / (part + SUFFIX), "pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise RcpuError(f"cannot read {part} of the run in {folder}: {error}; delete it and prune again") from error


def parts(folder: Path) -> list[str]:
    """The names of all parts that were written, ascending."""
    return sorted(path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}"))


def drop_part(folder: Path, part: str) -> None:
    """Remove a part, if it is there."""
    with contextlib.suppress(OSError):
        (folder / (part + SUFFIX)).unlink(missing_ok=True)


def drop_temporary(folder: Path) -> None:
    """Remove what a kill left half written; only whoever holds the folder's lock may."""
    for path in folder.glob(f"*{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def disk_bytes(folder: Path) -> int:
    """What all in a folder takes on disk; files that vanish meanwhile count as nothing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size
    return total


def _alone(tensor: Tensor) -> Tensor:
    """A tensor with memory of its own, no larger than itself: safetensors takes no other."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
