"""An export on its way to the hub: which files would go, and their upload."""

from __future__ import annotations

import json
from pathlib import Path

from rcpu.base.errors import RcpuError
from rcpu.base.hub import unreachable
from rcpu.compact.export import RECORD
from rcpu.models.loading import HUB_ID


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


def check_repository(name: str) -> None:
    """Raise ``RcpuError`` for what is no name of a repository."""
    if not HUB_ID.fullmatch(name) or name.startswith("."):
        raise RcpuError(f"{name!r} is no repository: give OWNER/NAME")


def upload(folder: Path, repository: str, private: bool = False) -> str:
    """Upload an export's files, its card among them, and return the address of the commit.

    Raises:
        RcpuError: it is no export, the hub cannot be reached or refuses.
    """
    check_repository(repository)
    names = [path.name for path in files_of(folder)]
    if away := unreachable():
        raise RcpuError(f"cannot reach the hub ({away}): nothing was sent")
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=names)
    except Exception as error:  # the hub client raises its own, the HTTP library's and the system's errors
        words = " ".join(str(error).split())[:200]
        raise RcpuError(f"the hub refused {repository}: {words}; `hf auth login` sets your token") from error
    return done.commit_url
