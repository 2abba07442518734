"""The app as a person meets it: a server of its own and a headless Chromium. Shared by tests and `make screenshots`."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: No sandbox, because CI runs as root; no background traffic, because there may be no network.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
#: With scrollbars, as people have them: they take room.
LAUNCH = {"executable_path": CHROMIUM, "args": FLAGS, "ignore_default_args": ["--hide-scrollbars"]}


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def begin(log: Path, port: int, **variables: str) -> subprocess.Popen:
    """Serve the app on a port; returns when it answers."""
    command = [sys.executable, "-m", "streamlit", "run", "app/server.py", "--server.port", str(port)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", **variables}
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=environment)
    for _ in range(300):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1):
            break
        if server.poll() is not None:
            raise RuntimeError(f"the app ended at once:\n{log.read_text()}")
        time.sleep(0.2)
    return server


@contextlib.contextmanager
def app(log: Path, **variables: str) -> Iterator[str]:
    """Serve the app on a free port of this machine; yields its address and stops it at the end."""
    server = begin(log, port := free_port(), **variables)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=20)


@contextlib.contextmanager
def browser():
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(**LAUNCH)
        try:
            yield chromium
        finally:
            chromium.close()
