"""What a container may still use of its machine's memory: the limits of control groups, version 1 and 2."""

from __future__ import annotations

import re
from pathlib import Path

#: By version: where groups lie, limit, usage, and what of the usage is a cache of files that goes when it is needed.
FILES = {
    1: ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
}


def free_in_container(root: Path = Path("/")) -> int | None:
    """Bytes left to this process by the tightest limit of its group and those above; None where there is none."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return None
    found = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        version = 2 if number == "0" and not controllers else 1
        if version == 1 and "memory" not in controllers.split(","):
            continue
        top = root / FILES[version][0]
        group = top / path.lstrip("/")  # not there where the container sees its own group as the top
        for folder in (group, *group.parents):
            found.append(_left(folder, version))
            if folder == top:
                break
    return min((left for left in found if left is not None), default=None)


def _left(folder: Path, version: int) -> int | None:
    _, limit, usage, cache = FILES[version]
    try:
        most = int((folder / limit).read_text(encoding="utf-8"))  # "max" is no number, nor a limit
        used = int((folder / usage).read_text(encoding="utf-8"))
        stat = (folder / "memory.stat").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    reclaimed = re.search(rf"^{cache} (\d+)$", stat, re.MULTILINE)
    return max(0, most - used + int(reclaimed[1] if reclaimed else 0))
