"""What a folder may hold and what it may not: each fault is told with its file and remedy, before weights are read."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForSequenceClassification

import rcpu
from rcpu import RcpuError, load_model
from rcpu.models import footprint
from rcpu.models.files import stored_dtype
from tests import tiny

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 133466304\n"


@pytest.fixture
def folder(model_folder, tmp_path) -> Path:
    """A copy of a good model, to be spoilt."""
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def configure(folder: Path, file: str = "config.json", **values) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(folder: Path) -> str:
    """What loading says; nothing of the weights is read."""
    told = []
    with pytest.raises(RcpuError) as caught:
        load_model(str(folder), "cpu", report=told.append)
    assert "\n" not in str(caught.value)
    assert told == []
    return str(caught.value)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_beside_the_weights_is_refused(folder, name):
    (folder / name).write_text("{}")
    assert re.search(f"holds a PEFT adapter beside the weights .{name}.*merge_and_unload", refused(folder))
    with pytest.raises(RcpuError, match="adapter"):
        footprint(str(folder), "cpu")


def test_an_adapter_alone_is_told_from_a_model(folder):
    for path in folder.iterdir():
        path.unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "x/y"}')
    assert "holds a PEFT adapter alone (adapter_config.json), expected a whole model" in refused(folder)


def test_an_adapter_in_a_folder_of_its_own_is_left_out_aloud(folder):
    (folder / "checkpoint-9").mkdir()
    (folder / "checkpoint-9" / "adapter_config.json").write_text("{}")
    told = []
    load_model(str(folder), "cpu", report=told.append)
    assert told[0] == "leaving out the adapters in checkpoint-9"


@pytest.mark.parametrize(
    "name", ["config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
)
def test_files_that_cannot_be_read(folder, name, modes_hold):
    (folder / name).chmod(0)
    assert refused(folder) == f"cannot read {folder / name}: permission denied"


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "tokenizer.json"])
def test_folders_in_the_place_of_files(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    assert refused(folder) == f"cannot read {folder / name}: is a directory"


def test_an_index_that_cannot_be_read(tmp_path, modes_hold):
    folder = tiny.save(tiny.net("gqa"), tmp_path / "model", max_shard_size="100KB")
    (folder / INDEX).chmod(0)
    assert refused(folder) == f"cannot read {folder / INDEX}: permission denied"


def test_closed_folders(folder, modes_hold):
    folder.chmod(0)
    assert "permission denied" in refused(folder)
    folder.chmod(0o755)
    folder.parent.chmod(0)
    assert refused(folder) == f"cannot read {folder}: permission denied"
    with pytest.raises(RcpuError, match="permission denied"):
        footprint(str(folder), "cpu")
    with pytest.raises(RcpuError, match="permission denied"):
        rcpu.load_text(str(folder / "words.txt"))
    folder.parent.chmod(0o755)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "tokenizer.json", "generation_config.json"])
def test_git_lfs_pointers(folder, name):
    (folder / name).write_text(POINTER)
    assert f"{name} is a git-lfs pointer, expected the file itself: run `git lfs pull`" in refused(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("encoding", "found"),
    [("utf-8-sig", "begins with a byte-order mark"), ("utf-16", "is in UTF-16"), ("utf-16-le", "is in UTF-16")],
)
def test_other_encodings(folder, name, encoding, found):
    (folder / name).write_text((folder / name).read_text(), encoding=encoding)
    assert f"{name} {found}: expected plain UTF-8" in refused(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", r"config.json is not the configuration of a model: it is not JSON \(.*line 1"),
        ('["llama"]', "config.json is not the configuration of a model: it holds a list, expected an object"),
        ("null", "it holds a NoneType, expected an object"),
        ("{}", "config.json is not the configuration of a model: it has no model_type"),
    ],
)
def test_configurations_that_are_none(folder, config, message):
    (folder / "config.json").write_text(config)
    assert re.search(message, refused(folder))


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        (
            {"rope_scaling": {"type": "ntk", "factor": 2.0}},
            "RoPE type 'ntk' .rope_scaling.: expected one of default, lin",
        ),
        ({"rope_parameters": {"rope_type": "mrope"}}, "RoPE type 'mrope' .rope_parameters."),
        (
            {"rope_scaling": {"factor": 2.0}},
            "rope_scaling has no rope_type, and factor would be overlooked: add the type",
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling of the type 'linear' lacks factor: add it"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "of the type 'llama3' lacks low_freq_factor"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": "2"}}, "factor in rope_scaling is '2', expected a number"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear', expected an object with a rope_type, or null"),
    ],
    ids=str,
)
def test_positions_that_are_not_known(folder, rope, message):
    path = folder / "config.json"
    values = {k: v for k, v in json.loads(path.read_text()).items() if k != "rope_parameters"}
    path.write_text(json.dumps(values | {"rope_theta": 1e4} | rope))
    assert re.search(f"config.json.*{message}", refused(folder))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_new_tokens": -1}, "is refused: .max_new_tokens. must be greater than 0, but is -1. Correct that value"),
        ({"cache_implementation": "none"}, "generation_config.json is refused: Invalid"),
        ({"eos_token_id": "</s>"}, "eos_token_id is '</s>', expected the number of a token"),
        ({"eos_token_id": [2, "2"]}, "eos_token_id is"),
    ],
    ids=str,
)
def test_generation_settings_that_are_refused(folder, values, message):
    configure(folder, "generation_config.json", **values)
    assert re.search(message, refused(folder))
    (folder / "generation_config.json").write_text("[]")
    assert "generation_config.json is not a generation configuration: it holds a list" in refused(folder)


def test_a_classifier_is_told_from_a_language_model(folder):
    config = load_model(str(folder), "cpu").net.config
    LlamaForSequenceClassification(config).save_pretrained(folder)
    assert "describes a LlamaForSequenceClassification, expected a LlamaForCausalLM" in refused(folder)
    configure(folder, architectures=["LlamaForCausalLM"])
    with pytest.raises(RcpuError, match=r"lacks 1 .*, lm_head.weight among them and holds score.weight: "):
        load_model(str(folder), "cpu")


@pytest.mark.parametrize(
    ("key", "shape"), [("model.layers.1.mlp.up_proj.weight", (40, 48)), ("model.norm.weight", (9,))]
)
def test_a_weight_of_another_shape_is_named_with_both(folder, key, shape):
    weights = load_file(folder / WEIGHTS)
    expected = " × ".join(map(str, weights[key].shape))
    save_file(weights | {key: torch.zeros(shape)}, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(
        RcpuError, match=f"{key} has the shape {' × '.join(map(str, shape))} in .*describes {expected} "
    ):
        load_model(str(folder), "cpu")


@pytest.mark.parametrize(
    "flags",
    [
        {"output_attentions": True},
        {"output_hidden_states": True},
        {"return_dict": False},
        {"use_return_dict": False},
        {"torchscript": True, "output_attentions": True, "return_dict": False},
        {"use_cache": False},
        {"dtype": "auto"},
        {"temperature": 0.5, "num_beams": 4},
    ],
    ids=str,
)
def test_flags_that_change_what_a_forward_returns_do_not_matter(folder, flags, windows, tmp_path):
    configure(folder, **flags)
    model = load_model(str(folder), "cpu")
    assert tiny.logits(model.net).equal(tiny.logits(tiny.net("gqa")))
    rcpu.perplexity(model.net, windows.calibration, text="random")
    assert rcpu.generate(model.net, model.tokenizer, "a", max_new_tokens=2).tokens == 2
    result = rcpu.prune(model.net, windows, rcpu.Recipe())
    for as_padded in (False, True):
        saved = rcpu.save(model, result, tmp_path / f"out-{as_padded}", shape="padded" if as_padded else "compact")
        tiny.assert_same_function(load_model(str(saved), "cpu").net, result.net)


def test_an_output_head_beside_a_tied_embedding_is_a_head_of_its_own(tmp_path, windows):
    folder = tiny.save(tiny.net("tied"), tmp_path / "model")
    weights = load_file(folder / WEIGHTS)
    head = torch.randn(weights["model.embed_tokens.weight"].shape, generator=torch.Generator().manual_seed(0))
    save_file(weights | {"lm_head.weight": head}, folder / WEIGHTS, metadata={"format": "pt"})
    model = load_model(str(folder), "cpu")
    assert model.net.lm_head.weight.equal(head)
    result = rcpu.prune(model.net, windows, rcpu.Recipe())
    for as_padded in (False, True):
        saved = rcpu.save(model, result, tmp_path / f"out-{as_padded}", shape="padded" if as_padded else "compact")
        assert json.loads((saved / "config.json").read_text())["tie_word_embeddings"] is False
        tiny.assert_same_function(load_model(str(saved), "cpu").net, result.net)


def test_the_precision_of_a_checkpoint_is_that_of_most_of_its_weights(folder):
    weights = load_file(folder / WEIGHTS)
    assert stored_dtype([folder / WEIGHTS]) == "fp32"
    save_file({k: v if "norm" in k else v.bfloat16() for k, v in weights.items()}, folder / WEIGHTS)
    assert stored_dtype([folder / WEIGHTS]) == "bf16"
    assert load_model(str(folder), "cpu").storage == "bf16"
    assert load_model(str(folder), "cpu").dtype == "fp32"
    assert load_model(str(folder), "cpu", "fp16").storage == "fp16"
