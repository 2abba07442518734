"""What terminals, pipes and signals do to a command, and how it ends in one sentence and never costs a result."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import signal
import sys
import threading
import unicodedata
from collections.abc import Iterator

from rich.console import Console

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C, what ends a process, a terminal that was closed
STRICT = ("strict", "surrogateescape", "backslashreplace")  # how Python treats what cannot be encoded
#: Our signs for terminals that know no others than ASCII.
PLAIN = {"→": "->", "‖": "||", "−": "-", "–": "-", "…": "...", "×": "x", "≥": ">=", "≤": "<=", "±": "+-", "’": "'"}


def _plain(error: UnicodeError) -> tuple[str, int]:
    """The nearest that a terminal can show of what it cannot."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    shown = "".join(
        PLAIN.get(c) or unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode() or "?"
        for c in error.object[error.start : error.end]
    )
    return shown, error.end


codecs.register_error("rcpu-plain", _plain)


def ready_streams() -> None:
    """Have output and remarks go through whatever a terminal can encode, and nowhere where there is none."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - as long as the process
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in STRICT:
            stream.reconfigure(errors="rcpu-plain")


class Remarks(Console):
    """Standard error: when nobody reads it any more, the work goes on without."""

    def __init__(self) -> None:
        super().__init__(stderr=True, highlight=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Say no more."""
        self.quiet = True
        silence(sys.stderr)


class Output(Console):
    """Standard output: when nobody reads it any more, that is an error like others."""

    def on_broken_pipe(self) -> None:
        """Tell it to the command, which knows where its results are."""
        raise BrokenPipeError


def output() -> Console:
    """Where results are printed: not a terminal, e.g. a pipe or a file, never folds a table."""
    return Output(highlight=False, soft_wrap=True) if sys.stdout.isatty() else Output(highlight=False, width=140)


def silence(stream) -> None:
    """Let what is still to be written to a closed stream go nowhere, or Python would complain of it at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def heeding(interrupted: threading.Event) -> Iterator[None]:
    """Signals to stop raise as Ctrl-C does and are noted, too: what is raised in a destructor or a callback is lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(*_) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    before = {}
    for name in STOPPING:
        if (number := getattr(signal, name, None)) and (
            name == "SIGINT" or signal.getsignal(number) != signal.SIG_IGN  # as nohup has it
        ):
            before[number] = signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
