"""Streams: the weights of a run in memory to the last bit, measured on the way, resumed."""

from __future__ import annotations

import dataclasses
import gc
import json

import pytest
import torch
from safetensors.torch import load_file

import rcpu
from rcpu.models.shards import Shards
from rcpu.runs.streaming import PART, STATE, _begin, stream
from tests import tiny

RECIPE = rcpu.Recipe(samples=6, window=16, held_out=3, ratio=0.3)
CPU = torch.device("cpu")
EVALUATION = tiny.ids(5, 12, seed=7)


def folder_of(name: str, tmp_path, dtype=torch.float32):
    net = tiny.stock(name) if name in tiny.FAMILIES else tiny.net(name)
    if dtype != torch.float32:
        import copy

        net = copy.deepcopy(net).to(dtype)
    return tiny.save(net, tmp_path / f"dense-{name}", max_shard_size="60KB")


def streamed(folder, target, recipe=RECIPE, dtype=torch.float32, **options):
    windows = tiny.calibration(samples=6, held_out=3)
    options = {"evaluation": EVALUATION, "text": "random tokens", "storage": dtype} | options
    return stream(Shards(folder), windows, recipe, target, device=CPU, dtype=dtype, **options)


def weights(folder) -> dict[str, torch.Tensor]:
    return {k: t for path in sorted(folder.glob("model-*.safetensors")) for k, t in load_file(path).items()}


def assert_same_weights(found: dict, expected: dict) -> None:
    expected = {k: t for k, t in expected.items() if k in found or k != "lm_head.weight"}
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.equal(expected[name]), name


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["gqa", "biased", "tied", "mistral", "qwen3", "phi3"])
def test_the_weights_are_those_of_a_run_in_memory(name, dtype, tmp_path):
    folder = folder_of(name, tmp_path, rcpu.DTYPES[dtype])
    found = streamed(folder, tmp_path / "out", dtype=rcpu.DTYPES[dtype])
    model = rcpu.load_model(str(folder), "cpu", dtype)
    result = rcpu.prune(model.net, tiny.calibration(samples=6, held_out=3), RECIPE)
    assert_same_weights(weights(found.folder), result.net.state_dict())
    for sizes in ("query_heads", "value_dims", "intermediate_sizes", "o_bias"):
        assert getattr(found.config, sizes) == getattr(result.net.config, sizes)
    assert [s["error_compensated"] for s in found.sites] == [s.error_compensated for s in result.sites]
    accuracy = 1e-5 if dtype == "fp32" else 2e-2
    for ours, net in ((found.dense, model.net), (found.pruned, result.net)):
        expected = rcpu.perplexity(net, EVALUATION, text="random tokens")
        assert ours.perplexity == pytest.approx(expected.perplexity, rel=accuracy)
        assert (ours.windows, ours.tokens, ours.digest) == (expected.windows, expected.tokens, expected.digest)


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": (1,)},
        {"sites": ("down_proj",), "compensation": "bias"},
        {"order": "site", "unit": "kv_group", "ratio": 0.5},
        {"ratios": ((0, 0.0), (2, 0.6)), "compensation": "least_squares"},
    ],
    ids=str,
)
def test_every_choice_of_columns_streams(changes, tmp_path):
    folder, recipe = folder_of("gqa", tmp_path), dataclasses.replace(RECIPE, **changes)
    found = streamed(folder, tmp_path / "out", recipe)
    result = rcpu.prune(tiny.net("gqa"), tiny.calibration(samples=6, held_out=3), recipe)
    assert_same_weights(weights(found.folder), result.net.state_dict())


def test_states_may_lie_on_the_disk_and_away_from_the_layers(tmp_path):
    folder = folder_of("gqa", tmp_path)
    held = streamed(folder, tmp_path / "held")
    for how in ({"on_disk": True}, {"away": True}, {"on_disk": True, "away": True}):
        found = streamed(folder, tmp_path / "-".join(how), **how)
        assert_same_weights(weights(found.folder), weights(held.folder))
        assert found.pruned == held.pruned


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_stream_that_was_stopped_goes_on_to_the_same_end(layer, tmp_path):
    folder, target = folder_of("gqa", tmp_path), tmp_path / "out"
    whole = streamed(folder, tmp_path / "whole")
    told: list[str] = []
    with pytest.raises(rcpu.Cancelled):
        streamed(
            folder,
            target,
            progress=lambda p: told.append(p.message),
            cancelled=lambda: any(m.startswith(f"layer {layer}") for m in told),
        )
    part = target.with_name("out" + PART)
    assert part.exists()
    assert not target.exists()
    with pytest.raises(rcpu.RcpuError):  # what is there never loads half
        rcpu.load_model(str(part), "cpu")
    again = streamed(folder, target, resume=True)
    assert_same_weights(weights(again.folder), weights(whole.folder))
    assert (again.sites, again.dense, again.pruned) == (whole.sites, whole.dense, whole.pruned)
    assert len(again.seconds) == 3 - layer


def test_nothing_of_a_layer_outlives_it(tmp_path, monkeypatch):
    """Else it would lie beside the next one: a layer more is what the largest models have no room for."""
    real, held = Shards.let_go, []

    def let_go(net, index: int) -> None:
        places = {p.data_ptr() for p in net.model.layers[index].parameters()}
        real(net, index)
        gc.collect()
        tensors = [t for t in gc.get_objects() if type(t) in (torch.Tensor, torch.nn.Parameter)]
        held.extend(tuple(t.shape) for t in tensors if t.device.type == "cpu" and t.numel() and t.data_ptr() in places)

    monkeypatch.setattr(Shards, "let_go", staticmethod(let_go))
    streamed(folder_of("gqa", tmp_path), tmp_path / "out")
    assert not held


def test_only_the_same_run_is_resumed(tmp_path):
    folder, target = folder_of("gqa", tmp_path), tmp_path / "out"
    part = streamed(folder, target).folder
    assert json.loads((part / STATE).read_text())["done"] == 3
    with pytest.raises(rcpu.RcpuError, match="begun with another model, recipe, text or precision"):
        streamed(folder, target, dataclasses.replace(RECIPE, ratio=0.4), resume=True)
    (tmp_path / ("other" + PART)).mkdir()
    (tmp_path / ("other" + PART) / "diary.txt").write_text("mine")
    with pytest.raises(rcpu.RcpuError, match="holds something else than a run that was begun"):
        streamed(folder, tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"allocation": "influence"}, "looks at the whole model first"),
        ({"target": 0.25, "compensation": "least_squares"}, "need states of the dense model"),
        ({"path": "dense"}, "need states of the dense model"),
        ({"method": "slicegpt"}, "works on the whole model"),
    ],
)
def test_recipes_that_need_the_whole_model_are_refused_by_name(changes, reason, tmp_path):
    recipe = rcpu.Recipe(samples=6, window=16, held_out=3, **changes)
    with pytest.raises(rcpu.RcpuError, match=f"cannot be streamed: .*{reason}"):
        streamed(folder_of("gqa", tmp_path), tmp_path / "out", recipe)
    assert not (tmp_path / ("out" + PART)).exists()


def test_broken_files_are_named(tmp_path):
    folder = folder_of("gqa", tmp_path)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    path = folder / index["weight_map"]["model.layers.1.mlp.up_proj.weight"]
    from safetensors.torch import save_file

    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(rcpu.RcpuError, match=r"model.layers.1.mlp.up_proj.weight holds NaN"):
        streamed(folder, tmp_path / "out")


def test_a_process_that_looks_late_is_not_in_the_way_of_the_first(tmp_path):
    part = tmp_path / "out.part"

    class Second:
        first, rank = False, 1

        def wait(self) -> None:  # meanwhile the first one goes on
            part.mkdir(exist_ok=True)
            (part / STATE).write_text("{}")

    assert _begin(part, "asked", True, Second()) == (0, [], {})
