"""``python -m rcpu push``: an exported folder and its card to the hub, or what would go there."""

from __future__ import annotations

from rich.console import Console

from rcpu.base import existing
from rcpu.base.errors import RcpuError
from rcpu.cli.common import output
from rcpu.compact import check_repository, files_of, upload


def add(commands, _) -> None:
    """Declare the command's flags."""
    push = commands.add_parser("push", help="upload an exported folder and its card to the hub")
    push.add_argument("repo", metavar="OWNER/NAME", help="the repository, made if it is not there")
    push.add_argument("--folder", required=True, metavar="DIR", help="what prune --out or export has written")
    push.add_argument("--private", action="store_true", help="a new repository is private")
    push.add_argument("--dry-run", action="store_true", help="say what would go, and send nothing")
    push.set_defaults(run=_push)


def _push(options, console: Console) -> None:
    check_repository(options.repo)
    folder = existing(options.folder)
    if folder is None or not folder.is_dir():
        raise RcpuError(f"{options.folder} is no folder: export a model first")
    files, out = files_of(folder), output()
    for path in files:
        out.print(f"{path.stat().st_size:>14,} {path.name}", markup=False)
    told = f"{len(files)} files, {sum(path.stat().st_size for path in files) / 2**20:,.1f} MiB"
    if options.dry_run:
        out.print(f"{told}, would go to {options.repo}; nothing was sent", markup=False)
        return
    out.print(f"{told}, are at {upload(folder, options.repo, options.private)}", markup=False)
