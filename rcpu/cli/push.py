"""``python -m rcpu push``: an exported folder and its card to the hub, or what would go there."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from rcpu.base import existing
from rcpu.base.errors import RcpuError
from rcpu.base.hub import unreachable
from rcpu.cli.common import output
from rcpu.compact.export import RECORD
from rcpu.models import HUB_ID


def add(commands, _) -> None:
    """Declare the command's flags."""
    push = commands.add_parser("push", help="upload an exported folder and its card to the hub")
    push.add_argument("repo", metavar="OWNER/NAME", help="the repository, made if it is not there")
    push.add_argument("--folder", required=True, metavar="DIR", help="what prune --out or export has written")
    push.add_argument("--private", action="store_true", help="a new repository is private")
    push.add_argument("--dry-run", action="store_true", help="say what would go, and send nothing")
    push.set_defaults(run=_push)


def files_of(folder: Path) -> list[Path]:
    """What would be uploaded of an export: what its writing wrote, and nothing that was put there since.

    Raises:
        RcpuError: it is not an export of ours.
    """
    try:
        written = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RcpuError(f"{folder} is no export (it has no {RECORD} that names its files): export it first") from error
    found = [folder / name for name in sorted({*written, RECORD}) if Path(name).name == name]
    if missing := [path.name for path in found if not path.is_file()]:
        raise RcpuError(f"{folder} lacks {missing[0]}, which was written with it: export it again")
    return found


def _push(options, console: Console) -> None:
    if not HUB_ID.fullmatch(options.repo):
        raise RcpuError(f"{options.repo!r} is no repository: give OWNER/NAME")
    folder = existing(options.folder)
    if folder is None or not folder.is_dir():
        raise RcpuError(f"{options.folder} is no folder: export a model first")
    files, out = files_of(folder), output()
    for path in files:
        out.print(f"{path.stat().st_size:>14,} {path.name}", markup=False)
    total = sum(path.stat().st_size for path in files)
    if options.dry_run:
        out.print(f"{len(files)} files, {total / 2**20:,.1f} MiB, would go to {options.repo}; nothing was sent")
        return
    if away := unreachable():
        raise RcpuError(f"cannot reach the hub ({away}): nothing was sent")
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(options.repo, private=options.private, exist_ok=True)
        done = api.upload_folder(repo_id=options.repo, folder_path=folder, allow_patterns=[path.name for path in files])
    except Exception as error:  # the hub client raises its own, the HTTP library's and the system's errors
        words = " ".join(str(error).split())[:200]
        raise RcpuError(f"the hub refused {options.repo}: {words}; `hf auth login` sets your token") from error
    out.print(f"{len(files)} files, {total / 2**20:,.1f} MiB, are at {done.commit_url}", markup=False)
