"""Recipes that ship by name: published settings with their source, each a YAML file in recipes/."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources

from rcpu.base.errors import RcpuError, meant
from rcpu.base.paths import existing
from rcpu.pruning.recipe import Recipe, read_yaml

SUFFIX = ".yaml"


@dataclass(frozen=True)
class Published:
    """A recipe with a name: what it is, and where its settings come from."""

    recipe: Recipe
    about: str
    source: str
    text: str  # as its file has it


class Library(Mapping[str, Published]):
    """The recipes that ship with the library, by name; a file is read when it is first asked for."""

    def __init__(self) -> None:
        self._folder = resources.files("rcpu.pruning") / "recipes"
        self._read: dict[str, Published] = {}

    def __getitem__(self, name: str) -> Published:
        if name not in self._read:
            if name not in set(self):
                raise KeyError(name)
            text = (self._folder / f"{name}{SUFFIX}").read_text(encoding="utf-8")
            values = read_yaml(text)
            about, source = values.get("about", ""), values.get("source", "")
            self._read[name] = Published(Recipe.from_yaml(text), about, source, text)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(f.name.removesuffix(SUFFIX) for f in self._folder.iterdir() if f.name.endswith(SUFFIX)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


RECIPES = Library()


def load_recipe(name: str) -> Recipe:
    """The recipe of that name, or of a YAML file.

    Raises:
        RcpuError: there is neither, or the file is no recipe.
    """
    if name in RECIPES:
        return RECIPES[name].recipe
    path = existing(name)
    if path is None or not path.is_file():
        if name.endswith((SUFFIX, ".yml")):
            raise RcpuError(f"there is no file {name}: give a YAML file, or one of {', '.join(RECIPES)}")
        raise RcpuError(f"no recipe {name!r}: give one of {', '.join(RECIPES)}, or a YAML file{meant(name, RECIPES)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RcpuError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from error
    try:
        return Recipe.from_yaml(text)
    except RcpuError as error:
        raise RcpuError(f"{path}: {error}") from error
