"""The house: rooms in the order of the data, no arrow against it, no file too long to hold in mind."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: A room imports only those before it.
ROOMS = ("base", "text", "models", "statistics", "compact", "methods", "pruning", "measure", "explain", "runs", "cli")
LONGEST = 350  # lines


def library_imports(path: Path) -> list[str]:
    """Every module of rcpu that a file imports, wherever in the file it does."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found += [node.module] if node.module != "rcpu" else [f"rcpu.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [name for name in found if name.split(".")[0] == "rcpu"]


def files(*folders: str) -> list[Path]:
    """Python files below these folders."""
    return [f for folder in folders for f in sorted((ROOT / folder).rglob("*.py"))]


def test_every_room_is_known():
    assert {f.parent.name for f in files("rcpu") if f.parent.name != "rcpu"} <= set(ROOMS)


@pytest.mark.parametrize("room", ROOMS[:-1])
def test_no_import_runs_against_the_order_of_the_rooms(room):
    allowed = ROOMS[: ROOMS.index(room) + 1]
    for path in files(f"rcpu/{room}"):
        for name in library_imports(path):
            assert len(name.split(".")) > 1, f"{path}: a room does not import the whole of rcpu"
            assert name.split(".")[1] in allowed, f"{path} imports {name}"


def test_pages_and_app_import_public_names_only():
    for path in files("app", "pages"):
        for name in library_imports(path):
            assert len(name.split(".")) <= 2, f"{path} imports {name}: take it from its room"


def test_the_library_knows_no_user_interface():
    for path in files("rcpu"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(n.split(".")[0] in ("streamlit", "app", "plotly") for n in names), path


def test_no_file_is_too_long():
    lengths = {str(f.relative_to(ROOT)): len(f.read_text().splitlines()) for f in files("rcpu", "app", "pages")}
    assert {f: n for f, n in lengths.items() if n > LONGEST} == {}
