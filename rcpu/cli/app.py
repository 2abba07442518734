"""``python -m rcpu app``: serve the explorer, from any folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from rich.console import Console

import rcpu
from rcpu.base.errors import RcpuError


def add(commands, model) -> None:
    """Declare the command's flags."""
    app = commands.add_parser("app", help="serve the explorer in the browser")
    app.add_argument("--port", type=int, default=8501, help="(default: %(default)s)")
    app.add_argument("--address", help="whom to listen to: 0.0.0.0 is everybody (default: this machine alone)")
    app.set_defaults(run=_app)


def explorer_folder() -> Path:
    """Where the app lies: beside the library in a checkout, in a folder of its own where the package is installed.

    Raises:
        RcpuError: only the library is here.
    """
    beside = Path(rcpu.__file__).parent.parent
    for folder in (beside, beside / "rcpu_explorer"):
        if (folder / "app" / "server.py").is_file() and (folder / "pages").is_dir():
            return folder
    raise RcpuError("the explorer is not here, only the library: install the package whole, with `pip install .`")


def server(folder: Path, port: int, address: str | None) -> tuple[list[str], dict[str, str]]:
    """Command and environment that serve the app. Paths that people type stay relative to where they are."""
    config = tomllib.loads((folder / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    environment = {**_settings(config, "STREAMLIT"), **os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), environment.get("PYTHONPATH")]))
    # -P: a folder `app` where the user is must not come before ours.
    command = [sys.executable, "-P", "-m", "streamlit", "run", str(folder / "app" / "server.py")]
    command += ["--server.port", str(port)] + (["--server.address", address] if address else [])
    return command, environment


def _settings(table: dict, prefix: str) -> dict[str, str]:
    """Streamlit's settings as variables, which weigh less than the user's own: STREAMLIT_SERVER_MAX_UPLOAD_SIZE."""
    found = {}
    for name, value in table.items():
        key = f"{prefix}_{re.sub(r'(?<=[a-z])(?=[A-Z])', '_', name).upper()}"
        found |= _settings(value, key) if isinstance(value, dict) else {key: str(value)}
    return found


def _app(options, console: Console) -> None:
    if not 0 < options.port < 65536:
        raise RcpuError(f"--port must lie between 1 and 65535, got {options.port}")
    command, environment = server(explorer_folder(), options.port, options.address)
    if code := subprocess.call(command, env=environment):
        raise RcpuError(f"the server ended with exit code {code}")
