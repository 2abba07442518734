"""Sweeps: every cell a run of the store; what is there is not done again; a worker that dies costs a retry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import rcpu
from rcpu.cli import main
from rcpu.runs import engines, open_store
from rcpu.runs.sweep import read_grid, run_cell
from tests import tiny
from tests.runs.dying import die_once, work


@pytest.fixture
def grid(model_folder, text_file, tmp_path) -> Path:
    """Two ratios and two seeds of one recipe."""
    settings = {"text": str(text_file), "samples": 4, "held_out": 1, "window": 16}
    said = {
        "models": [str(model_folder)],
        "recipes": [settings],
        "vary": {"ratio": [0.2, 0.4]},
        "seeds": [0, 1],
        "measures": [{"kind": "perplexity", "text": str(text_file), "window": 16, "limit": 4}],
        "device": "cpu",
    }
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(said))
    return path


def dies_once(cell: dict) -> dict:
    """A worker that the system kills at its first cell of seed 1."""
    die_once(cell)
    return run_cell(cell)


def cells_of(grid: Path, tmp_path: Path):
    return read_grid(grid, tmp_path / "home")


def test_a_grid_is_every_combination_once(grid, tmp_path):
    cells = cells_of(grid, tmp_path)
    assert [(c.recipe["ratio"], c.recipe["seed"]) for c in cells] == [(0.2, 0), (0.2, 1), (0.4, 0), (0.4, 1)]
    assert len({c.name for c in cells}) == 4
    assert all(json.loads(json.dumps(c.recipe)) for c in cells)
    said = yaml.safe_load(grid.read_text())
    grid.write_text(yaml.safe_dump({**said, "recipes": said["recipes"] * 2, "vary": {}, "seeds": [0, 0]}))
    assert len(cells_of(grid, tmp_path)) == 1


def test_cells_are_runs_and_a_second_sweep_finds_them(grid, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RCPU_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(
        engines, "ENGINES", {"local": lambda cells, **_: (engines.Done(**run_cell(vars(c))) for c in cells)}
    )
    monkeypatch.setattr("rcpu.cli.sweep.ENGINES", engines.ENGINES)
    record = tmp_path / "told.json"
    assert main(["sweep", str(grid), "--json", str(record)]) == 0
    told = json.loads(record.read_text())["cells"]
    assert len(open_store(tmp_path / "home").runs()) == 4
    assert [c["found"] for c in told] == [False] * 4
    assert all(c["answers"][0]["perplexity"] > 1 for c in told)
    warned = "stands in the calibration text words.txt too: that flatters"
    assert all(warned in c["notes"][0] for c in told), "the grid measures on what it calibrates on"
    assert capsys.readouterr().err.replace("\n", " ").count("that flatters pruned models") == 4
    assert main(["sweep", str(grid)]) == 0
    assert capsys.readouterr().err.count("was there already") == 4
    assert len(open_store(tmp_path / "home").runs()) == 4


def test_a_worker_of_this_machine_that_dies_costs_a_retry_and_takes_no_other_cell_along(grid, tmp_path):
    done = {d.name: d for d in engines.local(cells_of(grid, tmp_path), work=work, at_once=2)}
    cells = cells_of(grid, tmp_path)
    assert done.keys() == {c.name for c in cells}
    assert (tmp_path / "home" / "died-0.4").exists()
    for cell in cells:
        always = (cell.recipe["seed"], cell.recipe["ratio"]) == (1, 0.2)
        assert done[cell.name].error == (engines.DIED if always else "")


def test_the_script_that_calls_is_not_run_by_its_processes(grid, tmp_path):
    """As a page of the app would be, which stands for ``__main__`` while it is drawn, or a script without a guard."""
    script = tmp_path / "script.py"
    script.write_text(f"""
from pathlib import Path
from rcpu.runs import engines
from rcpu.runs.sweep import read_grid
from tests.runs.dying import work
with open({str(tmp_path / "runs")!r}, "a") as file:
    file.write("run\\n")
cells = [c for c in read_grid(Path({str(grid)!r}), Path({str(tmp_path / "home")!r})) if c.recipe["ratio"] == 0.4]
print([done.error for done in engines.local(cells, work=work, at_once=2)])
""")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    told = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, timeout=200)
    assert told.stdout.strip() == "['', '']", told.stderr
    assert (tmp_path / "runs").read_text() == "run\n"


def test_ray_finds_every_cell_though_a_worker_is_killed(grid, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-cluster.txt")
    grid.write_text(yaml.safe_dump(yaml.safe_load(grid.read_text()) | {"vary": {"ratio": [0.2]}}))
    cells = cells_of(grid, tmp_path)
    done = list(engines.on_ray(cells, work=dies_once, at_once=2))
    assert sorted(d.name for d in done) == sorted(c.name for c in cells)
    assert not [d.error for d in done if d.error]
    assert (tmp_path / "home" / "died-0.2").exists()
    assert sum(run.state == "done" for run in open_store(tmp_path / "home").runs()) == 2


EQUAL = """
title: t
equal: decoder
axes: {method: {values: {WANDA-sp: {recipe: wanda-sp}, FLAP: {recipe: flap}, 2SSP: {recipe: 2ssp}}}}
figure: {x: ratio}
"""


@pytest.mark.parametrize("study", ["table3", "equal.yaml"])
def test_a_studys_cells_may_be_run_by_an_engine(study, model_folder, text_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RCPU_HOME", str(tmp_path / "home"))
    (tmp_path / "equal.yaml").write_text(EQUAL)
    study = str(tmp_path / study) if study.endswith(".yaml") else study
    asked = ["study", study, "--model", str(model_folder), "--device", "cpu", "--text", str(text_file)]
    asked += ["--seeds", "0", "--ratios", "0.3", "--samples", "4", "--window", "16", "--limit", "4"]
    here, ran = lambda cells, **_: (ran.append(c.name) or engines.Done(**run_cell(vars(c))) for c in cells), []
    monkeypatch.setitem(engines.ENGINES, "local", here)
    assert main([*asked, "--engine", "local"]) == 0
    runs = open_store(tmp_path / "home").runs()
    assert len(runs) == len(ran) > 2
    assert {run.name for run in runs} == set(ran)
    before = capsys.readouterr().out
    assert main(asked) == 0
    assert capsys.readouterr().out == before
    assert len(open_store(tmp_path / "home").runs()) == len(runs)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"recipe": []}, "has no key 'recipe': a grid has models"),
        ({"seeds": []}, "seeds must be a list with at least one entry"),
        ({"vary": ["ratio"]}, "vary must map settings to lists"),
        ({1: 2, "recipe": []}, "has no key 1"),
        ({"vary": {"colour": [1]}}, "unknown settings in the recipe: colour"),
        ({"vary": {1: [2]}}, "unknown settings in the recipe: 1"),
        ({"vary": {"ratio": ["a"]}}, "ratio cannot be 'a'"),
        ({"vary": {"ratio": [None]}}, "ratio cannot be None"),
        ({"vary": {"ratio": [[0.1]]}}, r"ratio cannot be \[0.1\]"),
        ({"vary": {"samples": ["4"]}}, "samples cannot be '4'"),
        ({"vary": {"samples": [4.5]}}, "samples cannot be 4.5"),
        ({"vary": {"window": [None]}}, "window cannot be None"),
        ({"vary": {"text": [5]}}, "text cannot be 5"),
        ({"vary": {"layers": ["0-1"]}}, r"layers cannot be '0-1'; write it like \[0, 1, 7\]"),
        ({"vary": {"layers": [["a"]]}}, "layers cannot be"),
        ({"vary": {"scorer": [3]}}, "scorer cannot be 3"),
        ({"vary": {"seed": [0, 1]}}, r"vary has no seed: write seeds: \[0, 1\] beside it"),
        ({"vary": {"model": ["embedded"]}}, "vary has no model: write models"),
        ({"seeds": ["a"]}, "seed cannot be 'a'"),
        ({"seeds": [None]}, "seed cannot be None"),
        ({"seeds": [1.5]}, "seed cannot be 1.5"),
        ({"models": [3]}, "model cannot be 3"),
        ({"models": [None]}, "model cannot be None"),
        ({"recipes": [{"seed": 0}]}, "a recipe has seed 0 and the grid has seeds: leave one of them out"),
        ({"recipes": [{"model": "embedded"}]}, "a recipe has model 'embedded' and the grid has models"),
        ({"device": 3}, "unknown device 3"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"measures": ["perplexity"]}, "a measure is settings like"),
        ({"measures": [{"kind": "perplexity", "limit": 0}]}, "limit cannot be 0, it is a whole number of at least 1"),
        ({"measures": [{"kind": "geometry", "limit": "a"}]}, "limit cannot be 'a'"),
        ({"measures": [{"kind": "perplexity", "window": 1}]}, "window cannot be 1"),
        ({"measures": [{"kind": "perplexity", "window": "a"}]}, "window cannot be 'a'"),
        ({"measures": [{"kind": "perplexity", "text": 5}]}, "text cannot be 5"),
        ({"measures": [{"kind": "tasks", "tasks": "piqa"}]}, "tasks cannot be 'piqa', it is a list"),
        ({"measures": [{"kind": "tasks", "few_shot": 65}]}, "few_shot cannot be 65"),
        ({"measures": [{"kind": "weight"}]}, "unknown measure 'weight'"),
        ({"recipes": ["nothing"]}, "no recipe 'nothing'"),
        ({"recipes": [3]}, "a recipe is a name, a file or settings"),
    ],
)
def test_a_grid_that_is_none_says_why(grid, tmp_path, changes, told):
    said = yaml.safe_load(grid.read_text()) | changes
    grid.write_text(yaml.safe_dump(said))
    with pytest.raises(rcpu.RcpuError, match=told):
        cells_of(grid, tmp_path)


def test_a_recipe_has_its_own_model_and_seed_where_the_grid_has_none(grid, model_folder, tmp_path):
    said = yaml.safe_load(grid.read_text())
    own = said.pop("recipes")[0] | {"seed": 5, "model": said.pop("models")[0]}
    file = tmp_path / "recipe.yaml"
    file.write_text(rcpu.Recipe(seed=6, model="elsewhere").to_yaml())
    del said["seeds"]
    grid.write_text(yaml.safe_dump(said | {"recipes": [own, str(file)], "vary": {}}))
    told = [(c.model, c.recipe["model"], c.recipe["seed"]) for c in cells_of(grid, tmp_path)]
    assert told == [(str(model_folder), str(model_folder), 5), ("elsewhere", "elsewhere", 6)]
    grid.write_text(yaml.safe_dump(said | {"recipes": [str(file)], "models": ["embedded"]}))
    with pytest.raises(rcpu.RcpuError, match="a recipe has model 'elsewhere' and the grid has models"):
        cells_of(grid, tmp_path)


def test_layers_auto_and_methods_vary_as_they_stand_in_a_recipe(grid, tmp_path):
    said = yaml.safe_load(grid.read_text()) | {"seeds": [0]}
    least = [said["recipes"][0] | {"compensation": "least_squares"}]
    grid.write_text(yaml.safe_dump(said | {"recipes": least, "vary": {"layers": [[0], [0, 1]], "ridge": ["auto", 1]}}))
    told = [(c.recipe["layers"], c.recipe["options"]["ridge"]) for c in cells_of(grid, tmp_path)]
    assert told == [((0,), None), ((0,), 1.0), ((0, 1), None), ((0, 1), 1.0)]
    grid.write_text(yaml.safe_dump(said | {"recipes": least, "vary": {"method": ["columns", "svd-llm"]}}))
    assert [c.recipe["method"] for c in cells_of(grid, tmp_path)] == ["columns", "svd-llm"]


def test_bad_input_of_a_cell_is_an_answer(grid, tmp_path):
    cell = replace(cells_of(grid, tmp_path)[0], model=str(tmp_path / "nowhere"))
    assert "no model" in run_cell(vars(cell))["error"]


def test_as_many_at_once_as_memory_allows(grid, tmp_path, monkeypatch):
    cells = cells_of(grid, tmp_path)
    need = cells[0].bytes()
    assert need > 4 * rcpu.cost(tiny.net("gqa")).parameters
    monkeypatch.setattr(engines.os, "cpu_count", lambda: 8)
    for free, expected in ((need // 2, 1), (2.5 * need, 2), (100 * need, 4)):
        monkeypatch.setattr(engines, "free_memory", lambda _, free=free: free)
        assert engines.room_for(cells) == expected


def test_an_address_is_for_ray(grid, tmp_path):
    with pytest.raises(rcpu.RcpuError, match="that of a Ray cluster"):
        list(engines.local(cells_of(grid, tmp_path), address="auto"))
