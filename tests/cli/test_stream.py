"""``prune --stream``: an export as any other, also where the model does not fit, and after a stop."""

import json

import pytest

import rcpu
from rcpu.cli import main, prune, streaming
from rcpu.compact.export import RECORD
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
    monkeypatch.setattr(streaming, "free_memory", lambda _: 10)
    assert main([*arguments, "--out", str(tmp_path / "again")]) == 2
    assert "one layer does not fit" in capsys.readouterr().err


def test_a_stream_that_was_stopped_goes_on(arguments, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    real, layers = streaming.stream, []

    def stopped(*given, **options):
        told = []
        options["progress"] = lambda p: told.append(p.message)
        options["cancelled"] = lambda: any(m.startswith("layer 1") for m in told)
        return real(*given, **options)

    monkeypatch.setattr(streaming, "stream", stopped)
    assert main([*arguments, "--stream", "--out", str(out)]) == 130
    assert f"are kept in {out}{PART}: the same command goes on" in capsys.readouterr().err
    assert not out.exists()

    def counted(*given, **options):
        found = real(*given, **options)
        layers.extend(found.seconds)
        return found

    monkeypatch.setattr(streaming, "stream", counted)
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
