"""``python -m rcpu study``: lists, runs, goes on, shows, and refuses in a sentence."""

import json

import pytest

from rcpu.cli import main, study

QUICK = ("--samples", "6", "--window", "16", "--limit", "8", "--ratios", "0.3")


@pytest.fixture(autouse=True)
def _own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("RCPU_HOME", str(tmp_path / "home"))


def test_a_study_from_the_command_line(model_folder, text_file, tmp_path, capsys):
    flags = ["study", "table3", "--model", str(model_folder), "--text", str(text_file), *QUICK]
    assert main([*flags, "--json", str(tmp_path / "s.json")]) == 0
    told = capsys.readouterr()
    assert "What is compensated" in told.out
    assert "Repairing both is better" in told.out
    assert "flatters pruned models" in told.err
    found = json.loads((tmp_path / "s.json").read_text())
    assert len(found["points"]) == 4
    assert {v["state"] for v in found["verdicts"]} <= {"holds", "does not hold", "not decided"}
    assert main(["study", "table3", "--show", "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("**What is compensated** (Table 3).")


def test_verdicts_go_into_a_text_by_a_command(model_folder, text_file, tmp_path, capsys, monkeypatch):
    readme, run = tmp_path / "README.md", study._run
    readme.write_text("early\n<!-- study:table3 -->\nOUTDATED\n<!-- /study:table3 -->\nafter\n")

    def edited_meanwhile(*args):
        readme.write_text(readme.read_text().replace("early", "before"))
        return run(*args)

    monkeypatch.setattr(study, "_run", edited_meanwhile)
    flags = ["--model", str(model_folder), "--text", str(text_file), *QUICK]
    assert main(["study", "table3", *flags, "--into", str(readme)]) == 0
    told = readme.read_text()
    assert told.startswith("before\n<!-- study:table3 -->\n**What is compensated**")
    assert told.endswith("<!-- /study:table3 -->\nafter\n")
    assert "OUTDATED" not in told
    capsys.readouterr()
    assert main(["study", "reflection", "--show", "--into", str(readme)]) == 2
    assert "no place for study:reflection" in " ".join(capsys.readouterr().err.split())
    assert main(["study", "table3", "reflection", *flags, "--markdown"]) == 0
    assert "The sign of det Q" in capsys.readouterr().out


def test_studies_are_listed(capsys):
    assert main(["study"]) == 0
    assert "table3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["nothing"], "no study 'nothing': give one of"),
        (["table3", "--seeds", "a"], "--seeds must be numbers like 0,1,2; got 'a'"),
        (["table3", "--seeds", ","], "--seeds names nothing"),
        (["table3", "--ratios", "1.5"], "ratio must be at least 0 and below 1"),
        (["table3", "--size", "huge"], "unknown size 'huge'"),
        (["table3", "--measure-in", "int3"], "unknown precision 'int3'"),
        (["table3", "--limit", "0"], "limit cannot be 0, it is a whole number of at least 1"),
        (["table3", "--limit", "-1"], "limit cannot be -1"),
        (["table3", "--show"], "the store has nothing of the study table3"),
        (["table3", "--text", "/no/such.txt"], "no text '/no/such.txt'"),
    ],
)
def test_bad_input_is_one_sentence(flags, sentence, model_folder, capsys):
    assert main(["study", *flags, "--model", str(model_folder)]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_report_of_a_study(model_folder, text_file, tmp_path, capsys):
    flags = ["study", "reflection", "--model", str(model_folder), "--text", str(text_file), *QUICK]
    assert main(flags) == 0
    page = tmp_path / "report.html"
    assert main(["report", "reflection", "--out", str(page)]) == 0
    assert "The sign of det Q" in page.read_text()
    assert f"{page.stat().st_mode & 0o777:o}" == "644"
    assert main(["report", str(page), "--out", str(tmp_path / "again.html")]) == 0
    assert main(["report", str(page), "--out", str(page)]) == 0, "over an earlier one"
    foreign = tmp_path / "index.html"
    foreign.write_bytes(b"<p>of mine \xe4</p>")
    assert main(["report", "reflection", "--out", str(foreign)]) == 2
    assert "exists and is no report" in " ".join(capsys.readouterr().err.split())
    assert foreign.read_bytes() == b"<p>of mine \xe4</p>"
    assert main(["report", "reflection", "--out", str(foreign), "--overwrite"]) == 0
    assert "The sign of det Q" in foreign.read_text()
    for flags, sentence in (
        (["reflection", "--out", str(tmp_path)], "expected a file in a folder that exists"),
        (["reflection", "--out", str(tmp_path / "r.pdf")], "a report is an HTML file"),
        (["nothing", "--out", str(page)], "no run is called 'nothing'"),
    ):
        assert main(["report", *flags]) == 2
        assert sentence in " ".join(capsys.readouterr().err.split())
