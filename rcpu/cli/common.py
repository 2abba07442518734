"""What every command shares: the flags of a model, a progress bar, and results as JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import rcpu
from rcpu.base.errors import RcpuError
from rcpu.cli.terminal import output as output  # every command that prints wants both
from rcpu.compact.shapes import MULTIPLES, SHAPES
from rcpu.runs import Store, load_named, open_store


def model_flags(default: str | None = "embedded") -> argparse.ArgumentParser:
    """Flags of every command that loads a model."""
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument(
        "--model", default=default, help="embedded, a local folder, a hub id, or run:NAME (default: embedded)"
    )
    model.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    model.add_argument("--dtype", default="auto", help="fp32, bf16, fp16 or auto: fp32 on the CPU (default: auto)")
    model.add_argument("--json", type=a_path, metavar="FILE", help="write the results as one JSON object too")
    return model


def text_field_flag(parser: argparse.ArgumentParser) -> None:
    """The flag of every command that reads texts."""
    about = "field with the text, of JSON, CSV, Parquet or a data set (default: text)"
    parser.add_argument("--text-field", metavar="NAME", help=about)


def with_field(text: str, field: str | None) -> str:
    """The name of a text with its field, as recipes and links hold it."""
    return f"{text}#{field}" if field and text != "embedded" else text


def save_dtype_flag(parser: argparse.ArgumentParser) -> None:
    """The flag of every command that writes weights."""
    about = "precision of the files: fp32, bf16, fp16, or auto: that of --dtype, else the checkpoint's own"
    parser.add_argument("--save-dtype", default="auto", metavar="DTYPE", help=f"{about} (default: auto)")


def export_flags(parser: argparse.ArgumentParser, name: str = "--export", forms: Iterable[str] = SHAPES) -> None:
    """Flags of every command that writes a pruned model; ``--padded`` is short for ``--export padded``."""
    about = "; ".join(SHAPES.values())
    parser.add_argument(name, dest="export", default="compact", choices=list(forms), help=f"{about} (default: compact)")
    parser.add_argument("--padded", dest="export", action="store_const", const="padded", help=f"{name} padded")
    rounded = f"round a stock MLP's width up to {' or '.join(map(str, MULTIPLES[1:]))}, with zeros"
    parser.add_argument("--round-to", type=int, default=1, metavar="N", help=rounded)


def progress_bar(console: Console) -> Progress:
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, transient=not console.is_terminal)


def load(options, console: Console) -> rcpu.Model:
    return load_subject(options, console)[0]


def load_subject(options, console: Console) -> tuple[rcpu.Model, str]:
    """The model that flags name, and what its measures are kept under."""
    return load_named(
        options.model,
        options.device,
        options.dtype,
        report=lambda m: console.print(f"{options.model}: {m}", markup=False),
    )


def store_or_note(console: Console, what: str) -> Store | None:
    """The run store if it can be written; a remark that ``what`` is not kept, and why, if it cannot."""
    try:
        store = open_store()
        if store.refusal:
            raise RcpuError(store.refusal)
    except RcpuError as error:
        console.print(f"note: {what} is not kept: {error}", markup=False)
        return None
    return store


def number(text: str, flag: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise RcpuError(f"{flag} must be a number or auto, got {text!r}") from error


def a_path(text: str) -> Path:
    """The value of a flag that names a file or a folder, with ``~`` as shells read it."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # no such user
        raise argparse.ArgumentTypeError(f"{text}: there is no such user") from error


def check_json(path: Path | None) -> None:
    """Find out before a long run that a result could not be written after it."""
    if path is None:
        return
    try:
        if path.is_dir():
            raise RcpuError(f"--json {path} is a folder, expected a file")
        if not path.absolute().parent.is_dir():
            raise RcpuError(f"--json {path}: the folder {path.absolute().parent} does not exist")
        if _own(path):
            tempfile.TemporaryFile(dir=path.absolute().parent).close()
    except (OSError, ValueError) as error:
        if isinstance(error, RcpuError):
            raise
        raise RcpuError(f"--json {path}: cannot write there: {getattr(error, 'strerror', None) or error}") from error


def _own(path: Path) -> bool:
    """Whether a path is, or will be, a file of ours, and not a device or a pipe."""
    return path.is_file() or not path.exists()


@contextlib.contextmanager
def results(path: Path | None, result: dict) -> Iterator[None]:
    """Write results as JSON before the block prints them, for printing may fail; where writing does, they are printed.

    Raises:
        RcpuError: after the block, if the file could not be written.
    """
    refused = None
    try:
        write_json(path, result)
    except RcpuError as error:
        refused = error
    yield
    if refused:
        raise refused


def write_json(path: Path | None, result: dict) -> None:
    """Write one JSON object, whole or not at all; raises ``RcpuError`` if the system refuses."""
    if path is None:
        return
    written = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    temporary = path.with_name(path.name + ".tmp-json") if _own(path) else path
    try:
        temporary.write_text(written, encoding="utf-8", errors="replace")
        if temporary != path:
            temporary.replace(path)
    except OSError as error:
        if temporary != path:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        raise RcpuError(f"--json {path}: could not write: {error.strerror}") from error


def placed(text: str, mark: str, section: str) -> str:
    """A text with the section between ``<!-- mark -->`` and ``<!-- /mark -->``; ``RcpuError`` where it has no such."""
    start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise RcpuError(f"there is no place for {mark}: write the lines {start} and {end} where it shall stand")
    return f"{before}{start}\n{section}{end}{after}"


def text_with(into: Path | None, marks: Iterable[str]) -> str:
    """The text of a file that has a place for each mark, empty without a file; raises ``RcpuError`` where it cannot."""
    if into is None:
        return ""
    try:
        text = into.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RcpuError(f"cannot read {into}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from error
    for mark in marks:
        placed(text, mark, "")
    return text
