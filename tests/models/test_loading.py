"""What is loaded, in which dtype, and every model folder that is refused, with the reason it is told."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config

import rcpu
from rcpu import RcpuError, load_model
from rcpu.models import devices, loading, sizes
from tests import tiny

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(model_folder, tmp_path) -> Path:
    """A copy of a good model, to be spoilt."""
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


@pytest.fixture
def sharded(tmp_path) -> Path:
    """A good model in several weight files, to be spoilt."""
    return tiny.save(tiny.net("gqa"), tmp_path / "model", max_shard_size="100KB")


def load(folder: Path | str, **options) -> rcpu.Model:
    return load_model(str(folder), **{"device": "cpu", **options})


def configure(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit_weights(folder: Path, edit) -> None:
    weights = load_file(folder / WEIGHTS)
    edit(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_saved_model_comes_back(kind, tmp_path):
    loaded = load(tiny.save(tiny.net(kind), tmp_path / kind))
    assert tiny.logits(loaded.net).equal(tiny.logits(tiny.net(kind)))
    assert loaded.name == str(tmp_path / kind)
    assert loaded.folder == tmp_path / kind
    assert (loaded.device.type, loaded.dtype) == ("cpu", "fp32")
    assert not loaded.net.training
    assert not any(p.requires_grad for p in loaded.net.parameters())
    assert loaded.net.config._attn_implementation == "sdpa"
    assert loaded.tokenizer("ab").input_ids == tiny.tokenizer()("ab").input_ids


def test_shards_are_found_and_progress_is_told(sharded):
    assert len(list(sharded.glob("*.safetensors"))) > 1
    told = []
    loaded = load(sharded, report=told.append)
    assert tiny.logits(loaded.net).equal(tiny.logits(tiny.net("gqa")))
    assert told == ["loading weights", "checking weights"]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_dtypes(folder, dtype, expected):
    edit_weights(folder, lambda w: w.update({k: v.bfloat16() for k, v in w.items()}))
    configure(folder, dtype="bfloat16")
    loaded = load(folder, dtype=dtype)
    assert {p.dtype for p in loaded.net.parameters()} == {expected}
    assert loaded.dtype == {"auto": "fp32"}.get(dtype, dtype)


def test_auto_dtype_is_the_checkpoints_own_on_an_accelerator():
    config = tiny.llama().config
    for own, expected in ((torch.bfloat16, torch.bfloat16), (torch.float32, torch.float32), (None, torch.float16)):
        config.dtype = own
        assert devices.resolve_dtype("auto", torch.device("cuda"), config) == expected


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "has no config.json: expected the folder of a Hugging Face model"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not the configuration of a model"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json is not the configuration of a model"),
        (lambda f: (f / "config.json").write_text("{}"), "config.json is not the configuration of a model"),
        (lambda f: GPT2Config().save_pretrained(f), "model is a 'gpt2' model .*: supported are LLaMA, Mistral"),
        (lambda f: configure(f, model_type="mixtral", architectures=["M"]), r"model is a 'mixtral' model \(M\)"),
        (lambda f: configure(f, model_type="gemma", architectures=None), r"is a 'gemma' model \(no class named\)"),
        (lambda f: configure(f, auto_map={"AutoModel": "x.Y"}), "asks to run its own code .*: code .* is never run"),
        (lambda f: configure(f, quantization_config={"quant_method": "gptq"}), "model is quantised: pruning needs"),
        (lambda f: (f / WEIGHTS).unlink(), "holds no weights: expected model.safetensors or its shards"),
        (lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"), "holds only pytorch_model.bin, and pickled weights"),
        (lambda f: (f / WEIGHTS).rename(f / "model.pth"), "holds only model.pth, and pickled weights are never loaded"),
        (lambda f: truncate(f / WEIGHTS), "model.safetensors is truncated or broken .*: copy or download it again"),
        (lambda f: (f / WEIGHTS).write_bytes(b""), "model.safetensors is truncated or broken"),
        (lambda f: (f / WEIGHTS).write_bytes(b"\0" * 99), "model.safetensors is truncated or broken"),
        (
            lambda f: edit_weights(f, lambda w: w.pop("model.layers.1.mlp.up_proj.weight")),
            r"lacks 1 of the model's weights, model.layers.1.mlp.up_proj.weight among them",
        ),
        (
            lambda f: edit_weights(f, lambda w: w["lm_head.weight"][3].fill_(torch.nan)),
            "lm_head.weight holds 48 NaN or Inf values: the file is broken",
        ),
        (
            lambda f: edit_weights(f, lambda w: w["model.norm.weight"][:2].fill_(torch.inf)),
            "model.norm.weight holds 2 NaN or Inf values",
        ),
        (
            lambda f: [p.unlink() for p in f.glob("token*")],
            "has no tokenizer: expected tokenizer.json or tokenizer.mod",
        ),
        (lambda f: (f / "tokenizer.json").write_text("{"), "cannot load .*tokenizer.json: "),
    ],
)
def test_broken_folders_say_what_is_wrong(folder, spoil, message):
    spoil(folder)
    with pytest.raises(RcpuError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value) or folder.name in str(caught.value) or "holds" in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": "wide"},
        {"hidden_size": 50},
        {"num_attention_heads": 0},
        {"num_key_value_heads": 0},
        {"num_key_value_heads": 3},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": 2},
        {"num_hidden_layers": 4},
        {"head_dim": 0},
        {"vocab_size": -1},
        {"vocab_size": 99},
        {"intermediate_size": 40},
        {"hidden_act": "no such thing"},
        {"pad_token_id": 9999},
        {"rope_parameters": {"rope_type": "no such thing"}},
        {"rope_parameters": {"rope_type": "yarn"}},
        {"dtype": "float5"},
        {"attention_bias": True},
        {"model_type": ["llama"]},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")  # on the way to the refusal
def test_configurations_that_are_not_those_of_the_weights(folder, values):
    configure(folder, **values)
    with pytest.raises(RcpuError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert not str(caught.value).endswith(":")  # where other libraries put the reason on the next line


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "is not an index of weight files"),
        ("[]", "is not an index of weight files"),
        ('{"weight_map": []}', "is not an index of weight files"),
        ('{"weight_map": {"lm_head.weight": 3}}', "is not an index of weight files"),
        ('{"metadata": {}}', "is not an index of weight files"),
        ('{"weight_map": {"lm_head.weight": "../secret.safetensors"}}', r"lacks \.\./secret.safetensors"),
    ],
)
def test_broken_indices_say_so(sharded, index, message):
    (sharded / INDEX).write_text(index)
    with pytest.raises(RcpuError, match=message):
        load(sharded)


def test_a_broken_shard_is_named(sharded):
    shards = sorted(sharded.glob("*.safetensors"))
    truncate(shards[1])
    with pytest.raises(RcpuError, match=f"{shards[1].name} is truncated or broken"):
        load(sharded)
    shards[1].unlink()
    with pytest.raises(RcpuError, match=f"lacks {shards[1].name}, one of {len(shards)} weight files"):
        load(sharded)


def test_values_too_large_for_a_dtype(folder):
    edit_weights(folder, lambda w: w["lm_head.weight"][0, :3].fill_(1e6))
    assert load(folder).dtype == "fp32"
    with pytest.raises(RcpuError, match=r"lm_head.weight holds 3 NaN or Inf values: .*float16 is too narrow"):
        load(folder, dtype="fp16")


@pytest.mark.parametrize("compensation", ["rotation", "bias"])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_parameters_are_counted_from_the_configuration(kind, compensation, windows):
    dense = tiny.net(kind)
    pruned = rcpu.prune(dense, windows, rcpu.Recipe(ratio=0.3, compensation=compensation, layers=(0, 2))).net
    for net in (dense, pruned):
        assert sizes.parameter_count(net.config) == rcpu.cost(net).parameters


def test_memory_is_looked_at_before_weights_are_read(folder, monkeypatch):
    parameters, told = rcpu.cost(tiny.net("gqa")).parameters, []
    monkeypatch.setattr(sizes, "free_memory", lambda device: 4 * parameters)  # the weights alone
    with pytest.raises(RcpuError, match=r"the model does not fit: .* cpu has 0.0 GiB free; .* or a narrower dtype"):
        load(folder, report=told.append)
    assert not told
    assert load(folder, dtype="bf16").dtype == "bf16"
    monkeypatch.setattr(sizes, "free_memory", lambda device: parameters)
    with pytest.raises(RcpuError, match="take a smaller model, or free memory"):
        load(folder, dtype="bf16")
    monkeypatch.undo()
    assert devices.free_memory(torch.device("cpu")) > 2**20


def test_what_a_model_would_take_is_known_before_it_is_loaded(folder, monkeypatch):
    parameters = rcpu.cost(tiny.net("gqa")).parameters
    found = loading.footprint(str(folder), "cpu", "bf16")
    assert (found.parameters, found.device, found.dtype, found.fits) == (parameters, "cpu", "bf16", True)
    assert found.need == sizes.bytes_needed(parameters, torch.bfloat16) > 2 * parameters
    monkeypatch.setattr(loading, "free_memory", lambda device: 3 * parameters)
    assert loading.footprint(str(folder), "cpu", "bf16").fits
    assert not loading.footprint(str(folder), "cpu", "fp32").fits  # and loading refuses it, as above
    assert loading.footprint("/nothing/here") is None
    assert loading.footprint("someone/model") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "unknown device 'gpu': choose one of auto, cpu, cuda, cuda:N, mps"),
        ({"device": "cuda:x"}, "unknown device 'cuda:x'"),
        ({"device": "cuda"}, "device cuda: this machine or this build of torch has no CUDA GPU; use cpu or auto"),
        ({"device": "cuda:1"}, "device cuda:1: this machine"),
        ({"device": "mps"}, "device mps: this machine or this build of torch has no Apple GPU; use cpu or auto"),
        ({"dtype": "int8"}, "unknown dtype 'int8': choose one of fp32, bf16, fp16, auto"),
    ],
    ids=str,
)
def test_devices_and_dtypes_that_are_not_there(folder, monkeypatch, options, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert devices.accelerators() == []
    assert devices.resolve_device("auto") == torch.device("cpu")
    with pytest.raises(RcpuError, match=message):
        load(folder, **options)


def test_accelerators_are_counted_and_preferred(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert devices.accelerators() == ["cuda:0", "cuda:1"]
    assert devices.resolve_device("auto") == torch.device("cuda")
    assert devices.resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(RcpuError, match="device cuda:2: this machine has 2 CUDA GPUs, from cuda:0"):
        devices.resolve_device("cuda:2")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nobody/nothing", r"from the hub \(HF_HUB_OFFLINE is set\) and no folder has that name: check"),
        ("nothing", "no model 'nothing': give 'embedded', an existing folder, or a hub id like 'owner/name'"),
        ("/no/such/folder", "no model '/no/such/folder'"),
        ("./nobody/nothing", r"no model './nobody/nothing'"),
        ("a b/c", "no model 'a b/c'"),
        ("~no-such-user/x", "no model '~no-such-user/x'"),
        ("long" * 99, "no model 'long"),
    ],
)
def test_names_that_lead_nowhere(name, message):
    with pytest.raises(RcpuError, match=message) as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_what_the_hub_gave_before_needs_no_network(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--owner--tiny"
    shutil.copytree(model_folder, home / "snapshots" / ("0" * 40))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0" * 40)
    loaded = load("owner/tiny")
    assert loaded.name == "owner/tiny"
    assert loaded.folder == home / "snapshots" / ("0" * 40)


def test_a_file_is_not_a_model(folder):
    with pytest.raises(RcpuError, match=r"config.json is a file, expected the folder of a model"):
        load(folder / "config.json")


def test_fingerprint_is_of_configuration_weights_and_tokenizer(folder):
    first = load(folder).fingerprint
    assert len(first) == 16
    assert load(folder).fingerprint == first
    shutil.copytree(folder, folder.with_name("elsewhere"))
    assert load(folder.with_name("elsewhere")).fingerprint == first
    edit_weights(folder, lambda w: w["model.norm.weight"][5:6].add_(1e-3))
    second = load(folder).fingerprint
    configure(folder, rms_norm_eps=1e-5)
    third = load(folder).fingerprint
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "a"}))
    fourth = load(folder).fingerprint
    (folder / "special_tokens_map.json").write_text('{"eos_token": "b"}')
    assert len({first, second, third, fourth, load(folder).fingerprint}) == 5
