"""Whole methods in the store and from a terminal: kept, rebuilt, exported, cancelled, gone on with, or refused."""

from dataclasses import replace
from pathlib import Path

import pytest

import rcpu
import rcpu.runs.pruned as pruned
from rcpu.base import options_of
from rcpu.cli import main
from rcpu.models.canonical import canonical
from rcpu.runs import load_result, open_store, prune_into, resume_into
from tests import tiny

WHOLE = [name for name, method in rcpu.METHODS.items() if method.run]
SHORT = {"flop": {"steps": 3}, "mini-llm": {"draws": 2}}
CUT_QUERIES = {"olica", "modegpt", "svd-llm", "flop factors"}
SMALL = ["--samples", "6", "--held-out", "2", "--window", "16", "--ratio", "0.3"]


def recipe(name: str) -> rcpu.Recipe:
    return rcpu.Recipe(method=name, ratio=0.3, **SHORT.get(name, {}))


@pytest.fixture
def flags(home, model_folder, text_file) -> list[str]:
    """Arguments of a quick pruning of a model with grouped KV heads into a store of this test alone."""
    return ["prune", "--model", str(model_folder), "--device", "cpu", "--text", str(text_file), *SMALL]


def asked(name: str) -> list[str]:
    return ["--method", name, *(s for key, value in SHORT.get(name, {}).items() for s in (f"--{key}", str(value)))]


@pytest.mark.parametrize("kind", ["mha", "gqa"])
@pytest.mark.parametrize("name", WHOLE)
def test_it_is_kept_rebuilt_exported_and_reloaded_with_the_same_logits(kind, name, windows, tmp_path):
    model = rcpu.Model(kind, tiny.net(kind), tiny.tokenizer(), Path("/nowhere"), f"fingerprint-{kind}")
    run, result = prune_into(open_store(tmp_path / "home"), model, windows, recipe(name))
    store = open_store(tmp_path / "home")
    assert store.get(run.id).state == "done"
    again = load_result(store, run, model)
    assert tiny.logits(again.net).equal(tiny.logits(result.net))
    assert again.found.keys() == result.found.keys()
    assert again.notes == result.notes
    folder = rcpu.save(model, again, tmp_path / "out")
    loaded = rcpu.load_model(str(folder), "cpu")
    assert tiny.logits(loaded.net).equal(tiny.logits(result.net))
    told = [rcpu.generate(net, tiny.tokenizer(), "abc", max_new_tokens=5).text for net in (loaded.net, result.net)]
    assert told[0] == told[1]


@pytest.mark.parametrize("name", WHOLE)
def test_stopped_in_the_middle_it_leaves_nothing_and_goes_on(name, flags, home, tmp_path, monkeypatch, capsys):
    plain, out = pruned.prune, tmp_path / "new" / "out"

    def stopping(*arguments, progress, **options):
        def noting(p):
            progress(p)
            if p.fraction > 0.5:
                raise KeyboardInterrupt

        return plain(*arguments, progress=noting, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pruned, "prune", stopping)
        assert main([*flags, *asked(name), "--name", "mine", "--out", str(out)]) == 130
    assert "go on with --resume" in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "no folder, and none that is half written"
    store = open_store()
    (run,) = store.runs()
    assert run.state == "cancelled"
    assert store.parts(run.id) == (["state"] if rcpu.METHODS[name].rounds else [])
    assert not list(store.folder_of(run.id).glob("*.tmp*"))
    assert main(["prune", "--resume", "mine", "--device", "cpu", "--out", str(out)]) == 0
    assert open_store().get(run.id).state == "done"
    assert main([*flags, *asked(name), "--no-store", "--out", str(tmp_path / "whole")]) == 0
    ours, theirs = (rcpu.load_model(str(folder), device="cpu") for folder in (out, tmp_path / "whole"))
    assert tiny.logits(ours.net).equal(tiny.logits(theirs.net))
    assert main(["generate", "--model", str(out), "--device", "cpu", "--prompt", "a", "--max-new-tokens", "3"]) == 0


@pytest.mark.parametrize("name", [name for name in WHOLE if not rcpu.METHODS[name].rounds])
def test_what_has_no_rounds_begins_again(name, windows, tmp_path):
    model = rcpu.Model("gqa", tiny.net("gqa"), tiny.tokenizer(), Path("/nowhere"), "fingerprint-gqa")
    store, last = open_store(tmp_path / "home"), [0.0]
    watch = {"progress": lambda p: last.append(p.fraction), "cancelled": lambda: last[-1] > 0.5}
    with pytest.raises(rcpu.Cancelled):
        prune_into(store, model, windows, recipe(name), **watch)
    (run,) = store.runs()
    with pytest.raises(rcpu.RcpuError, match="only a finished run has a model"):
        load_result(store, run, model)
    _, result = resume_into(store, run, model, windows)
    assert tiny.logits(result.net).equal(tiny.logits(rcpu.prune(model.net, windows, recipe(name)).net))


OPTIONS = [(name, key) for name in WHOLE for key in options_of(rcpu.METHODS[name].options)]


@pytest.mark.parametrize(("name", "key"), OPTIONS)
def test_a_bad_value_of_any_option_is_a_sentence(name, key, home, capsys):
    row = options_of(rcpu.METHODS[name].options)[key]
    bad = ["perhaps"] if row.kind is bool or row.choices else ["much", "nan" if row.kind is float else "0.5"]
    bad += [str(end) for end in (row.low and row.low - 1, row.high and row.high * 2 + 1) if end]
    for value in bad:
        assert main(["prune", "--method", name, f"--{key.replace('_', '-')}={value}", "--print-recipe"]) == 2
        told = " ".join(capsys.readouterr().err.split())
        assert key in told
        assert value in told or "must be" in told


@pytest.mark.parametrize("which", [*WHOLE, "flop factors"])
def test_queries_that_are_normalised_by_head_are_left_alone_or_refused_by_name(which, windows):
    net, (name, *form) = canonical(tiny.stock("qwen3")), which.split()
    asked = replace(recipe(name), form=form[0]) if form else recipe(name)
    if which in CUT_QUERIES:
        called = f"(method '{name}'|{rcpu.METHODS[name].label}) .*queries and keys"
        with pytest.raises(rcpu.RcpuError, match=called):
            rcpu.prune(net, windows, asked)
        return
    assert tiny.logits(rcpu.prune(net, windows, asked).net).isfinite().all()
