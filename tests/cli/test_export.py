"""Exports from the command line: every shape, refusals before the run, the card, GGUF, and what would be uploaded."""

import json
import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM

import rcpu
from rcpu.cli import main
from rcpu.compact.export import RECORD
from tests import tiny


@pytest.fixture
def prune(model_folder, text_file):
    """Arguments of a prune that a stock model can be made of."""
    model = ["--model", str(model_folder), "--device", "cpu", "--text", str(text_file)]
    return [
        "prune",
        *model,
        "--samples",
        "4",
        "--held-out",
        "1",
        "--window",
        "16",
        "--unit",
        "kv_group",
        "--ratio",
        "0.5",
    ]


@pytest.mark.parametrize("shape", ["compact", "stock", "padded"])
def test_every_shape_is_written_with_its_card(prune, tmp_path, shape, model):
    out = tmp_path / "out"
    assert main([*prune, "--no-store", "--out", str(out), "--export", shape]) == 0
    record, card = json.loads((out / RECORD).read_text()), (out / "README.md").read_text()
    assert record["shape"] == shape
    assert "README.md" in record["files"]
    assert list(record["loads_in"]) == ["transformers 5", "transformers 4", "vLLM", "llama.cpp"]
    assert f"ratio: {record['recipe']['ratio']}" in card
    assert str(tmp_path.parent) not in card
    before = rcpu.cost(model.net).parameters
    after = rcpu.cost(rcpu.load_model(str(out), "cpu").net).parameters
    assert (after == before) if shape == "padded" else (after < before)
    assert main([*prune, "--no-store", "--out", str(out), "--export", shape, "--overwrite"]) == 0


def test_a_shape_that_cannot_be_is_refused_before_the_run(prune, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rcpu, "prune", lambda *_, **__: pytest.fail("it ran"))
    for flags, reason in (
        (["--unit", "channel"], "has values 4 wide beside heads of 8"),
        (["--layers", "0"], "layer 0 has 1 KV heads and layer 1 has 2"),
        (["--round-to", "5"], "a multiple of 64 or 128: 5"),
    ):
        assert main([*prune, "--no-store", *flags, "--out", str(tmp_path / "out"), "--export", "stock"]) == 2
        assert reason in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_becomes_stock_padded_and_gguf(prune, tmp_path, capsys):
    compact = tmp_path / "compact"
    assert main([*prune, "--no-store", "--out", str(compact)]) == 0
    net = rcpu.load_model(str(compact), "cpu").net
    for form in ("stock", "padded"):
        out = tmp_path / form
        assert main(["export", str(compact), "--device", "cpu", "--as", form, "--out", str(out)]) == 0
        tiny.assert_same_function(AutoModelForCausalLM.from_pretrained(out).eval(), net)
        assert json.loads((out / RECORD).read_text())["shape"] == form
        assert "llama.cpp: loads it" in capsys.readouterr().out
    out, record = tmp_path / "model.gguf", tmp_path / "told.json"
    command = ["export", str(compact), "--device", "cpu", "--as", "gguf", "--quant", "f32", "--out", str(out)]
    assert main([*command, "--json", str(record)]) == 0
    assert json.loads(record.read_text())["shape"] == "stock"
    assert out.read_bytes()[:4] == b"GGUF"
    assert main(command) == 2
    assert "exists: choose another name" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert not [p for p in tmp_path.iterdir() if ".tmp-" in p.name]


def test_a_run_of_the_store_is_exported(prune, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RCPU_HOME", str(tmp_path / "home"))
    assert main([*prune, "--name", "half"]) == 0
    out = tmp_path / "stock"
    for name in ("half", "run:half"):
        assert main(["export", name, "--device", "cpu", "--as", "stock", "--out", str(out), "--overwrite"]) == 0
    assert json.loads((out / RECORD).read_text())["recipe"]["ratio"] == 0.5
    assert main(["export", "nothing", "--as", "stock", "--out", str(tmp_path / "x")]) == 2
    assert "nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--as", "gguf", "--out", "model.bin"], "let it end in .gguf"),
        (["--as", "gguf", "--out", "no/where/model.gguf"], "does not exist"),
        (["--as", "compact", "--out", "out"], "is no pruned model"),
        (["--as", "stock", "--out", "out"], "nothing in it is smaller"),
    ],
)
def test_what_cannot_be_exported_is_told(model_folder, tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(model_folder), "--device", "cpu", *arguments]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_compact_export_loads_where_our_package_is_not(prune, tmp_path):
    out = tmp_path / "out"
    assert main([*prune, "--no-store", "--unit", "channel", "--out", str(out)]) == 0
    code = f"""
import importlib.util, sys
assert importlib.util.find_spec("rcpu") is None
from transformers import AutoModelForCausalLM
net = AutoModelForCausalLM.from_pretrained({str(out)!r}, trust_remote_code=True)
print(sum(p.numel() for p in net.parameters()))
"""
    env = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    told = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert int(told.stdout) == rcpu.cost(rcpu.load_model(str(out), "cpu").net).parameters


def test_a_dry_run_shows_what_would_go_and_sends_nothing(prune, tmp_path, capsys, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: pytest.fail("it asked the hub"))
    out = tmp_path / "out"
    assert main([*prune, "--no-store", "--out", str(out)]) == 0
    (out / "diary.txt").write_text("my own")
    capsys.readouterr()
    assert main(["push", "me/model", "--folder", str(out), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "README.md" in told
    assert "diary.txt" not in told
    assert "would go to me/model; nothing was sent" in told
    assert main(["push", "me/model", "--folder", str(out)]) == 2  # HF_HUB_OFFLINE
    assert "cannot reach the hub (HF_HUB_OFFLINE is set): nothing was sent" in capsys.readouterr().err
    assert main(["push", "no-owner", "--folder", str(out), "--dry-run"]) == 2
    assert main(["push", "me/model", "--folder", str(tmp_path), "--dry-run"]) == 2
    assert "is no export" in capsys.readouterr().err


def test_what_is_uploaded_is_what_was_written(prune, tmp_path, capsys, monkeypatch):
    import huggingface_hub

    sent = {}

    class Api:
        def create_repo(self, repo, **options):
            sent["repo"] = repo, options

        def upload_folder(self, **options):
            sent.update(options)
            return type("Done", (), {"commit_url": "https://hub/commit"})

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr("rcpu.compact.uploading.unreachable", lambda: "")
    out = tmp_path / "out"
    assert main([*prune, "--no-store", "--out", str(out)]) == 0
    (out / "diary.txt").write_text("my own")
    assert main(["push", "me/model", "--folder", str(out), "--private"]) == 0
    assert sent["repo"] == ("me/model", {"private": True, "exist_ok": True})
    assert set(sent["allow_patterns"]) == {p.name for p in out.iterdir()} - {"diary.txt"}
    assert "https://hub/commit" in capsys.readouterr().out
