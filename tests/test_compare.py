"""``make compare`` on a tiny model: rows that are there are not run again, and the table stands in a text."""

import json
import subprocess
import sys

import pytest

import rcpu
from tests import compare


@pytest.fixture
def flags(model_folder, text_file, tmp_path, monkeypatch) -> list[str]:
    """A quick call: a tiny model, and all rows in this process."""
    monkeypatch.setattr(compare, "each_alone", map)
    text = ["--model", str(model_folder), "--text", str(text_file), "--evaluation", str(text_file)]
    counts = ["--samples", "6", "--held-out", "1", "--windows", "3", "--ratios", "0.1,0.3"]
    return [*text, *counts, "--recipes", "wanda-sp,slicegpt", "--json", str(tmp_path / "compare.json")]


def test_rows_are_kept_and_the_table_stands_in_a_text(flags, tmp_path, monkeypatch, capsys):
    file, readme = tmp_path / "compare.json", tmp_path / "README.md"
    readme.write_text("before\n<!-- compare -->\nold\n<!-- /compare -->\nafter\n")
    compare.main([*flags, "--into", str(readme)])
    rows = json.loads(file.read_text())
    dense, *others = rows
    assert (dense["recipe"], dense["less"], dense["decoder"]) == ("dense", 0.0, 1.0)
    assert [(r["less"], r["recipe"]) for r in others] == [
        (0.1, "wanda-sp"), (0.1, "slicegpt"), (0.3, "wanda-sp"), (0.3, "slicegpt")
    ]  # fmt: skip
    assert all(abs(r["decoder"] - (1 - r["less"])) < 0.05 for r in others), "whole units of a tiny model"
    told = readme.read_text()
    assert told.startswith("before\n<!-- compare -->\nEmbedded model, 6 × 128 tokens")
    assert told.endswith("|\n<!-- /compare -->\nafter\n")
    assert "old" not in told.splitlines()
    assert told.count("| wanda-sp |") == told.count("| slicegpt |") == 2
    monkeypatch.setattr(compare, "one", None)
    capsys.readouterr()
    compare.main([*flags, "--into", str(readme)])
    assert readme.read_text() == told
    assert json.loads(file.read_text()) == rows
    assert "slicegpt" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="give another file"):
        compare.main([*flags, "--seed", "3"])


def test_rows_of_an_earlier_version_are_taken(flags, tmp_path):
    compare.main(flags)
    file = tmp_path / "compare.json"
    _, *others = json.loads(file.read_text())
    file.write_text(json.dumps(others))
    compare.main(flags)
    dense, *again = json.loads(file.read_text())
    assert dense["recipe"] == "dense"
    assert again == others


def test_what_a_model_cannot_have_does_not_end_it(flags, tmp_path, capsys):
    compare.main([*flags, "--ratios", "0.97"])
    assert [r["recipe"] for r in json.loads((tmp_path / "compare.json").read_text())] == ["dense"]
    assert "at 97%: " in capsys.readouterr().err


def test_a_row_has_a_process_of_its_own(flags, tmp_path):
    compare.main([*flags, "--ratios", "0.1", "--recipes", "wanda-sp"])
    command = [sys.executable, "-m", "tests.compare", *flags, "--ratios", "0.1,0.3", "--recipes", "wanda-sp"]
    ran = subprocess.run(command, cwd=compare.Path(__file__).parents[1], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    dense, before, found = json.loads((tmp_path / "compare.json").read_text())
    assert (before["less"], found["less"]) == (0.1, 0.3)
    assert found["peak_mib"] > 0
    assert found["parameters"] < before["parameters"] < dense["parameters"]


def test_rows_are_held_against_one_over_the_same_windows(flags, tmp_path, capsys):
    compare.main([*flags, "--ratios", "0.3", "--against", "wanda-sp", "--skip", "2"])
    told = " ".join(capsys.readouterr().out.split())
    dense, *rows = json.loads((tmp_path / "compare.json").read_text())
    assert "from window 2 on" in dense["of"]
    by = {r["recipe"]: r["perplexity"] for r in rows}
    assert f"{100 * (by['slicegpt'] / by['wanda-sp'] - 1):+.2f} [" in told
    compare.main(
        [*flags, "--ratios", "0.3", "--against", "dense", "--skip", "0", "--json", str(tmp_path / "other.json")]
    )
    first, *others = json.loads((tmp_path / "other.json").read_text())
    assert first["perplexity"] != dense["perplexity"]
    assert f"{100 * (others[0]['perplexity'] / first['perplexity'] - 1):+.2f} [" in capsys.readouterr().out


def test_there_is_a_place_for_it(flags, tmp_path):
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(rcpu.RcpuError, match="no place for compare"):
        compare.main([*flags, "--into", str(tmp_path / "README.md")])
    compare.text_with(compare.Path(__file__).parents[1] / "README.md", [compare.MARK])


def test_with_nothing_removed_there_is_a_row_for_what_learns(flags, tmp_path):
    compare.main([*flags, "--ratios", "0", "--recipes", "wanda-sp,best,mini-llm,best:step=0.1"])
    dense, learned, further = json.loads((tmp_path / "compare.json").read_text())
    assert (dense["recipe"], learned["recipe"], further["recipe"]) == ("dense", "best", "best:step=0.1")
    assert learned["parameters"] == dense["parameters"]
    assert len({r["perplexity"] for r in (dense, learned, further)}) == 3
