"""A run as what somebody else types to have the same: a command, and a few lines of Python."""

from __future__ import annotations

import shlex
from dataclasses import fields

from rcpu.base.options import options_of
from rcpu.pruning.lists import format_layers, format_ratios
from rcpu.pruning.recipe import Recipe
from rcpu.runs.records import Run


def command_of(run: Run) -> str:
    """The command line that prunes the same; what it leaves out has the usual value."""
    recipe = Recipe.from_dict(run.recipe)
    words = ["python", "-m", "rcpu", "prune"]
    for name, value in _changed(recipe).items():
        if name == "layers":
            words += ["--layers", format_layers(value)]
        elif name == "ratios":
            words += ["--layer-ratios", format_ratios(value)]
        elif name == "sites":
            words += ["--sites", ",".join(value)]
        else:
            rows = options_of(type(recipe.options))
            words += [f"--{name.replace('_', '-')}", rows[name].written(value) if name in rows else str(value)]
    words += [] if run.about["dtype"] == "fp32" else ["--dtype", run.about["dtype"]]
    return shlex.join(words)


def python_of(run: Run) -> str:
    """A script of ten lines that prunes the same with the library and saves it."""
    recipe = Recipe.from_dict(run.recipe)
    settings = ", ".join(f"{name}={value!r}" for name, value in _changed(recipe).items())
    return "\n".join(
        [
            "import rcpu",
            "",
            f"recipe = rcpu.Recipe({settings})",
            f'model = rcpu.load_model(recipe.model, dtype="{run.about["dtype"]}")',
            'counts = {name: getattr(recipe, name) for name in ("samples", "window", "held_out", "seed")}',
            "text = rcpu.load_text(recipe.text)",
            "windows = rcpu.calibration_windows(text, model.tokenizer, **counts)",
            "result = rcpu.prune(model.net, windows, recipe)",
            'rcpu.save(model, result, "pruned-model")',
            "print(rcpu.cost(result.net).parameters)",
        ]
    )


def _changed(recipe: Recipe) -> dict[str, object]:
    """The settings that are not the usual ones, options of the method among them."""
    usual = Recipe(recipe.method)
    names = [f.name for f in fields(Recipe) if f.name != "options"] + list(options_of(type(recipe.options)))
    changed = {name: getattr(recipe, name) for name in names if getattr(recipe, name) != getattr(usual, name)}
    return ({} if recipe.method == "columns" else {"method": recipe.method}) | changed
