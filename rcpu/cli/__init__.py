"""The command line: ``python -m rcpu COMMAND``, or ``rcpu COMMAND`` where the package is installed.

Results go to standard output, progress and remarks to standard error. Exit codes: 0 done, 2 bad input or a
system that refuses, 130 stopped by Ctrl-C or another signal.
"""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path

import rcpu
from rcpu.base.errors import OUT_OF_MEMORY, Cancelled, RcpuError, out_of_memory
from rcpu.cli import app, export, generate, methods, perplexity, prune, push, report, runs, study, sweep, tasks
from rcpu.cli.common import model_flags
from rcpu.cli.terminal import Remarks, heeding, ready_streams, silence

#: A file a command, in the order of the help.
COMMANDS = (prune, perplexity, tasks, study, sweep, generate, runs, export, push, report, methods, app)


NOTHING = "nothing was written"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise RcpuError(f"{message} (see {self.prog} --help)")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; one plain sentence for bad input, never a traceback."""
    ready_streams()
    errors = Remarks()
    interrupted = threading.Event()
    options = argparse.Namespace(json=None)
    try:
        options = _parser().parse_args(arguments, options)
        options.interrupted, options.stopped = interrupted.is_set, NOTHING
        with heeding(interrupted):
            options.run(options, errors)
            sys.stdout.flush()
    except RcpuError as error:
        return _refused(errors, str(error))
    except (KeyboardInterrupt, Cancelled):
        errors.print(f"stopped; {options.stopped}", markup=False)
        return 130
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            silence(sys.stdout)
        told = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or "the output was closed"
        written = f"; the results are in {options.json}" if options.json and options.json.exists() else ""
        return _refused(errors, f"could not go on: {told[0].lower()}{told[1:]}{written}")
    except SystemExit:  # of help
        try:
            sys.stdout.flush()
        except OSError:
            silence(sys.stdout)
        raise
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        kept = "" if options.stopped == NOTHING else f"; {options.stopped}"
        return _refused(errors, OUT_OF_MEMORY + kept)
    return 0


def _refused(errors: Remarks, message: str) -> int:
    errors.print(f"error: {message}", markup=False)
    return 2


def _parser() -> argparse.ArgumentParser:
    name = "rcpu" if Path(sys.argv[0]).stem == "rcpu" else "python -m rcpu"
    parser = _Parser(prog=name, description=rcpu.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"rcpu {rcpu.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    model = model_flags()
    for command in COMMANDS:
        command.add(commands, model)
    return parser
