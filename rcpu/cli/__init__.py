"""The command line: ``python -m rcpu COMMAND``, or ``rcpu COMMAND`` where the package is installed.

Results go to standard output, progress and remarks to standard error. Exit codes: 0 done, 2 bad input, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

import rcpu
from rcpu.base.errors import Cancelled, RcpuError
from rcpu.cli import app, generate, methods, perplexity, prune, report, runs, study, tasks
from rcpu.cli.common import model_flags

#: A file a command, in the order of the help.
COMMANDS = (prune, perplexity, tasks, study, generate, runs, report, methods, app)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise RcpuError(f"{message} (see {self.prog} --help)")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; one plain sentence for bad input, never a traceback."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    interrupted = threading.Event()
    try:
        options = _parser().parse_args(arguments)
        options.interrupted, options.stopped = interrupted.is_set, "nothing was written"
        with _heeding(interrupted):
            options.run(options, errors)
    except RcpuError as error:
        errors.print(f"error: {error}", markup=False)
        return 2
    except (KeyboardInterrupt, Cancelled):
        errors.print(f"stopped; {options.stopped}", markup=False)
        return 130
    return 0


@contextlib.contextmanager
def _heeding(interrupted: threading.Event) -> Iterator[None]:
    """Ctrl-C raises as ever and is noted, too: an exception that meets a destructor or a callback is lost there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(*_) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _parser() -> argparse.ArgumentParser:
    name = "rcpu" if Path(sys.argv[0]).stem == "rcpu" else "python -m rcpu"
    parser = _Parser(prog=name, description=rcpu.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"rcpu {rcpu.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    model = model_flags()
    for command in COMMANDS:
        command.add(commands, model)
    return parser
