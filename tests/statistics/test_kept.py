"""One pass of the dense model: the sums of every site, on disk whole or not at all, and found again."""

import pytest
import torch

import rcpu
from rcpu.statistics import kept as module
from rcpu.statistics.kept import SAMPLE, collect, collection_bytes, collection_of
from tests import tiny


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RCPU_CACHE", str(tmp_path))
    return tmp_path


def files(cache):
    return sorted(p.name for p in cache.rglob("*") if p.is_file())


def inputs(net, windows, layer: int, site: str) -> torch.Tensor:
    """What reaches a consumer, (windows, window, d_in), by a hook."""
    seen = []
    block = net.model.layers[layer]
    consumer = block.self_attn.o_proj if site == "o_proj" else block.mlp.down_proj
    handle = consumer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        net(windows)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("site", rcpu.SITES)
@pytest.mark.parametrize("layer", [0, 2])
def test_sums_are_those_of_the_inputs(model, layer, site):
    windows = tiny.calibration(samples=10)
    found = collect(model, windows, micro_batch=3).get(layer, site)
    for part, ids in ((found.calibration, windows.calibration), (found.held_out, windows.held_out)):
        x = inputs(model.net, ids, layer, site).flatten(0, 1).double()
        assert part.tokens == len(x)
        torch.testing.assert_close(part.gram.double(), x.T @ x, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(part.mean, x.mean(0), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(part.mean_absolute, x.abs().mean(0), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(part.variance, x.var(0, unbiased=False), rtol=1e-3, atol=1e-6)
    expected = inputs(model.net, windows.calibration[:SAMPLE], layer, site)
    torch.testing.assert_close(found.sample.float(), expected, rtol=1e-2, atol=1e-2)


def test_found_again_without_a_pass(model, monkeypatch):
    first = collect(model, tiny.calibration())
    monkeypatch.setattr(module, "Pass", None)
    again = collect(model, tiny.calibration())
    assert again == first
    assert again.get(1, "o_proj").calibration.gram.equal(first.get(1, "o_proj").calibration.gram)


def test_only_the_chosen_layers_and_then_the_rest(model, cache):
    some = collect(model, tiny.calibration(), layers=(1,), sites=("down_proj",))
    assert files(cache) == ["001-down_proj.safetensors", "about.json"]
    assert not some.has(0, "o_proj")
    assert some.missing(range(3)) == [0, 1, 2]
    everything = collect(model, tiny.calibration())
    assert everything.missing(range(3)) == []
    assert everything == some


def test_other_windows_or_another_precision_have_a_place_of_their_own(model, model_folder):
    place = collection_of(model, tiny.calibration())
    assert collection_of(model, tiny.calibration(samples=9)) != place
    assert collection_of(model, tiny.calibration(held_out=3)) != place
    other = rcpu.load_model(str(model_folder), "cpu", "bf16")
    assert collection_of(other, tiny.calibration()) != place


def test_cancelling_leaves_whole_layers_only(model, cache):
    seen = []
    with pytest.raises(rcpu.Cancelled):
        collect(model, tiny.calibration(), progress=seen.append, cancelled=lambda: len(seen) == 3, micro_batch=4)
    assert files(cache) == ["000-down_proj.safetensors", "000-o_proj.safetensors"]
    assert [p.fraction for p in seen] == sorted(p.fraction for p in seen)


def test_progress_ends_at_one(model):
    seen = []
    collect(model, tiny.calibration(), progress=seen.append)
    assert seen[-1].fraction == pytest.approx(1)


def test_vectors_are_the_sums_without_the_gram_matrix(model):
    found = collect(model, tiny.calibration())
    whole, vectors = found.get(2, "o_proj").calibration, found.vectors(2, "o_proj")
    assert vectors.variance.equal(whole.variance)
    assert vectors.gram.numel() == 0
    assert found.vectors(2, "o_proj") is vectors


def test_what_it_says_it_needs_is_what_it_writes(model, cache):
    windows = tiny.calibration()
    collect(model, windows)
    written = sum(p.stat().st_size for p in cache.rglob("*.safetensors"))
    said = collection_bytes(model.net, windows, range(3))
    assert said <= written <= said + 6 * 2000  # headers


def test_the_folder_used_longest_ago_leaves_first(model, cache, monkeypatch):
    first = collect(model, tiny.calibration())
    need = collection_bytes(model.net, tiny.calibration(), range(3))
    monkeypatch.setattr(module, "LIMIT", int(1.5 * need))
    second = collect(model, tiny.calibration(samples=9))
    assert not first.folder.exists()
    assert second.missing(range(3)) == []


def test_a_full_disk_is_said_before_anything_runs(model, cache, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(rcpu.RcpuError, match="choose fewer layers"):
        collect(model, tiny.calibration())
    assert files(cache) == []


@pytest.mark.parametrize("layers", [(3,), (-1, 0)])
def test_layers_that_do_not_exist(model, layers):
    with pytest.raises(rcpu.RcpuError, match="does not exist"):
        collect(model, tiny.calibration(), layers=layers)


def test_without_held_out_windows(model):
    found = collect(model, tiny.calibration(held_out=0), layers=(0,)).get(0, "o_proj")
    assert found.held_out is None


def test_broken_activations_are_named(model, cache):
    net = tiny.llama(**tiny.KINDS["gqa"])
    net.model.layers[1].mlp.gate_proj.weight.data[0, 0] = float("inf")
    broken = rcpu.Model("broken", net, model.tokenizer, model.folder, "0")
    with pytest.raises(rcpu.RcpuError, match="layer 1, down_proj"):
        collect(broken, tiny.calibration())


def test_the_dense_model_is_untouched(model):
    before = tiny.snapshot(model.net)
    collect(model, tiny.calibration())
    tiny.assert_unchanged(model.net, before)


def test_statistics_that_are_not_there_are_said(model):
    with pytest.raises(rcpu.RcpuError, match="measure the dense model first"):
        collection_of(model, tiny.calibration()).get(0, "o_proj")
