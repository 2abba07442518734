"""Texts as the app knows them: those that people handed over, and what a name means now: files change while it runs."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path

import streamlit as st

import rcpu
from app.demo import UPLOAD, check_text, check_upload
from rcpu.base import existing
from rcpu.models import HUB_ID
from rcpu.text import NAMED

UPLOADS = 32  # texts that are remembered
INLINE = 4 * 2**20  # bytes of a file that a page may read itself
SETTLED = 2 * 10**9  # nanoseconds after which a file that changes again has another time: file systems round theirs
_known: dict[tuple, tuple[tuple, str]] = {}  # by name and part: the mark of what was read, and the digest of its text


class TextStore:
    """Texts that people uploaded or pasted, by the digest of their content; the oldest leave first."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, rcpu.Text] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, name: str, data: bytes) -> str:
        """Check and keep a text; returns the name that ``load_text`` here takes, ``upload:`` and a digest.

        Raises:
            RcpuError: empty, or not UTF-8.
        """
        check_upload(len(data))
        text = rcpu.from_upload(name, data)
        key = UPLOAD + text.digest
        with self._lock:
            self._texts[key] = text
            self._texts.move_to_end(key)
            while len(self._texts) > UPLOADS:
                self._texts.popitem(last=False)
        return key

    def get(self, key: str) -> rcpu.Text:
        """The text; raises ``RcpuError`` if it is not kept any more."""
        if found := self._texts.get(key):
            return found
        raise rcpu.RcpuError("this text was handed over by hand and is no longer in memory: upload or paste it again")


@st.cache_resource(show_spinner=False)
def uploads() -> TextStore:
    """The texts people handed over."""
    return TextStore()


def load_text(name: str, part: str | None = None) -> rcpu.Text:
    """A text of the library, or one that was handed over; raises ``RcpuError`` as ``rcpu.load_text`` does."""
    check_text(name)
    mark, now = _mark(name), time.time_ns()
    text = uploads().get(name) if name.startswith(UPLOAD) else rcpu.load_text(name, part=part)
    if not mark or now - max(mark[:2]) > SETTLED:
        _known[name, part] = mark, text.digest
    return text


def quick(name: str) -> bool:
    """Whether a page may read this text itself; also where there is none, which is said at once."""
    if name == "embedded" or name.startswith(UPLOAD):
        return True
    if path := _file(name):
        return path.stat().st_size < INLINE
    name = name.partition("#")[0]
    return name not in NAMED and not HUB_ID.fullmatch(name.partition(":")[0])


def digest_now(name: str, part: str | None = None) -> str | None:
    """The digest of what this name means at the moment; None where a page may not wait for that.

    Raises:
        RcpuError: there is no such text, or it cannot be read.
    """
    check_text(name)  # before anything looks for a file of that name
    mark, digest = _known.get((name, part), (None, None))
    if mark == _mark(name):
        return digest
    return load_text(name, part).digest if quick(name) else None


def content_of(name: str) -> Hashable:
    """What tells whether a text is the same as before, found at once: its digest, or a long one's file and its mark."""
    try:
        if quick(name):
            return digest_now(name)
    except (rcpu.RcpuError, OSError):  # whoever reads it says so
        pass
    return name, _mark(name)


def _file(name: str) -> Path | None:
    """The file of this name, also where the name of a field stands after it."""
    return existing(name) or existing(name.partition("#")[0])


def _mark(name: str) -> tuple:
    """What changes with every change of a file; nothing for all that are no files."""
    path = None if name == "embedded" or name.startswith(UPLOAD) else _file(name)
    if path is None:
        return ()
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
