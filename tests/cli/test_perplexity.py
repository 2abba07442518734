"""``python -m rcpu perplexity`` with several models and texts: paired differences, held-out parts, leaks."""

import json
import shutil

import pytest

import rcpu
from rcpu.cli import main
from rcpu.measure import difference


@pytest.fixture(scope="module")
def pruned(model_folder, text_file, tmp_path_factory) -> str:
    """A pruned copy of the tiny model, calibrated on ``text_file``."""
    out = tmp_path_factory.mktemp("pruned") / "half"
    flags = ["--samples", "6", "--held-out", "2", "--window", "16", "--ratio", "0.5", "--out", str(out)]
    assert main(["prune", "--model", str(model_folder), "--device", "cpu", "--text", str(text_file), *flags]) == 0
    return str(out)


def run(*arguments: str) -> int:
    return main(["perplexity", "--device", "cpu", "--window", "16", "--max-windows", "9", *arguments])


def test_every_model_is_measured_on_every_text_and_compared_with_the_first(
    pruned, model_folder, text_file, tmp_path, capsys
):
    file = tmp_path / "x.json"
    texts = ["--text", str(text_file), "--text", "embedded", "held-out"]
    assert run("--model", str(model_folder), pruned, *texts, "--json", str(file)) == 2
    assert "no model here says what it was calibrated on" in capsys.readouterr().err
    assert run("--model", pruned, str(model_folder), *texts, "--json", str(file)) == 0
    rows = json.loads(file.read_text())["results"]
    assert [row["model"] for row in rows] == [pruned] * 3 + [str(model_folder)] * 3
    assert [row["text"] for row in rows[:3]] == ["words.txt", rcpu.load_text("embedded").name, "words.txt, held out"]
    assert all((row["window"], row["windows"]) == (16, 9) for row in rows)
    nets = [rcpu.load_model(name, "cpu") for name in (pruned, str(model_folder))]
    ids = rcpu.evaluation_windows(rcpu.load_text("embedded"), nets[0].tokenizer, window=16, max_windows=9)
    gap = difference(*(rcpu.perplexity(model.net, ids, text="x") for model in nets))
    assert "difference" not in rows[1]
    assert rows[4]["difference"] == pytest.approx(gap.to_dict())
    assert f"{gap.value:+.2f}" in capsys.readouterr().out


def test_a_text_that_was_calibrated_on_is_said_and_its_held_out_part_is_not(pruned, text_file, capsys):
    assert run("--model", pruned, "--text", str(text_file), "held-out") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(told) == 1
    assert "100% of words.txt, as it is measured here, stands in the calibration text words.txt too" in told[0]


def test_a_calibration_text_that_is_gone_is_said_and_the_rest_is_done(pruned, tmp_path, capsys):
    folder = tmp_path / "moved"
    shutil.copytree(pruned, folder)
    record = folder / "rcpu_run.json"
    record.write_text(record.read_text().replace("words.txt", "gone.txt"))
    assert run("--model", str(folder)) == 0
    assert "an overlap with its calibration text is not looked for" in capsys.readouterr().err
