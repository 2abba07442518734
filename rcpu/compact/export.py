"""Folders that are written whole or not at all: what may be replaced, room on the disk, modes, what is left behind."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from rcpu.base.errors import RcpuError
from rcpu.base.scratch import refusal, scratch

RECORD = "rcpu_run.json"
TEMPORARY = ".rcpu.tmp-"
#: What exports hold whose record does not say it yet.
USUAL = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "compact_llama.py")
USUAL += ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "vocab.*", "merges.txt")


def check_target(folder: Path | str, overwrite: bool = False, inputs: Iterable[Path | None] = ()) -> Path:
    """The folder to write to, absolute; call it before a long run. ``inputs``: files and folders that are read for it.

    Raises:
        RcpuError: it exists and ``overwrite`` is not set, it exists and holds anything that an export of ours did not
            write, an input lies in it, or it cannot be written.
    """
    try:
        folder = Path(folder).expanduser().resolve()  # a link stays, and what it points at is replaced
        if exists := folder.exists():
            if not overwrite:
                raise RcpuError(f"{folder} exists: choose another name, or allow it to be overwritten (--overwrite)")
            _check_replaceable(folder, inputs)
        place = folder if exists else next(p for p in folder.parents if p.exists())
        tempfile.TemporaryFile(dir=place).close()
        longest = os.pathconf(place, "PC_NAME_MAX")
        if any(len(os.fsencode(name)) > longest for name in folder.relative_to(place).parts):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    except RcpuError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # ValueError: a null byte
        raise RcpuError(f"cannot write to {folder}: {getattr(error, 'strerror', None) or error}") from error
    return folder


def check_room(folder: Path, needed: int) -> None:
    """Raise ``RcpuError`` if the disk of a folder that is to be written has no room for so many bytes."""
    place = next(p for p in (folder, *folder.parents) if p.exists())
    if needed > (free := shutil.disk_usage(place).free):
        raise RcpuError(
            f"{folder} would take {needed / 2**20:,.1f} MiB, and its disk has {free / 2**20:,.1f} MiB free: choose "
            "another disk, or free some room"
        )


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A folder to write to, whose files are in place after the block; an error or an interrupt leaves nothing behind.

    A folder that exists, a mount point perhaps, stays and its files are exchanged; else it appears at once, whole.
    What a save that was killed has left in that place goes first.

    Raises:
        RcpuError: the system refuses, e.g. the disk is full.
    """
    made = [p for p in folder.parents if not p.exists()]
    place = folder if folder.exists() else folder.parent
    try:
        with scratch(place, TEMPORARY) as own:
            new = own / "new"
            new.mkdir()
            yield new
            for path in new.iterdir():  # safetensors' are for the owner alone, whatever the umask
                path.chmod(new.stat().st_mode & 0o666)
            if place == folder:
                _exchange(folder, new, own)
            else:
                new.rename(folder)
    except BaseException as error:
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if told := refusal(error):
            raise RcpuError(f"could not write {folder}: {told}") from error
        raise


def weight_bytes(folder: Path) -> int:
    """Bytes of a folder's weight files."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _check_replaceable(folder: Path, inputs: Iterable[Path | None]) -> None:
    if not folder.is_dir() or (_others(folder) and not _records(folder)):
        raise RcpuError(f"{folder} is not an earlier export (it has no {RECORD}): it is not overwritten")
    read = [
        path.resolve() for given in inputs if given for path in (given, *(given.iterdir() if given.is_dir() else ()))
    ]
    if used := next((path for path in read if folder in (path, *path.parents)), None):
        raise RcpuError(f"{folder} holds what is read for this run ({used.name}): choose another name")
    if more := _others(folder):
        raise RcpuError(
            f"{folder} holds more than an export wrote ({', '.join(more[:3])}{', …' * (len(more) > 3)}): move that "
            "elsewhere, or choose another name"
        )


def _records(folder: Path) -> list[Path]:
    """Records of an export, also of one that was being replaced when its process was killed."""
    return [path for path in (folder / RECORD, *folder.glob(f"{TEMPORARY}*/*/{RECORD}")) if path.is_file()]


def _others(folder: Path) -> list[str]:
    """What lies in a folder that an export of ours did not write."""
    written = {RECORD}
    for record in _records(folder):
        try:
            files = json.loads(record.read_text(encoding="utf-8")).get("files")
        except (OSError, ValueError, AttributeError) as error:
            raise RcpuError(f"{record} cannot be read, so {folder} is not overwritten") from error
        named = {p.name for p in folder.iterdir() if any(fnmatch(p.name, usual) for usual in USUAL)}
        written |= named if files is None else set(files)
    mine = {p.name for p in folder.iterdir() if (p.is_file() and p.name in written) or p.name.startswith(TEMPORARY)}
    return sorted({p.name for p in folder.iterdir()} - mine)


def _exchange(folder: Path, new: Path, own: Path) -> None:
    """Put new files in the place of those of a folder, all or none; the record comes last."""
    old = own / "old"
    old.mkdir()
    moves = [(path, old / path.name) for path in folder.iterdir() if not path.name.startswith(TEMPORARY)]
    moves += [(path, folder / path.name) for path in sorted(new.iterdir(), key=lambda p: p.name == RECORD)]
    begun: list[tuple[Path, Path]] = []
    try:
        for move in moves:
            begun.append(move)
            move[0].rename(move[1])
    except BaseException:
        for before, after in reversed(begun):
            if after.exists() and not before.exists():
                after.rename(before)
        raise
