"""Text to calibrate and to measure on, and the token windows cut from it."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from huggingface_hub import constants

from rcpu.base.errors import RcpuError
from rcpu.base.hub import unreachable
from rcpu.base.paths import existing
from rcpu.text.formats import MAX_BYTES, text_of

PARTS = ("calibration", "evaluation")
#: Splits to calibrate and to measure on, the first that a data set has: C4 has no test, BookCorpus neither.
SPLITS = (("train",), ("test", "validation"))
#: Names for hub data sets: (path, configuration, splits to calibrate on, splits to measure on).
NAMED = {"wikitext2": ("Salesforce/wikitext", "wikitext-2-raw-v1", ("train",), ("test",))}
WHOLE = {path for path, *_ in NAMED.values()}  # small ones, which are kept on disk
UPLOADED = 64 * 2**20  # bytes that a packed upload may come to
STREAMED = 64 * 2**20  # characters of a data set that are taken at most: C4 has a million million


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


def load_text(name: str, field: str | None = None, part: str | None = None) -> Text:
    """``embedded``, a file, ``wikitext2``, or a hub data set as ``owner/name`` or ``owner/name:configuration``.

    Rows (JSON, CSV, Parquet, data sets) are read by the ``field`` with their text, ``text`` unless it is given here or
    after the name, as in ``pages.jsonl#content``. With ``part``, calibration or evaluation, a data set needs no more
    than the split for that.

    Raises:
        RcpuError: the file is missing, empty, too large or of a kind that is not read; the data set cannot be had.
    """
    if name == "embedded":
        return _language_reference()
    path = existing(name)
    if path is None and "#" in name:
        name, _, field = name.rpartition("#")
        path = existing(name)
    if path is not None:
        if path.is_dir():
            raise RcpuError(f"{name} is a folder, expected a text file")
        content = _read(path, field)
        return Text(_called(path.name, field), content, content, disjoint=False)
    if name in NAMED or re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", name):
        return _hub(name, field or "text", part)
    raise RcpuError(
        f"no text {name!r}: give 'embedded', a UTF-8 file, {', '.join(map(repr, NAMED))} or a hub data set 'owner/name'"
    )


def from_upload(name: str, data: bytes) -> Text:
    """A text from bytes that a person handed over; the same checks and errors as for a file."""
    content = text_of(name, data, None, UPLOADED)
    return Text(name, content, content, disjoint=False)


def _called(name: str, field: str | None) -> str:
    return name if field in (None, "text") else f"{name}#{field}"


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


def _read(path: Path, field: str | None) -> str:
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise RcpuError(f"{path} has {size / 2**20:.0f} MiB, more than the {MAX_BYTES // 2**20} MiB that are read")
        with path.open("rb") as file:  # a device may have no end
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise RcpuError(f"{path} has more than the {MAX_BYTES // 2**20} MiB that are read")
    except OSError as error:
        raise RcpuError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    return text_of(str(path), data, field, MAX_BYTES)


def _hub(name: str, field: str, part: str | None) -> Text:
    path, _, configuration = name.partition(":")
    path, configuration, *splits = NAMED.get(name, (path, configuration or None, *SPLITS))
    # The papers join training lines by blanks and test lines by blank lines.
    parts = dict(zip(PARTS, zip(splits, (" ", "\n\n"), strict=True), strict=True))
    found = {
        each: _split(path, configuration, names, field, between)
        for each, (names, between) in parts.items()
        if part in (None, each)
    }
    if not any(found.values()):
        wanted = ", ".join(split for each in found for split in parts[each][0])
        raise RcpuError(
            f"the data set {path!r} has no split with text to take for {part or 'both'}: looked for {wanted}"
        )
    return Text(_called(name, field), *(found.get(each) or "" for each in PARTS), disjoint=True)


def _split(path: str, configuration: str | None, splits: Sequence[str], field: str, between: str) -> str | None:
    """The text of the first of these splits that there is, None where there is none of them."""
    import datasets

    away = unreachable()
    for split in splits:
        try:
            if away and not constants.HF_HUB_OFFLINE:  # the library would retry for half a minute
                raise ConnectionError(away)
            datasets.disable_progress_bars()
            # Asked over the network, a large one comes row by row, for as long as it is asked.
            stream = {} if away or path in WHOLE else {"streaming": True}
            found = datasets.load_dataset(path, configuration, split=split, **stream)
            if isinstance(found, dict):
                found = found.get(split)
        except ValueError as error:
            if "split" in str(error).lower():  # how the library says that it has other ones
                continue
            raise _unreached(path, away, error) from error
        except Exception as error:  # the library raises a dozen kinds, from network, hub and parsing
            raise _unreached(path, away, error) from error
        if found is not None:
            return between.join(_rows(path, found, field))
    return None


def _rows(path: str, found, field: str) -> Iterator[str]:
    """Texts of a data set, as many as are read of a file."""
    from datasets import IterableDataset

    if (names := found.column_names) and field not in names:
        raise RcpuError(
            f"{path} has the columns {', '.join(names)}, but no column {field!r}: name the one with the text, with "
            f"--text-field or as in {path}#{names[0]}"
        )
    # Column by column is faster, where all of it is here.
    values = (row.get(field) for row in found) if isinstance(found, IterableDataset) else found[field]
    size = 0
    for text in values:
        if text is not None:
            yield text
            size += len(text)
            if size > STREAMED:
                return


def _unreached(path: str, away: str, error: Exception) -> RcpuError:
    return RcpuError(
        f"cannot get the data set {path!r} from the hub ({away or type(error).__name__}): check the name and the "
        "network, set HF_HUB_OFFLINE=1 if it is in the local cache, or give 'embedded' or a UTF-8 file"
    )
