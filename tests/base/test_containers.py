"""Limits of control groups, from made-up /proc and /sys trees."""

from pathlib import Path

import psutil
import pytest
import torch

from rcpu.base.containers import free_in_container
from rcpu.models import devices


def make(root: Path, cgroup: str, **groups: tuple[str, int, int]) -> Path:
    """A tree with /proc/self/cgroup and groups: limit, usage and inactive cache of each folder."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for folder, (limit, used, cache) in groups.items():
        path = root / "sys/fs/cgroup" / folder.strip("/")
        path.mkdir(parents=True, exist_ok=True)
        old = folder.startswith("memory")
        (path / ("memory.limit_in_bytes" if old else "memory.max")).write_text(f"{limit}\n")
        (path / ("memory.usage_in_bytes" if old else "memory.current")).write_text(f"{used}\n")
        name = "total_inactive_file" if old else "inactive_file"
        (path / "memory.stat").write_text(f"anon 5\n{name} {cache}\nfile 7\n")
    return root


def test_version_2_takes_the_tightest_of_a_group_and_those_above(tmp_path):
    groups = {"/": ("max", 10, 0), "/a": (1000, 300, 100), "/a/b": (2000, 200, 0)}
    assert free_in_container(make(tmp_path, "0::/a/b\n", **groups)) == 800


def test_version_2_inside_a_container_sees_itself_as_the_top(tmp_path):
    assert free_in_container(make(tmp_path, "0::/\n", **{"/": (4096, 1000, 24)})) == 3120


def test_version_1_by_the_line_of_its_memory_controller(tmp_path):
    lines = "9:name=systemd:/x\n4:memory:/docker/ab\n3:cpu,cpuacct:/\n0::/\n"
    assert free_in_container(make(tmp_path, lines, **{"memory/docker/ab": (500, 100, 50)})) == 450


def test_version_1_whose_group_is_mounted_as_the_top(tmp_path):
    assert free_in_container(make(tmp_path, "4:memory:/docker/ab\n", memory=(500, 100, 0))) == 400


@pytest.mark.parametrize("limit", ["max", "nonsense"])
def test_no_limit(tmp_path, limit):
    assert free_in_container(make(tmp_path, "0::/\n", **{"/": (limit, 5, 0)})) is None
    assert free_in_container(tmp_path / "no linux") is None


def test_more_than_the_limit_in_use_is_nothing_free(tmp_path):
    assert free_in_container(make(tmp_path, "0::/\n", **{"/": (100, 300, 0)})) == 0


def test_a_container_counts_as_the_machine(monkeypatch):
    machine = psutil.virtual_memory().available
    monkeypatch.setattr(devices, "free_in_container", lambda: 12345)
    assert devices.free_memory(torch.device("cpu")) == 12345
    monkeypatch.setattr(devices, "free_in_container", lambda: 2**60)
    assert abs(devices.free_memory(torch.device("cpu")) - machine) < 2**30
