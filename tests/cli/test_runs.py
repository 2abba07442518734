"""Runs that the command line keeps: listed, shown, gone on with, saved, deleted; and what happens where none can be."""

import json
import sqlite3

import pytest

import rcpu
import rcpu.runs.pruned as pruned
from rcpu.cli import main
from rcpu.measure import TaskResult
from rcpu.runs import open_store, task_results
from tests import tiny

SMALL = ["--samples", "6", "--held-out", "2", "--window", "16"]


@pytest.fixture
def prune(home, model_folder, text_file) -> list[str]:
    """Arguments of a quick pruning into a store of this test alone."""
    return ["prune", "--model", str(model_folder), "--device", "cpu", "--text", str(text_file), *SMALL]


def test_a_prune_without_a_folder_is_kept_and_can_be_measured_continued_and_saved(prune, text_file, tmp_path, capsys):
    assert main([*prune, "--name", "mine", "--ratio", "0.3", "--json", str(tmp_path / "prune.json")]) == 0
    (run,) = open_store().runs()
    assert f"kept as 'mine' ({run.id})" in capsys.readouterr().out
    record = json.loads((tmp_path / "prune.json").read_text())
    assert record["run"] == {"id": run.id, "name": "mine"}
    assert record["out"] is None
    assert main(["runs", "save", "mine", "--device", "cpu", "--out", str(tmp_path / "out")]) == 0
    assert main([*prune, "--ratio", "0.3", "--no-store", "--out", str(tmp_path / "again")]) == 0
    ours, theirs = (rcpu.load_model(str(tmp_path / name), device="cpu") for name in ("out", "again"))
    assert tiny.logits(ours.net).equal(tiny.logits(theirs.net)), "a run that is kept is the model that was made"
    measure = ["perplexity", "--device", "cpu", "--text", str(text_file), "--window", "16", "--max-windows", "4"]
    found = []
    for name in ("run:mine", str(tmp_path / "again")):
        assert main([*measure, "--model", name, "--json", str(tmp_path / "p.json")]) == 0
        found.append(json.loads((tmp_path / "p.json").read_text()))
    assert found[0]["perplexity"] == found[1]["perplexity"]
    assert (
        main(["generate", "--device", "cpu", "--model", f"run:{run.id}", "--prompt", "a", "--max-new-tokens", "3"]) == 0
    )
    kept = {m.kind: m.value for m in open_store().measures.all(run.id)}
    assert kept.keys() == {"perplexity", "generation"}
    assert kept["perplexity"]["perplexity"] == found[0]["perplexity"]
    capsys.readouterr()
    assert main(["runs", "--json", str(tmp_path / "runs.json")]) == 0
    told, listed = capsys.readouterr().out, json.loads((tmp_path / "runs.json").read_text())
    assert "mine" in told
    assert f"{found[0]['perplexity']:.2f}" in told
    assert [row["id"] for row in listed["runs"]] == [run.id]
    assert main(["runs", "show", "mine", "--json", str(tmp_path / "show.json")]) == 0
    told, shown = capsys.readouterr().out, json.loads((tmp_path / "show.json").read_text())
    assert "ratio: 0.3" in told
    assert "as padded it loads in transformers 5, transformers 4, vLLM, llama.cpp\n" in told
    assert f"perplexity {found[0]['perplexity']:.3f}" in told
    assert [s["error_none"] for s in shown["sites"]] == [s["error_none"] for s in record["sites"]]
    assert {m["kind"] for m in shown["measures"]} == {"perplexity", "generation"}
    assert main(["runs", "show", "mine", "--recipe"]) == 0
    assert rcpu.Recipe.from_yaml(capsys.readouterr().out) == rcpu.Recipe.from_dict(run.recipe)
    assert main(["runs", "delete", "mine"]) == 0
    assert "1 runs deleted" in capsys.readouterr().out
    assert open_store().runs() == open_store().measures.all(run.id) == []


def test_a_name_is_taken_once(prune, capsys):
    assert main([*prune, "--name", "mine"]) == 0
    assert main([*prune, "--name", "mine"]) == 2
    assert "there is a run called 'mine' already" in capsys.readouterr().err
    assert main(prune) == main(prune) == 0, "those that were given none share theirs"
    assert len(open_store().runs()) == 3


def test_no_store_keeps_nothing(prune, home):
    assert main([*prune, "--no-store"]) == 0
    assert list(home.iterdir()) == []


def test_a_run_that_was_stopped_goes_on(prune, tmp_path, monkeypatch, capsys):
    plain, seen = pruned.prune, []

    def stopping(*arguments, progress, **options):
        def noting(p):
            progress(p)
            seen.append(p.site)
            if sum(s is not None for s in seen) == 4:
                raise KeyboardInterrupt

        return plain(*arguments, progress=noting, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pruned, "prune", stopping)
        assert main([*prune, "--name", "mine"]) == 130
    (run,) = open_store().runs()
    assert run.state == "cancelled"
    assert capsys.readouterr().err.splitlines()[-1] == f"stopped; what was done is kept: go on with --resume {run.id}"
    assert main(["runs", "show", "mine"]) == 0
    assert f"go on with it: python -m rcpu prune --resume {run.id}" in capsys.readouterr().out
    assert main(["prune", "--resume", "mine", "--device", "cpu", "--out", str(tmp_path / "out")]) == 0
    assert main([*prune, "--no-store", "--out", str(tmp_path / "whole")]) == 0
    ours, theirs = (rcpu.load_model(str(tmp_path / name), device="cpu") for name in ("out", "whole"))
    assert tiny.logits(ours.net).equal(tiny.logits(theirs.net))
    assert main(["prune", "--resume", "mine", "--device", "cpu"]) == 2
    assert "is finished" in capsys.readouterr().err


def test_gates_that_were_stopped_go_on(prune, tmp_path, monkeypatch, capsys):
    plain, flags = pruned.prune, [*prune, "--method", "flop", "--steps", "3"]

    def stopping(*arguments, progress, **options):
        def noting(p):
            progress(p)
            if p.message.startswith("step 3,"):
                raise KeyboardInterrupt

        return plain(*arguments, progress=noting, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pruned, "prune", stopping)
        assert main([*flags, "--name", "mine"]) == 130
    told = capsys.readouterr().err
    assert "3 steps, each a forward pass" in told
    (run,) = open_store().runs()
    assert run.state == "cancelled"
    assert open_store().parts(run.id) == ["state"]
    assert main(["prune", "--resume", "mine", "--device", "cpu", "--out", str(tmp_path / "out")]) == 0
    assert main([*flags, "--no-store", "--out", str(tmp_path / "whole")]) == 0
    ours, theirs = (rcpu.load_model(str(tmp_path / name), device="cpu") for name in ("out", "whole"))
    assert tiny.logits(ours.net).equal(tiny.logits(theirs.net))


def test_what_did_not_end_can_be_deleted_at_once(prune, capsys):
    assert main(prune) == 0
    store = open_store()
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), store.begin(name="x", recipe={}, content="", fingerprint="", about={}):
            raise error
    assert main(["runs", "delete", "--unfinished"]) == 0
    assert "2 runs deleted" in capsys.readouterr().out
    assert [run.state for run in store.runs()] == ["done"]


def newer(home):
    open_store()
    with sqlite3.connect(home / "runs.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    return "newer version"


def unmade(home):
    home.rmdir()
    home.write_text("a file in its place")
    return "cannot make the run store"


@pytest.mark.parametrize("spoil", [newer, unmade])
def test_where_no_run_can_be_kept_pruning_and_measuring_work_and_say_so(
    prune, home, text_file, tmp_path, capsys, spoil
):
    sentence = spoil(home)
    assert main([*prune, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    assert "note: this run is not kept: " in told.err
    assert sentence in told.err
    assert "kept as" not in told.out
    measure = ["perplexity", "--model", str(tmp_path / "out"), "--device", "cpu", "--text", str(text_file)]
    assert main([*measure, "--window", "16"]) == 0
    assert main(["generate", "--model", str(tmp_path / "out"), "--device", "cpu", "--prompt", "a"]) == 0
    for command in (["runs"], ["runs", "show", "x"], ["prune", "--resume", "x"]):
        assert main(command) == 2
        assert sentence in capsys.readouterr().err


def test_names_of_people_are_not_markup(prune, capsys):
    assert main([*prune, "--name", "[red]a[/red] [b"]) == 0
    capsys.readouterr()
    assert main(["runs"]) == main(["runs", "show", "[red]a[/red] [b"]) == 0
    assert capsys.readouterr().out.count("[red]a[/red] [b") == 2


def test_results_of_tasks_are_kept_with_their_run(prune, tmp_path, capsys):
    rows = [{"query": f"{i} and", "choices": [" one", " two"], "gold": i % 2} for i in range(4)]
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main([*prune, "--name", "mine"]) == 0
    made = tmp_path / "tasks.json"
    ask = ["tasks", "--model", "run:mine", "--device", "cpu", "--tasks-dir", str(folder), "--json", str(made)]
    assert main([*ask, "--no-cache"]) == 0
    (run,) = open_store().runs()
    (kept,) = task_results(open_store(), run.id)
    told = json.loads(made.read_text())["results"][0]["tasks"]["mine"]
    assert kept == TaskResult.from_dict(told)
    capsys.readouterr()
    assert main(["runs", "show", "mine"]) == 0
    assert f"mine, {kept.main} {kept.score().value:.4f} on 4 items" in capsys.readouterr().out
