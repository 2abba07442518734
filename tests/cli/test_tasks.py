"""``python -m rcpu tasks``: tables and JSON say what the library says, and bad input is one sentence."""

import json

import pytest

import rcpu
from rcpu.cli import main
from rcpu.measure import TaskResult, compare_tasks, run_tasks


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RCPU_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    rows = [{"query": f"{i} and", "choices": [f"{i}", "no", "or"], "gold": i % 3} for i in range(12)]
    place = tmp_path / "tasks"
    place.mkdir()
    (place / "numbers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return place


@pytest.fixture(scope="module")
def other(model_folder, tmp_path_factory) -> str:
    model = rcpu.load_model(str(model_folder), "cpu")
    model.net.lm_head.weight.mul_(-1)
    out = tmp_path_factory.mktemp("models") / "upside-down"
    model.net.save_pretrained(out)
    model.tokenizer.save_pretrained(out)
    return str(out)


def test_models_are_scored_compared_and_written(model, folder, other, tmp_path, capsys):
    file = tmp_path / "x.json"
    flags = ["--device", "cpu", "--tasks-dir", str(folder), "--limit", "9", "--json", str(file)]
    assert main(["tasks", "--model", str(model.folder), other, *flags]) == 0
    expected = run_tasks(model.net, model.tokenizer, ["numbers"], folder=folder, limit=9)["numbers"]
    written = json.loads(file.read_text())
    first, second = (TaskResult.from_dict(row["tasks"]["numbers"]) for row in written["results"])
    assert first.items == expected.items
    assert [row["mean"] for row in written["results"]] == [first.score().value, second.score().value]
    made = compare_tasks(first, second)
    assert written["comparisons"][0]["p"] == made.p
    output = capsys.readouterr()
    assert f"{100 * expected.score().value:.2f}" in output.out
    assert "33.3%" in output.out, "chance stands beside it"
    assert "numbers: about" in output.err, "the time is told before it begins"
    assert list((tmp_path / "cache" / "tasks").glob("*.sqlite")), "answers are kept"


def test_embedded_is_what_is_run_unless_said_otherwise(model, capsys):
    assert main(["tasks", "--model", str(model.folder), "--device", "cpu", "--limit", "3", "--no-cache"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("last_word", "continuation", "acc_norm", "perplexity", "mean"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--tasks", ","], "--tasks names none"),
        (["--tasks", "numbers", "--batch", "many"], "batch is auto or a number of requests from 1, got 'many'"),
        (["--limit", "0"], "at least one item a task"),
        (["--few-shot", "-1"], "few-shot is the number"),
        (["--tasks-dir", "/no/such"], "/no/such is not a folder"),
        (["--tasks", "boolq"], "cannot get the data of the task 'boolq' from the hub"),
    ],
)
def test_bad_input_is_one_line(model, arguments, told, capsys):
    assert main(["tasks", "--model", str(model.folder), "--device", "cpu", *arguments]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert told in last
