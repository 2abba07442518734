"""Prunings in the store: all that was found is there again, the rebuilt model is the same, and runs go on."""

import contextlib
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import rcpu
import rcpu.runs.pruned as pruned
from rcpu import Cancelled, RcpuError, Recipe
from rcpu.runs import Store, content_of, default_name, load_result, open_store, prune_into, resume_into, sites_of
from tests import tiny
from tests.pruning.test_resume import assert_same

ROOT = Path(__file__).parents[2]
CASES = {
    "rotation": {},
    "bias": {"compensation": "bias", "order": "site"},
    "ridge by held-out windows": {"compensation": "least_squares", "ridge": None},
    "one layer keeps all": {"ratios": ((1, 0.0),)},
    "one site of some layers": {"layers": (0, 2), "sites": ("down_proj",)},
}


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store(tmp_path / "home")


def in_memory(kind: str = "gqa", net=None) -> rcpu.Model:
    """A model that was never on disk."""
    return rcpu.Model(kind, net or tiny.net(kind), tiny.tokenizer(), Path("/nowhere"), f"fingerprint-{kind}")


def stop_after(layers: int):
    """Progress and ``cancelled`` of somebody who stops a run after so many layers."""
    done = []

    def progress(p: rcpu.Progress) -> None:
        if p.site is not None:
            done.append(p.site.layer)

    return {"progress": progress, "cancelled": lambda: len(set(done)) > layers}


@pytest.mark.parametrize("kind", ["gqa", "biased"])
@pytest.mark.parametrize("case", CASES)
def test_what_was_found_is_there_again_and_the_model_is_the_same(store, windows, kind, case):
    model, recipe = in_memory(kind), Recipe(ratio=0.3, **CASES[case])
    run, result = prune_into(store, model, windows, recipe, name="first", text_digest="t0")
    assert_same(result, rcpu.prune(model.net, windows, recipe))
    other = open_store(store.folder)
    assert other.get(run.id) == run
    assert (run.state, run.name, run.fingerprint) == ("done", "first", model.fingerprint)
    assert Recipe.from_dict(run.recipe) == recipe
    about = run.about
    assert (about["text_digest"], about["windows"], about["dtype"]) == ("t0", windows.digest, "fp32")
    assert about["parameters_after"] == rcpu.cost(result.net).parameters
    errors = [s.error_compensated for s in result.sites]
    assert about["mean_error_compensated"] == pytest.approx(sum(errors) / len(errors))
    found = load_result(other, run, model)
    assert found.recipe == recipe
    assert_same(without_weights_that_stay(found), without_weights_that_stay(result))
    seen = sites_of(other, run.id)
    assert [(s.layer, s.site) for s in seen] == [(s.layer, s.site) for s in result.sites]
    for ours, theirs in zip(seen, result.sites, strict=True):
        assert ours.summary() == theirs.summary()
        assert ours.channel_angles is theirs.channel_angles or ours.channel_angles.equal(theirs.channel_angles)
        assert ours.weight.numel() == 0


def without_weights_that_stay(result: rcpu.PruneResult) -> rcpu.PruneResult:
    """Where nothing leaves, no weight is kept: the model has it."""
    empty = [replace(s, weight=torch.empty(0), bias=None) if s.keep.all() else s for s in result.sites]
    return replace(result, sites=tuple(empty))


def test_a_run_takes_the_disk_of_its_edits_and_no_more(store, windows):
    model = in_memory(net=tiny.llama(hidden_size=128, intermediate_size=512, num_attention_heads=8))
    run, result = prune_into(store, model, windows, Recipe(ratio=0.2))
    vectors = sum(
        t.nbytes for s in result.sites for t in (s.scores, s.unit_scores, s.singular_values, s.channel_angles)
    )
    assert result.edits.bytes < store.bytes_of(run.id) < result.edits.bytes + 4 * vectors + 50_000
    assert [part for part in store.parts(run.id) if not part.startswith("layer-")] == []


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_a_run_that_was_cancelled_goes_on_to_the_same_bits(store, windows, layers):
    model, recipe = in_memory("biased"), Recipe(ratio=0.3)
    with pytest.raises(Cancelled):
        prune_into(store, model, windows, recipe, **stop_after(layers))
    (run,) = store.runs()
    assert run.state == "cancelled"
    with pytest.raises(RcpuError, match="only a finished run"):
        load_result(store, run, model)
    assert len(sites_of(store, run.id)) == 2 * layers, "what was done can be looked at"
    told = []
    again, result = resume_into(store, run, model, windows, progress=lambda p: told.append(p))
    assert_same(result, rcpu.prune(model.net, windows, recipe))
    assert [p.site.layer for p in told if p.site is not None] == [0, 0, 1, 1, 2, 2], "each site is told once"
    assert not any(p.message.startswith(f"layer {i}: measuring") for p in told for i in range(layers))
    assert (again.id, again.state) == (run.id, "done")
    assert again.about.get("resumed_after_layer") == (layers - 1 if layers else None)
    assert_same(load_result(store, again, model), result)
    assert "hidden" not in store.parts(run.id)


def test_a_run_whose_process_was_killed_goes_on_to_the_same_bits(store, windows):
    script = """if True:
        import os, signal, sys
        from tests.runs.test_pruned import *
        torch.set_num_threads(1)
        done = []
        def progress(p):
            done.extend([p.site] if p.site else [])
            if len(done) > 4:
                os.kill(os.getpid(), signal.SIGKILL)
        prune_into(open_store(Path(sys.argv[1])), in_memory(), tiny.calibration(), Recipe(ratio=0.3), progress=progress)
    """
    ended = subprocess.run([sys.executable, "-c", script, str(store.folder)], cwd=ROOT, timeout=120)
    assert ended.returncode == -signal.SIGKILL
    (run,) = store.runs()
    assert run.state == "interrupted"
    assert store.parts(run.id) == ["hidden", "layer-000", "layer-001"]
    _, result = resume_into(store, run, in_memory(), windows)
    assert_same(result, rcpu.prune(tiny.net("gqa"), windows, Recipe(ratio=0.3)))


@pytest.mark.parametrize("broken", ["hidden", "layer-000"])
def test_a_broken_checkpoint_starts_from_the_beginning(store, windows, broken):
    model, recipe = in_memory(), Recipe(ratio=0.3)
    with contextlib.suppress(Cancelled):
        prune_into(store, model, windows, recipe, **stop_after(2))
    (run,) = store.runs()
    path = store.folder_of(run.id) / f"{broken}.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    again, result = resume_into(store, run, model, windows)
    assert "resumed_after_layer" not in again.about
    assert_same(load_result(store, again, model), result)


def test_hidden_states_that_do_not_fit_the_disk_do_not_stop_a_run(store, windows, monkeypatch):
    plain = pruned.UnderWay.write

    def full(self, part, *others):
        if part == "hidden":
            raise RcpuError("no space left on device")
        plain(self, part, *others)

    monkeypatch.setattr(pruned.UnderWay, "write", full)
    run, _ = prune_into(store, in_memory(), windows, Recipe(ratio=0.3))
    assert run.state == "done"


def test_edits_that_do_not_fit_the_disk_end_it_in_a_sentence(store, windows, monkeypatch):
    def full(self, part, *others):
        raise RcpuError("cannot keep this run: no space left on device")

    monkeypatch.setattr(pruned.UnderWay, "write", full)
    with pytest.raises(RcpuError, match="no space left"):
        prune_into(store, in_memory(), windows, Recipe(ratio=0.3))
    (run,) = store.runs()
    assert (run.state, run.error) == ("failed", "cannot keep this run: no space left on device")


def test_content_is_what_the_result_depends_on_and_not_names(windows):
    model, recipe = in_memory(), Recipe(ratio=0.3)
    same = content_of(model, windows, recipe)
    assert content_of(replace(model, name="/elsewhere"), windows, replace(recipe, text="/a/copy.txt")) == same
    for other in (
        content_of(model, windows, replace(recipe, ratio=0.31)),
        content_of(model, windows, replace(recipe, scorer="flap")),
        content_of(model, tiny.calibration(9), recipe),
        content_of(replace(model, fingerprint="other"), windows, recipe),
        content_of(replace(model, net=tiny.llama().bfloat16()), windows, recipe),
    ):
        assert other != same


def test_a_run_goes_on_only_with_what_it_began_with(store, windows, monkeypatch):
    model = in_memory()
    with contextlib.suppress(Cancelled):
        prune_into(store, model, windows, Recipe(ratio=0.3), **stop_after(1))
    (run,) = store.runs()
    narrow = tiny.llama(**tiny.KINDS["gqa"]).bfloat16()
    for other, drawn, sentence in (
        (replace(model, fingerprint="other"), windows, "another model"),
        (replace(model, net=narrow), windows, "fp32 on cpu, and it is in bf16"),
        (model, tiny.calibration(9), "other windows"),
    ):
        with pytest.raises(RcpuError, match=sentence):
            resume_into(store, run, other, drawn)
    monkeypatch.setattr(pruned, "code_version", lambda *rooms: "newer")
    with pytest.raises(RcpuError, match="another version of this code"):
        resume_into(store, run, model, windows)
    assert store.get(run.id).state == "cancelled"


def test_a_run_is_rebuilt_only_from_its_own_model(store, windows):
    model = in_memory()
    run, _ = prune_into(store, model, windows, Recipe(ratio=0.3))
    with pytest.raises(RcpuError, match="load the model that was pruned"):
        load_result(store, run, replace(model, fingerprint="other"))
    with pytest.raises(RcpuError, match=r"fp32 .* in bf16"):
        load_result(store, run, replace(model, net=tiny.llama(**tiny.KINDS["gqa"]).bfloat16()))


def test_runs_have_names_that_say_what_they_are():
    assert default_name(Recipe()) == "rotation 20% rcpu"
    assert default_name(Recipe(ratio=0.25, compensation="least_squares", scorer="flap")) == "least squares 25% flap"


@pytest.mark.parametrize("method", [name for name in rcpu.METHODS if name != "columns"])
def test_whole_methods_are_rebuilt_with_the_same_logits_and_what_they_found(store, windows, method):
    model, recipe = in_memory("mha"), Recipe(method, ratio=0.3)
    run, result = prune_into(store, model, windows, recipe)
    found = load_result(open_store(store.folder), run, model)
    assert tiny.logits(found.net).equal(tiny.logits(result.net))
    assert found.found.keys() == result.found.keys()
    assert all(found.found[name].equal(tensor) for name, tensor in result.found.items())
    assert default_name(recipe).endswith(" 30%")
