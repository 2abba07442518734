"""Pruned models on disk: the same function again, and all or nothing."""

import copy
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import rcpu
from rcpu.compact.export import RECORD, TEMPORARY, check_room
from rcpu.pruning.saving import bytes_to_write
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
    folder = rcpu.save(model, result, tmp_path / "out", shape="padded" if as_padded else "compact")
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
        folder = rcpu.save(source, result, tmp_path / f"out-{as_padded}", shape="padded" if as_padded else "compact")
        tiny.assert_same_function(rcpu.load_model(str(folder), device="cpu").net, result.net)


def test_a_compact_model_brings_its_code(model, result, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = rcpu.save(model, result, tmp_path / "out")
    net = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert not type(net).__module__.startswith("rcpu")
    tiny.assert_same_function(net, result.net)


@pytest.mark.parametrize("as_padded", [False, True])
def test_the_record_tells_how_it_was_made(model, result, tmp_path, as_padded):
    folder = rcpu.save(model, result, tmp_path / "out", shape="padded" if as_padded else "compact")
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
    before = content(tmp_path)
    with pytest.raises(rcpu.RcpuError, match=r"out exists: choose another name, or allow it to be overwritten"):
        rcpu.save(model, results["bias"], folder)
    assert content(tmp_path) == before
    rcpu.save(model, results["bias"], folder, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
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


@pytest.mark.parametrize(
    "more", ["notes.txt", "stale.safetensors", "adapter_model.bin", "dense/config.json", "tokenizer/x"]
)
def test_what_was_put_beside_an_export_is_never_overwritten(model, results, tmp_path, more):
    folder = rcpu.save(model, results["rotation"], tmp_path / "out")
    (folder / more).parent.mkdir(exist_ok=True)
    (folder / more).write_text("mine")
    before = content(tmp_path)
    with pytest.raises(
        rcpu.RcpuError, match=f"out holds more than an export wrote .{more.split('/')[0]}.: move that else"
    ):
        rcpu.save(model, results["bias"], folder, overwrite=True)
    assert content(tmp_path) == before


def test_an_export_of_an_earlier_version_can_be_overwritten(model, results, tmp_path):
    folder = rcpu.save(model, results["rotation"], tmp_path / "out")
    record = json.loads((folder / RECORD).read_text())
    del record["files"]
    (folder / "README.md").unlink()  # which it did not write
    (folder / RECORD).write_text(json.dumps(record))
    rcpu.save(model, results["bias"], folder, overwrite=True)
    (folder / RECORD).write_text("{")
    with pytest.raises(rcpu.RcpuError, match=f"{RECORD} cannot be read, so .*out is not overwritten"):
        rcpu.save(model, results["bias"], folder, overwrite=True)


@pytest.mark.parametrize("how", ["itself", "below", "linked"])
def test_the_input_of_a_run_is_never_overwritten(model, result, windows, tmp_path, how):
    folder = rcpu.save(model, result, tmp_path / "out", shape="padded")
    source = folder
    if how == "below":
        source = shutil.copytree(folder, folder / "dense")
        record = json.loads((folder / RECORD).read_text())
        (folder / RECORD).write_text(json.dumps(record | {"files": [*record["files"], "dense"]}))
    if how == "linked":
        (source := tmp_path / "links").mkdir()
        for path in folder.iterdir():
            (source / path.name).symlink_to(path)
    again = rcpu.load_model(str(source), "cpu")
    with pytest.raises(rcpu.RcpuError, match=r"out holds what is read for this run .*: choose another name"):
        rcpu.save(again, rcpu.prune(again.net, windows, rcpu.Recipe()), folder, overwrite=True)
    text = folder / "words.txt"
    text.write_text("words")
    with pytest.raises(rcpu.RcpuError, match=r"holds what is read for this run .words.txt."):
        rcpu.check_target(folder, True, [None, text])


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


def test_modes_are_those_of_the_umask(model, result, tmp_path):
    before = os.umask(0o027)
    try:
        folder = rcpu.save(model, result, tmp_path / "out")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}
    rcpu.save(model, result, folder, overwrite=True)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o666 & ~before}


@pytest.mark.parametrize("as_padded", [False, True])
def test_the_checkpoints_precision_is_kept(tmp_path, windows, as_padded):
    dense = tiny.save(copy.deepcopy(tiny.net("tied")).bfloat16(), tmp_path / "dense")
    model = rcpu.load_model(str(dense), "cpu")
    assert (model.dtype, model.storage) == ("fp32", "bf16")
    result = rcpu.prune(model.net, windows, rcpu.Recipe(ratio=0.25))
    sizes = {}
    for dtype, expected in (("auto", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        folder = rcpu.save(model, result, tmp_path / dtype, shape="padded" if as_padded else "compact", dtype=dtype)
        weights = load_file(folder / "model.safetensors")
        assert {values.dtype for values in weights.values()} == {expected}
        assert "lm_head.weight" not in weights  # it is the embedding
        config, record = (json.loads((folder / name).read_text()) for name in ("config.json", RECORD))
        assert config["dtype"] == config["torch_dtype"] == str(expected).removeprefix("torch.")
        sizes[dtype] = (folder / "model.safetensors").stat().st_size
        assert record["file_bytes_before"] == (dense / "model.safetensors").stat().st_size
        assert record["file_bytes_after"] == sizes[dtype]
        assert (
            bytes_to_write(model, rcpu.cost(result.net if not as_padded else model.net).parameters, dtype)
            > sizes[dtype]
        )
        again = rcpu.load_model(str(folder), "cpu", "fp32")
        tiny.assert_same_function(again.net, result.net, {"fp32": 1e-4, "fp16": 0.02, "auto": 0.1}[dtype])
    assert sizes["auto"] < (dense / "model.safetensors").stat().st_size * (1.1 if as_padded else 1)
    assert sizes["fp32"] > 1.8 * sizes["auto"]
    assert {p.dtype for p in result.net.parameters()} == {torch.float32}


def test_a_precision_that_was_asked_for_is_that_of_the_files(model_folder, windows, tmp_path):
    model = rcpu.load_model(str(model_folder), "cpu", "bf16")
    folder = rcpu.save(model, rcpu.prune(model.net, windows, rcpu.Recipe()), tmp_path / "out")
    assert {v.dtype for v in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    with pytest.raises(rcpu.RcpuError, match="unknown dtype 'int8': choose one of fp32, bf16, fp16"):
        rcpu.save(model, rcpu.prune(model.net, windows, rcpu.Recipe()), tmp_path / "out", overwrite=True, dtype="int8")


def test_values_too_large_for_a_precision_are_told(windows, tmp_path):
    net = copy.deepcopy(tiny.net("gqa"))
    net.lm_head.weight[0, 0] = 1e6
    model = rcpu.load_model(str(tiny.save(net, tmp_path / "dense")), "cpu")
    with pytest.raises(rcpu.RcpuError, match=r"lm_head.weight holds values too large for fp16: save in bf16 or fp32"):
        rcpu.save(model, rcpu.prune(model.net, windows, rcpu.Recipe()), tmp_path / "out", dtype="fp16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("exists", [False, True])
def test_what_a_killed_save_left_behind_is_cleared(model, results, tmp_path, exists):
    target = tmp_path / "new" / "out"
    if exists:
        rcpu.save(model, results["bias"], target)
    place = target if exists else target.parent
    script = """
import os, sys, time, rcpu.compact.export as export
from pathlib import Path
with export.writing(Path(sys.argv[1])) as new:
    (new / "model.safetensors").write_text("half of it")
    print("written", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "written\n"
    assert len(list(place.glob(".rcpu.tmp-*"))) == 1
    other = rcpu.save(model, results["bias"], target if exists else target.with_name("beside"), overwrite=True)
    assert len(list(place.glob(".rcpu.tmp-*"))) == 1  # it is still at work
    process.kill()
    process.wait()
    rcpu.save(model, results["rotation"], target, overwrite=True)
    assert not list(place.glob(".rcpu.tmp-*"))
    assert {p.name for p in target.parent.iterdir()} == {"out", other.name}


def test_an_export_whose_replacement_was_killed_can_be_replaced(model, results, tmp_path):
    target = rcpu.save(model, results["bias"], tmp_path / "out")
    (old := target / f"{TEMPORARY}dead" / "old").mkdir(parents=True)
    for name in (RECORD, "config.json"):
        (target / name).rename(old / name)
    rcpu.save(model, results["rotation"], target, overwrite=True)
    assert not list(target.glob(".rcpu.tmp-*"))
    assert json.loads((target / RECORD).read_text())["recipe"]["options"]["compensation"] == "rotation"


@pytest.mark.parametrize("earlier", [False, True])
def test_a_mount_point_can_be_written_to(model, results, tmp_path, earlier):
    (target := tmp_path / "mount").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(target)], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        if earlier:
            rcpu.save(model, results["bias"], target, overwrite=True)
        rcpu.save(model, results["rotation"], target, overwrite=True)
        tiny.assert_same_function(rcpu.load_model(str(target), "cpu").net, results["rotation"].net)
        assert {p.name for p in target.iterdir()} == {*json.loads((target / RECORD).read_text())["files"], RECORD}
        before = content(target)
        room = target / "filled"
        room.write_bytes(b"\0" * (shutil.disk_usage(target).free - 2**16))
        with pytest.raises(rcpu.RcpuError, match="holds more than an export wrote"):
            rcpu.check_target(target, True)
        with pytest.raises(rcpu.RcpuError, match=r"mount would take 0.2 MiB, and its disk has 0.1 MiB free: choose"):
            check_room(target, 200_000)
        with pytest.raises(rcpu.RcpuError, match=r"could not write .*mount.*: No space left on device"):
            rcpu.save(model, results["bias"], target / "below")
        room.unlink()
        assert content(target) == before
    finally:
        subprocess.run(["umount", str(target)], check=True)


def test_a_folder_in_a_closed_one_can_be_replaced(model, results, tmp_path, modes_hold):
    target = rcpu.save(model, results["bias"], tmp_path / "closed" / "out")
    target.parent.chmod(0o555)
    rcpu.save(model, results["rotation"], target, overwrite=True)
    with pytest.raises(rcpu.RcpuError, match=r"cannot write to .*: Permission denied"):
        rcpu.check_target(target.with_name("other"))
    target.chmod(0o555)
    with pytest.raises(rcpu.RcpuError, match=r"cannot write to .*: Permission denied"):
        rcpu.check_target(target, True)
    target.chmod(0o755)
    target.parent.chmod(0o755)


def test_a_disk_that_is_full_is_told_in_the_words_of_the_system(model, result, tmp_path, monkeypatch):
    """A limit on sizes of files stands in for the disk: weights and tokenizers are written by libraries in Rust."""
    had = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, had[1]))
    try:
        with pytest.raises(rcpu.RcpuError, match=r"could not write .*out: File too large"):
            rcpu.save(model, result, tmp_path / "out")
        monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", lambda *_, **__: None)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, had[1]))
        with pytest.raises(rcpu.RcpuError, match=r"could not write .*out: File too large"):
            rcpu.save(model, result, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, had)
    assert not list(tmp_path.iterdir())


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
    "rcpu.pruning.saving.model_card",
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
