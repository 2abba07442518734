"""What a run tells people to type gives the same run."""

import shlex

import pytest

import rcpu
from rcpu.cli import _parser
from rcpu.cli.flags import recipe_of
from rcpu.runs import command_of, load_result, open_store, prune_into, python_of
from tests import tiny

CASES = {
    "usual": {},
    "columns": {"ratio": 0.3, "scorer": "flap", "compensation": "least_squares", "ridge": None, "layers": (0, 2)},
    "ratios": {"ratios": ((1, 0.0), (2, 0.4)), "sites": ("down_proj",), "proper": True, "seed": 7},
}


@pytest.fixture
def made(tmp_path, model, text_file):
    def make(**settings):
        recipe = rcpu.Recipe(model=str(model.folder), text=str(text_file), samples=6, window=16, held_out=2, **settings)
        counts = {name: getattr(recipe, name) for name in ("samples", "window", "held_out", "seed")}
        windows = rcpu.calibration_windows(rcpu.load_text(recipe.text), model.tokenizer, **counts)
        store = open_store(tmp_path / "home")
        return store, prune_into(store, model, windows, recipe)[0]

    return make


@pytest.mark.parametrize("case", CASES)
def test_the_command_has_the_same_recipe(made, case):
    _, run = made(**CASES[case])
    words = shlex.split(command_of(run))
    assert words[:4] == ["python", "-m", "rcpu", "prune"]
    assert recipe_of(_parser().parse_args(words[3:])) == rcpu.Recipe.from_dict(run.recipe)


@pytest.mark.parametrize("case", CASES)
def test_the_ten_lines_make_the_same_model(made, case, tmp_path, model, monkeypatch, capsys):
    store, run = made(**CASES[case])
    lines = python_of(run)
    assert len(lines.splitlines()) == 10
    monkeypatch.chdir(tmp_path)
    exec(lines, {})
    saved = rcpu.load_model(str(tmp_path / "pruned-model"), device="cpu", dtype="fp32")
    assert tiny.logits(saved.net).equal(tiny.logits(load_result(store, run, model).net))
    assert capsys.readouterr().out.strip() == str(run.about["parameters_after"])
