"""``python -m rcpu methods``: what there is to prune by, a line each."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

import rcpu
from rcpu.base.options import options_of
from rcpu.cli.common import output


def add(commands, model) -> None:
    """Declare the command's flags: it has none."""
    methods = commands.add_parser("methods", help="list methods and named recipes")
    methods.set_defaults(run=_methods)


def _methods(options, console: Console) -> None:
    table = Table("method", "what it does", "options", "source", title="Methods (--method)", title_justify="left")
    for name, method in rcpu.METHODS.items():
        table.add_row(name, method.summary, ", ".join(options_of(method.options)), method.source)
    recipes = Table("recipe", "method", "what it is", "source", title="Recipes (--recipe)", title_justify="left")
    for name, published in rcpu.RECIPES.items():
        recipes.add_row(name, published.recipe.method, published.about, published.source)
    out = output()
    out.print(table)
    out.print(recipes)
