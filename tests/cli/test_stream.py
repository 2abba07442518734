"""``prune --stream``: an export as any other, also where the model does not fit, and after a stop."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rcpu
from rcpu.cli import main, prune
from rcpu.compact.export import RECORD
from rcpu.runs import streamed
from rcpu.runs.streaming import PART
from tests import tiny


@pytest.fixture
def arguments(model_folder, text_file):
    model = ["--model", str(model_folder), "--device", "cpu", "--text", str(text_file)]
    return ["prune", *model, "--samples", "4", "--held-out", "1", "--window", "16", "--evaluate", "6"]


def test_a_stream_is_an_export_as_any_other(arguments, tmp_path, capsys):
    plain, out, record = tmp_path / "plain", tmp_path / "out", tmp_path / "run.json"
    assert main([*arguments, "--no-store", "--out", str(plain)]) == 0
    assert main([*arguments, "--stream", "--out", str(out), "--json", str(record)]) == 0
    assert "saved to" in capsys.readouterr().out
    ours, theirs = (rcpu.load_model(str(f), "cpu") for f in (out, plain))
    assert tiny.logits(ours.net).equal(tiny.logits(theirs.net))
    assert ours.net.generation_config.eos_token_id == theirs.net.generation_config.eos_token_id
    said, expected = (json.loads((f / RECORD).read_text()) for f in (out, plain))
    for key in ("parameters_before", "parameters_after", "flops_per_token_after", "recipe", "sites", "loads_in"):
        assert said[key] == expected[key]
    found = json.loads(record.read_text())
    text = rcpu.load_text(found["recipe"]["text"])
    windows = rcpu.evaluation_windows(text, ours.tokenizer, window=16, max_windows=6)
    assert found["perplexity_pruned"]["perplexity"] == pytest.approx(
        rcpu.perplexity(theirs.net, windows, text="").perplexity, rel=1e-5
    )
    assert found["perplexity_dense"]["perplexity"] > 0
    assert {p.name for p in tmp_path.iterdir()} == {"plain", "out", "run.json"}
    assert {p.stat().st_mode & 0o777 for p in out.iterdir()} == {0o644}
    assert main(["generate", "--model", str(out), "--prompt", "a"]) == 0


def test_what_does_not_fit_is_streamed_by_itself(arguments, tmp_path, capsys, monkeypatch):
    small = rcpu.models.loading.Footprint(1, "cpu", "fp32", need=2, free=1)
    monkeypatch.setattr(prune, "footprint", lambda *_: small)
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "does not fit cpu: it is streamed" in capsys.readouterr().err
    monkeypatch.setattr(streamed, "free_memory", lambda _: 10)
    assert main([*arguments, "--out", str(tmp_path / "again")]) == 2
    assert "one layer does not fit" in capsys.readouterr().err
    assert main(arguments) == 2
    assert "a stream writes as it goes: give --out DIR" in capsys.readouterr().err


def test_a_model_of_the_hub_that_does_not_fit_is_streamed_too(model_folder, arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    home = tmp_path / "hub" / "models--owner--tiny"
    shutil.copytree(model_folder, home / "snapshots" / ("0" * 40))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("rcpu.models.loading.free_memory", lambda _: 1000)
    asked = [a.replace(str(model_folder), "owner/tiny") for a in arguments]
    assert main([*asked, "--out", str(tmp_path / "out")]) == 0
    assert "owner/tiny does not fit cpu: it is streamed" in capsys.readouterr().err
    monkeypatch.undo()
    assert json.loads((tmp_path / "out" / RECORD).read_text())["recipe"]["model"] == "owner/tiny"


def test_a_target_is_met_as_in_memory(arguments, tmp_path):
    target = ["--target-parameters", "0.8"]
    assert main([*arguments, "--no-store", *target, "--out", str(tmp_path / "plain")]) == 0
    assert main([*arguments, "--stream", *target, "--out", str(tmp_path / "out")]) == 0
    ours, theirs = (json.loads((tmp_path / name / RECORD).read_text()) for name in ("out", "plain"))
    assert ours["recipe"]["ratio"] == theirs["recipe"]["ratio"] != rcpu.Recipe().ratio
    assert ours["parameters_after"] == theirs["parameters_after"]


def test_how_long_it_takes_is_told_after_a_first_layer(arguments, tmp_path, monkeypatch):
    told, real = [], streamed.stream

    def heard(*given, progress, **options):
        return real(*given, progress=lambda p: (told.append(p.message), progress(p)), **options)

    monkeypatch.setattr(streamed, "stream", heard)
    assert main([*arguments, "--stream", "--out", str(tmp_path / "out")]) == 0
    for message in told:
        assert message.endswith(" s left") == (not message.startswith("layer 0"))


def test_two_processes_of_torchrun_find_what_one_does(arguments, tmp_path):
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rcpu"]
    both, alone = (tmp_path / name for name in ("both", "alone"))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    arguments = [*arguments, "--held-out", "2", "--stream", "--out"]
    command = [*launched, *arguments, str(both)]
    ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("saved to") == 1
    assert main([*arguments, str(alone)]) == 0
    ours, expected = (json.loads((folder / RECORD).read_text()) for folder in (both, alone))
    assert ours["perplexity_dense"]["windows"] == expected["perplexity_dense"]["windows"] == 6
    for which in ("perplexity_dense", "perplexity_pruned"):
        assert ours[which]["perplexity"] == pytest.approx(expected[which]["perplexity"], rel=1e-3)
    ours, expected = (rcpu.load_model(str(folder), "cpu").net.state_dict() for folder in (both, alone))
    assert ours.keys() == expected.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4, msg=name)


KILLED = """
import os, signal, sys
from pathlib import Path
from rcpu.cli import main
real, place = Path.replace, sys.argv[1]
for nth in (1, 2, 3, 4, 5, 8, 10):
    out = Path(place, f"out-{nth}")
    if not (process := os.fork()):  # nothing was computed yet
        left = nth

        def replace(path, target):
            global left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(path, target)

        Path.replace = replace
        os._exit(main([*sys.argv[2:], "--stream", "--out", str(out)]))
    assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL, nth
    assert not out.exists(), nth
"""


def test_a_stream_that_was_killed_goes_on_to_the_same_bits(arguments, tmp_path):
    """Right before each of its files gets its name."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", KILLED, str(tmp_path), *arguments]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr
    assert main([*arguments, "--stream", "--out", str(tmp_path / "whole")]) == 0
    expected = rcpu.load_model(str(tmp_path / "whole"), "cpu").net
    parts = sorted(tmp_path.glob(f"out-*{PART}"))
    assert len(parts) == 7
    for part in parts:
        with pytest.raises(rcpu.RcpuError):  # what is there never loads half
            rcpu.load_model(str(part), "cpu")
        out = part.with_name(part.name.removesuffix(PART))
        assert main([*arguments, "--stream", "--out", str(out)]) == 0
        assert tiny.logits(rcpu.load_model(str(out), "cpu").net).equal(tiny.logits(expected))
        assert not part.exists()


def test_a_stream_that_was_stopped_goes_on(arguments, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    real, layers = streamed.stream, []

    def stopped(*given, **options):
        told = []
        options["progress"] = lambda p: told.append(p.message)
        options["cancelled"] = lambda: any(m.startswith("layer 1") for m in told)
        return real(*given, **options)

    monkeypatch.setattr(streamed, "stream", stopped)
    assert main([*arguments, "--stream", "--out", str(out)]) == 130
    assert f"are kept in {out}{PART}: the same command goes on" in capsys.readouterr().err
    assert not out.exists()

    def counted(*given, **options):
        found = real(*given, **options)
        layers.extend(found.seconds)
        return found

    monkeypatch.setattr(streamed, "stream", counted)
    assert main([*arguments, "--stream", "--out", str(out)]) == 0
    assert len(layers) == 2
    rcpu.load_model(str(out), "cpu")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--stream"], "give --out DIR"),
        (["--stream", "--out", "out", "--export", "stock"], "writes the compact shape"),
        (["--stream", "--out", "out", "--name", "mine"], "kept in its folder"),
        (["--stream", "--out", "out", "--method", "olica"], "cannot be streamed"),
    ],
)
def test_what_a_stream_cannot_be_is_said(arguments, tmp_path, monkeypatch, capsys, flags, told):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, *flags]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_was_calibrated_on_is_no_measure(arguments, tmp_path, capsys, monkeypatch):
    asked = [*arguments, "--stream", "--target-parameters", "0.8", "--out", str(tmp_path / "out"), "--samples", "400"]
    assert main([*asked, "--evaluate", "20"]) == 0
    told = capsys.readouterr().err.replace("\n", " ")
    assert told.count("stands in the calibration text") == 1
    assert "leaves 80% of" not in told, "whole units do not meet it to the percent"
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert any("stands in the calibration text" in note for note in record["notes"])

    def nothing(*_, **__):
        raise rcpu.RcpuError("no layer was read")

    monkeypatch.setattr(streamed, "stream", nothing)
    assert main([*asked[:-4], "--out", str(tmp_path / "other"), "--samples", "400", "--evaluate", "20"]) == 2
    assert "stands in the calibration text" in capsys.readouterr().err.replace("\n", " "), "before the work starts"


@pytest.mark.parametrize("change", [{"num_hidden_layers": 2}, {"num_key_value_heads": 3}, {"intermediate_size": 64}])
def test_files_of_another_config_are_refused(change, arguments, model_folder, tmp_path, capsys):
    other = shutil.copytree(model_folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | change))
    arguments[arguments.index("--model") + 1] = str(other)
    assert main([*arguments, "--stream", "--out", str(tmp_path / "out")]) == 2
    assert "does not describe" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()
