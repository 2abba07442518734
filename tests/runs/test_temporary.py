"""Stores that end with their process, however it ends."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rcpu.runs import temporary_store

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("killed", [False, True], ids=["ended", "killed"])
def test_nothing_outlives_its_process(tmp_path, monkeypatch, killed):
    script = """if True:
        import os, sys
        from rcpu.runs.temporary import temporary_store
        store = temporary_store()
        with store.begin(name="x", recipe={}, content="", fingerprint="", about={}) as run:
            run.finish({})
        print(store.folder, flush=True)
        sys.stdin.read()
    """
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    pipes = {"env": environment, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, **pipes)
    folder = Path(process.stdout.readline().strip())
    assert folder.parent == tmp_path
    assert (folder / "runs.sqlite").exists()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine = temporary_store()
    assert folder.exists(), "another process lives in it"
    if killed:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    if killed:
        temporary_store()
    assert not folder.exists()
    assert mine.folder.exists()
