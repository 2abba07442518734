"""Texts out of files: prose as it stands, and rows of JSON, CSV and Parquet by the name of a field, packed or not."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterable
from pathlib import PurePath

from rcpu.base.errors import RcpuError
from rcpu.text.tokens import plain_lines

MAX_BYTES = 512 * 2**20  # of a file, unpacked
PACKED: dict[bytes, Callable] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
SUFFIXES = {".gz", ".bz2", ".xz"}
PARQUET = b"PAR1"
#: How files begin that are no text at all, and what they are called.
OTHERS = {
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"%PDF-": "a PDF",
    b"ARROW1": "an Arrow file",
    b"version https://git-lfs": "a git-lfs pointer",
}
READ = "text in UTF-8, or rows as .jsonl, .json, .csv, .tsv or .parquet, alone or packed as .gz, .bz2 or .xz"


def text_of(name: str, data: bytes, field: str | None, most: int = MAX_BYTES) -> str:
    """What a file of this name says: its text, or the values of ``field`` in all its rows, a blank line between them.

    Without a field it is ``text``; with one, a file of no known suffix is read as rows of JSON. ``most``: bytes that
    a packed file may come to.

    Raises:
        RcpuError: it is packed or written in a way that is not read, has no such field, or holds no text.
    """
    data = _unpacked(name, data, most)
    kind, rows_asked, field = _suffix(name), field is not None, field or "text"
    if data.startswith(PARQUET):
        rows = _parquet(name, data, field)
    elif kind == ".parquet":
        raise RcpuError(f"{name} is not a Parquet file: it is broken, or was named so by mistake")
    elif kind in (".jsonl", ".ndjson"):
        rows = _json_lines(name, _decoded(name, data), field)
    elif kind == ".json" or (rows_asked and kind not in (".csv", ".tsv")):
        rows = _json(name, _decoded(name, data), field)
    elif kind in (".csv", ".tsv"):
        rows = _table(name, _decoded(name, data), field, tabs=kind == ".tsv")
    else:
        rows = [_decoded(name, data)]
    text = plain_lines("\n\n".join(row for row in rows if row.strip()) if len(rows) != 1 else rows[0])
    if not text.strip():
        raise RcpuError(f"{name} is empty: {len(data):,} bytes and no text in it")
    return text


def _suffix(name: str) -> str:
    path = PurePath(name)
    return (path.with_suffix("") if path.suffix.lower() in SUFFIXES else path).suffix.lower()


def _unpacked(name: str, data: bytes, most: int) -> bytes:
    for start, opened in PACKED.items():
        if data.startswith(start):
            try:
                with opened(io.BytesIO(data)) as file:
                    data = file.read(most + 1)
            except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
                raise RcpuError(f"{name} cannot be unpacked ({error}): copy or download it again") from error
            if len(data) > most:
                raise RcpuError(f"{name} unpacks to more than the {most // 2**20} MiB that are read")
            break
    for start, called in OTHERS.items():
        if data.startswith(start):
            raise RcpuError(f"{name} is {called}, expected {READ}")
    return data


def _decoded(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RcpuError(
            f"{name} is not UTF-8 text: byte {error.start:,} of {len(data):,} is 0x{data[error.start]:02x}; "
            "save it as UTF-8 first"
        ) from error


def _json_lines(name: str, text: str, field: str) -> list[str]:
    rows = []
    for i, line in enumerate(text.split("\n"), 1):  # not splitlines: a text may hold other line ends
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise RcpuError(f"{name}, line {i}, is not JSON ({error}): expected an object a line") from error
    return _field(name, rows, field)


def _json(name: str, text: str, field: str) -> list[str]:
    try:
        found = json.loads(text)
    except ValueError:
        return _json_lines(name, text, field)  # many files of lines are named so
    if isinstance(found, dict):
        column = found.get(field)
        found = [{field: value} for value in column] if isinstance(column, list) else [found]
    if not isinstance(found, list):
        raise RcpuError(f"{name} holds a {type(found).__name__}, expected a list of objects with the field {field!r}")
    return _field(name, found, field)


def _table(name: str, text: str, field: str, tabs: bool) -> list[str]:
    header = text.partition("\n")[0].rstrip("\r")
    columns = {mark: next(csv.reader([header], delimiter=mark), []) for mark in ("\t" if tabs else ",;\t")}
    mark = max(columns, key=lambda m: (field in columns[m], len(columns[m])))
    before = csv.field_size_limit(MAX_BYTES)
    try:
        return _field(name, list(csv.DictReader(io.StringIO(text, newline=""), delimiter=mark)), field)
    except csv.Error as error:
        raise RcpuError(f"{name} is not a table of values ({error})") from error
    finally:
        csv.field_size_limit(before)


def _parquet(name: str, data: bytes, field: str) -> list[str]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(data))
        if field not in file.schema_arrow.names:
            raise _absent(name, file.schema_arrow.names, field)
        size = sum(
            file.metadata.row_group(i).column(j).total_uncompressed_size
            for i in range(file.metadata.num_row_groups)
            for j in range(file.metadata.num_columns)
            if file.metadata.row_group(i).column(j).path_in_schema.split(".")[0] == field
        )
        if size > MAX_BYTES:
            raise RcpuError(f"{name} unpacks to more than the {MAX_BYTES // 2**20} MiB that are read")
        return _field(name, file.read(columns=[field]).to_pylist(), field)
    except (pyarrow.ArrowException, OSError) as error:
        raise RcpuError(f"{name} is not a Parquet file that can be read ({error})") from error


def _field(name: str, rows: Iterable[object], field: str) -> list[str]:
    """One field of every row that has it; rows without a value, or with none of it, hold nothing."""
    found, known = [], {}
    for i, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise RcpuError(f"{name}, row {i}, is a {type(row).__name__}, expected an object with the field {field!r}")
        known |= dict.fromkeys(key for key in row if key is not None)
        value = row.get(field)
        if value is not None and not isinstance(value, str):
            raise RcpuError(f"{name}, row {i}: {field!r} is a {type(value).__name__}, expected a text")
        found += [value] if value is not None else []
    if known and field not in known:
        raise _absent(name, list(known), field)
    return found


def _absent(name: str, known: list[str], field: str) -> RcpuError:
    return RcpuError(
        f"{name} has the fields {', '.join(known)}, but no field {field!r}: name the one with the text, with "
        f"--text-field or as in {PurePath(name).name}#{known[0]}"
    )
