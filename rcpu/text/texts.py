"""Text to calibrate and to measure on, and the token windows cut from it."""

from __future__ import annotations

import hashlib
import platform
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from huggingface_hub import constants

from rcpu.base.errors import RcpuError
from rcpu.base.hub import unreachable
from rcpu.base.paths import existing
from rcpu.text.tokens import plain_lines

MAX_BYTES = 512 * 2**20
#: Names for hub data sets: (path, configuration, calibration split, evaluation split).
NAMED = {"wikitext2": ("Salesforce/wikitext", "wikitext-2-raw-v1", "train", "test")}


@dataclass(frozen=True)
class Text:
    """A text in two parts. ``disjoint`` says whether they share no passage: for a plain file both are the file."""

    name: str
    calibration: str
    evaluation: str
    disjoint: bool

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits of both parts: results are kept by them, for a name may come to mean another text."""
        both = hashlib.sha256(hashlib.sha256(self.calibration.encode()).digest())
        both.update(hashlib.sha256(self.evaluation.encode()).digest())
        return both.hexdigest()[:16]


def load_text(name: str) -> Text:
    """``embedded``, a UTF-8 file, ``wikitext2``, or a hub data set as ``owner/name`` or ``owner/name:configuration``.

    Raises:
        RcpuError: the file is missing, empty, too large or not UTF-8; the data set cannot be had.
    """
    if name == "embedded":
        return _language_reference()
    if path := existing(name):
        if path.is_dir():
            raise RcpuError(f"{name} is a folder, expected a text file")
        content = _read(path)
        return Text(path.name, content, content, disjoint=False)
    if name in NAMED or re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", name):
        return _hub(name)
    raise RcpuError(
        f"no text {name!r}: give 'embedded', a UTF-8 file, {', '.join(map(repr, NAMED))} or a hub data set 'owner/name'"
    )


def from_upload(name: str, data: bytes) -> Text:
    """A text from bytes that a person handed over; the same checks and errors as for a file."""
    content = _decode(name, data)
    return Text(name, content, content, disjoint=False)


def _language_reference() -> Text:
    """The Python language reference of the running interpreter: whole topics, about a seventh of it for evaluation.

    Topics quote one another; a paragraph counts where it comes first, so that the two parts share none.
    """
    from pydoc_data.topics import topics

    parts: dict[bool, list[str]] = {False: [], True: []}
    sizes = {False: 0, True: 0}
    seen: set[str] = set()
    for name in sorted(topics):
        paragraphs = (p.strip("\n") for p in topics[name].split("\n\n"))
        fresh = [p for p in paragraphs if not (p.strip() in seen or seen.add(p.strip()))]
        topic = "\n\n".join(fresh)
        evaluation = sizes[True] * 6 < sizes[False] and len(topic) < 20_000  # the long ones are for calibration
        parts[evaluation].append(topic)
        sizes[evaluation] += len(topic)
    version = ".".join(platform.python_version_tuple()[:2])
    calibration, evaluation = ("\n\n".join(filter(None, parts[kind])) for kind in (False, True))
    return Text(f"Python {version} language reference", calibration, evaluation, disjoint=True)


def _read(path: Path) -> str:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise RcpuError(f"{path} has {size / 2**20:.0f} MiB, more than the {MAX_BYTES // 2**20} MiB that are read")
    try:
        return _decode(str(path), path.read_bytes())
    except OSError as error:
        raise RcpuError(f"cannot read {path}: {error.strerror}") from error


def _decode(name: str, data: bytes) -> str:
    try:
        content = plain_lines(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RcpuError(
            f"{name} is not UTF-8 text: byte {error.start:,} of {len(data):,} is 0x{data[error.start]:02x}; "
            "save it as UTF-8 first"
        ) from error
    if not content.strip():
        raise RcpuError(f"{name} is empty: {len(data):,} bytes and no text in it")
    return content


def _hub(name: str) -> Text:
    import datasets

    path, _, configuration = name.partition(":")
    path, configuration, train, test = NAMED.get(name, (path, configuration or None, "train", "test"))
    away = unreachable()
    try:
        if away and not constants.HF_HUB_OFFLINE:  # the library would retry for half a minute
            raise ConnectionError(away)
        datasets.disable_progress_bars()
        loaded = datasets.load_dataset(path, configuration)
    except Exception as error:  # the library raises a dozen kinds, from network, hub and parsing
        raise RcpuError(
            f"cannot get the data set {path!r} from the hub ({away or type(error).__name__}): check the name and the "
            "network, set HF_HUB_OFFLINE=1 if it is in the local cache, or give 'embedded' or a UTF-8 file"
        ) from error
    if missing := {train, test} - set(loaded):
        raise RcpuError(f"{path} has the splits {', '.join(loaded)}, but {', '.join(sorted(missing))} is needed")
    if "text" not in loaded[train].column_names:
        raise RcpuError(f"{path} has the columns {', '.join(loaded[train].column_names)}, but no column 'text'")
    # The papers join training lines by blanks and test lines by blank lines.
    return Text(name, " ".join(loaded[train]["text"]), "\n\n".join(loaded[test]["text"]), disjoint=True)
