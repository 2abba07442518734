"""Pruned models on disk: the same function again, and all or nothing."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import rcpu
from rcpu.compact.export import RECORD
from tests import tiny


@pytest.fixture(scope="module")
def results(model, windows) -> dict[str, rcpu.PruneResult]:
    """One result of a compensation without bias, and one with."""
    return {name: rcpu.prune(model.net, windows, rcpu.Recipe(compensation=name)) for name in ("rotation", "bias")}


@pytest.fixture
def result(results) -> rcpu.PruneResult:
    return results["rotation"]


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and what is in it."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("as_padded", [False, True])
@pytest.mark.parametrize("compensation", ["rotation", "bias"])
def test_what_is_saved_comes_back(model, results, tmp_path, compensation, as_padded):
    result = results[compensation]
    folder = rcpu.save(model, result, tmp_path / "out", as_padded=as_padded)
    assert folder == tmp_path / "out"
    again = rcpu.load_model(str(folder), device="cpu")
    if as_padded:
        tiny.assert_same_function(again.net, result.net)
        stock = AutoModelForCausalLM.from_pretrained(folder)
        assert type(stock) is transformers.LlamaForCausalLM
        assert tiny.logits(stock).equal(tiny.logits(again.net))
        assert rcpu.cost(again.net).parameters >= rcpu.cost(model.net).parameters
    else:
        assert tiny.logits(again.net).equal(tiny.logits(result.net))
        assert rcpu.cost(again.net) == rcpu.cost(result.net)
    assert AutoTokenizer.from_pretrained(folder)("ab").input_ids == model.tokenizer("ab").input_ids
    assert again.net.generation_config.eos_token_id == tiny.END
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("kind", ["mha", "biased", "tied"])
def test_every_kind_of_model_comes_back(kind, windows, tmp_path):
    source = rcpu.load_model(str(tiny.save(tiny.net(kind), tmp_path / "dense")), device="cpu")
    result = rcpu.prune(source.net, windows, rcpu.Recipe(ratio=0.3))
    for as_padded in (False, True):
        folder = rcpu.save(source, result, tmp_path / f"out-{as_padded}", as_padded=as_padded)
        tiny.assert_same_function(rcpu.load_model(str(folder), device="cpu").net, result.net)


def test_a_compact_model_brings_its_code(model, result, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = rcpu.save(model, result, tmp_path / "out")
    net = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert not type(net).__module__.startswith("rcpu")
    tiny.assert_same_function(net, result.net)


@pytest.mark.parametrize("as_padded", [False, True])
def test_the_record_tells_how_it_was_made(model, result, tmp_path, as_padded):
    folder = rcpu.save(model, result, tmp_path / "out", as_padded=as_padded)
    record = json.loads((folder / RECORD).read_text())
    assert rcpu.Recipe.from_dict(record["recipe"]) == result.recipe
    assert record["fingerprint"] == model.fingerprint
    assert record["padded"] is as_padded
    assert (record["dtype"], record["device"]) == ("fp32", "cpu")
    assert record["versions"] == {"torch": torch.__version__, "transformers": transformers.__version__}
    before, after = rcpu.cost(model.net), rcpu.cost(result.net)
    assert [
        record[f"{k}_{when}"] for k in ("parameters", "bytes", "flops_per_token") for when in ("before", "after")
    ] == [
        before.parameters,
        after.parameters,
        before.bytes,
        after.bytes,
        before.flops_per_token,
        after.flops_per_token,
    ]
    assert [(s["layer"], s["site"]) for s in record["sites"]] == [(s.layer, s.site) for s in result.sites]
    assert record["sites"] == json.loads(json.dumps([s.summary() for s in result.sites]))


def test_an_earlier_export_is_only_replaced_on_request(model, results, tmp_path):
    folder = rcpu.save(model, results["rotation"], tmp_path / "out")
    (folder / "stale.safetensors").write_text("of an earlier run")
    before = content(tmp_path)
    with pytest.raises(rcpu.RcpuError, match=r"out exists: choose another name, or allow it to be overwritten"):
        rcpu.save(model, results["bias"], folder)
    assert content(tmp_path) == before
    rcpu.save(model, results["bias"], folder, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert not (folder / "stale.safetensors").exists()
    assert json.loads((folder / RECORD).read_text())["recipe"]["options"]["compensation"] == "bias"


def test_what_is_not_ours_is_never_overwritten(model, result, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("three years")
    (tmp_path / "file").write_text("important")
    before = content(tmp_path)
    for name in ("folder", "file"):
        with pytest.raises(rcpu.RcpuError, match=f"{name} is not an earlier export .* it is not overwritten"):
            rcpu.save(model, result, tmp_path / name, overwrite=True)
    assert content(tmp_path) == before


def test_an_empty_folder_can_be_taken(model, result, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(rcpu.RcpuError, match="out exists"):
        rcpu.save(model, result, tmp_path / "out")
    assert (rcpu.save(model, result, tmp_path / "out", overwrite=True) / RECORD).is_file()


def test_a_link_to_an_export_can_be_overwritten(model, results, tmp_path):
    rcpu.save(model, results["rotation"], tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    rcpu.save(model, results["bias"], tmp_path / "link", overwrite=True)
    assert json.loads((tmp_path / "link" / RECORD).read_text())["recipe"]["options"]["compensation"] == "bias"
    assert {p.name for p in tmp_path.iterdir()} == {"real", "link"}


def test_a_name_may_be_as_long_as_the_file_system_takes(model, results, tmp_path):
    for name in ("rotation", "bias"):
        folder = rcpu.save(model, results[name], tmp_path / ("l" * 255), overwrite=True)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    "name", ["file/out", "long" * 99, "~no-such-user/out", "x\0y"], ids=["in a file", "long", "home", "null"]
)
def test_targets_that_cannot_be_are_refused_before_the_run(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(rcpu.RcpuError):
        rcpu.check_target(name)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_target_is_checked_without_a_trace(tmp_path):
    assert rcpu.check_target(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not list(tmp_path.iterdir())


FAILURES = {
    "full disk": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "bug": RuntimeError("a bug"),
    "Ctrl-C": KeyboardInterrupt(),
}


PLACES = [
    "transformers.PreTrainedModel.save_pretrained",
    "transformers.PreTrainedTokenizerBase.save_pretrained",
    "rcpu.pruning.saving.run_record",
    "pathlib.Path.chmod",
    "pathlib.Path.rename",
]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize(
    ("exists", "place"), [*[(exists, place) for exists in (False, True) for place in PLACES], (True, "second rename")]
)
def test_a_failure_leaves_no_trace(model, results, tmp_path, monkeypatch, exists, place, failure):
    target = tmp_path / "deep" / "er" / "out"
    if exists:
        rcpu.save(model, results["bias"], target)
    before = content(tmp_path)
    rename, renamed = Path.rename, []

    def fail(*_, **__):
        raise FAILURES[failure]

    def rename_once(path: Path, to: Path) -> Path:
        renamed.append(to)
        return fail() if len(renamed) == 2 else rename(path, to)

    monkeypatch.setattr(*("pathlib.Path.rename", rename_once) if place == "second rename" else (place, fail))
    expected = rcpu.RcpuError if failure == "full disk" else type(FAILURES[failure])
    with pytest.raises(expected) as caught:
        rcpu.save(model, results["rotation"], target, overwrite=True)
    monkeypatch.undo()
    if failure == "full disk":
        assert str(caught.value) == f"could not write {target}: No space left on device"
    assert content(tmp_path) == before
