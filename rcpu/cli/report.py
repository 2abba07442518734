"""``python -m rcpu report``: runs and studies as one page that needs nothing else."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rich.console import Console

from rcpu.base.errors import RcpuError
from rcpu.cli.common import a_path
from rcpu.runs import collect_report, open_store, report_html
from rcpu.runs.reports import check_page


def add(commands, _) -> None:
    """Declare the command's flags."""
    report = commands.add_parser(
        "report",
        help="write runs and studies as one page with figures, tables and verdicts",
        description="An earlier report among the names is added to: bring it along from another machine.",
    )
    report.add_argument(
        "names", nargs="+", metavar="RUN_OR_STUDY", help="a run, a study, the JSON of `study --json`, or a report"
    )
    report.add_argument("--out", type=a_path, required=True, metavar="FILE", help="the page, e.g. report.html")
    report.add_argument("--overwrite", action="store_true", help="replace --out even if it is no earlier report")
    report.set_defaults(run=_report)


def _report(options, console: Console) -> None:
    out = options.out
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise RcpuError(f"--out {out}: expected a file in a folder that exists")
    if out.suffix != ".html":
        raise RcpuError(f"--out {out}: a report is an HTML file, give a name that ends in .html")
    check_page(out, options.overwrite)
    page = report_html(collect_report(open_store(), options.names))
    try:
        handle, name = tempfile.mkstemp(prefix=out.name, suffix=".tmp", dir=out.absolute().parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
        temporary = Path(name)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(out)
    except OSError as error:
        raise RcpuError(f"cannot write {out}: {error.strerror}") from error
    console.print(f"wrote {out}, {out.stat().st_size / 2**20:.1f} MiB", markup=False)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
