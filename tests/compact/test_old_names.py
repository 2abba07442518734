"""What any loader is promised to take: exports of every shape read by transformers 4, logits, texts and tokens."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import rcpu
from tests import tiny

OLD = Path(sys.prefix) / "old-transformers"
TEXTS = ("hello wo", "the keeper  walked\nto <|im_start|> the sea", "naïve 😀")
ROPES = {
    "plain": {"rope_type": "default"},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
}
CASES = {name: {"rope_parameters": rope | {"rope_theta": 500_000.0}} for name, rope in ROPES.items()}
CASES |= {"tied": {"tie_word_embeddings": True}, "biased": {"attention_bias": True, "mlp_bias": True}}
#: Name of a model in tests/tiny.py, shape, recipe: a family's own class, or the modelling file that is brought along.
WHOLE = {"unit": "kv_group", "ratio": 0.5}
SHAPED = {f"stock-{name}": (name, "stock", WHOLE) for name in ("gqa", *tiny.FAMILIES) if name != "phi3-long"}
SHAPED |= {"stock-phi3-long": ("phi3-long", "stock", {"sites": ("down_proj",)})}
SHAPED |= {f"padded-{name}": (name, "padded", {}) for name in ("mistral", "qwen2", "qwen3", "phi3-partial")}
SHAPED |= {f"compact-{name}": (name, "compact", {}) for name in ("gqa", "tied", *tiny.FAMILIES)}
SHAPED |= {f"compact-{how}": ("gqa", "compact", {"method": how}) for how in ("slicegpt", "modegpt", "olica", "2ssp")}
SHAPED |= {"compact-bias": ("biased", "compact", {"compensation": "bias"})}
SCRIPT = """
import json, sys, torch, transformers
from pathlib import Path
from safetensors.torch import save_file
assert transformers.__version__.startswith("4."), transformers.__version__
ids = torch.tensor(json.loads(sys.argv[2]))
logits, tokens, said = {}, {}, {}
for folder in sorted(p for p in Path(sys.argv[1]).iterdir() if p.is_dir()):
    own = folder.name.startswith("compact")
    net = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=own).eval()
    assert type(net).__module__.startswith("transformers_modules." if own else "transformers.models.")
    assert not any(name.split(".")[0] == "rcpu" for name in sys.modules)
    assert net.dtype == torch.float32
    with torch.no_grad():
        logits[folder.name] = net(ids).logits.contiguous()
        prompt = ids[:1, :9]
        made = net.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False)
        said[folder.name] = made[0].tolist()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoded = [tokenizer(text).input_ids for text in json.loads(sys.argv[3])]
    tokens[folder.name] = [[ids, tokenizer.decode(ids)] for ids in encoded]
save_file(logits, sys.argv[4] + "/logits.safetensors")
Path(sys.argv[4], "tokens.json").write_text(json.dumps([tokens, said]))
"""


def long_ids() -> torch.Tensor:
    return tiny.ids(2, 100, seed=3)  # beyond what the positions of some were stretched from


@pytest.fixture(scope="module")
def exports(tmp_path_factory, windows) -> Path:
    """A padded export of every case, each with one of two kinds of tokenizers, and one with tokens of its own."""
    place, made = tmp_path_factory.mktemp("dense"), tmp_path_factory.mktemp("exports")
    for i, (name, settings) in enumerate(CASES.items()):
        net = tiny.llama(num_hidden_layers=2, vocab_size=300, **settings)
        net.save_pretrained(place / name)
        tokenizer = tiny.blanks(begin=True) if i % 2 else tiny.tokenizer()
        if name == "plain":
            tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.save_pretrained(place / name)
        model = rcpu.load_model(str(place / name), "cpu")
        result = rcpu.prune(model.net, windows, rcpu.Recipe(compensation="bias" if name == "biased" else "rotation"))
        rcpu.save(model, result, made / name, shape="padded")
    for name, (kind, shape, changes) in SHAPED.items():
        net = tiny.stock(kind) if kind in tiny.FAMILIES else tiny.net(kind)
        model = rcpu.load_model(str(tiny.save(net, place / name)), "cpu")
        result = rcpu.prune(model.net, windows, rcpu.Recipe(**{"ratio": 0.3} | changes))
        rcpu.save(model, result, made / name, shape=shape)
    return made


@pytest.fixture(scope="module")
def old(exports, tmp_path_factory) -> tuple[dict[str, torch.Tensor], dict, dict]:
    """Logits, tokens and greedy texts of every export in transformers 4."""
    if not OLD.is_dir():
        pytest.skip("transformers 4 could not be installed beside this one: `make test` tries again")
    out = tmp_path_factory.mktemp("old")
    arguments = [str(exports), json.dumps(long_ids().tolist()), json.dumps(TEXTS), str(out)]
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env={**os.environ, "PYTHONPATH": str(OLD), "OMP_NUM_THREADS": "1", "HF_MODULES_CACHE": str(out / "modules")},
        cwd=out,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return load_file(out / "logits.safetensors"), *json.loads((out / "tokens.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_transformers_4_computes_the_same(exports, old, name):
    net = AutoModelForCausalLM.from_pretrained(exports / name)
    assert type(net) is LlamaForCausalLM
    expected = tiny.logits(net.eval(), long_ids())
    torch.testing.assert_close(old[0][name], expected, rtol=0, atol=1e-4 * expected.std().item())
    tokenizer, ours = AutoTokenizer.from_pretrained(exports / name), rcpu.load_model(str(exports / name), "cpu")
    assert tiny.logits(ours.net, long_ids()).equal(expected)
    for text, (ids, decoded) in zip(TEXTS, old[1][name], strict=True):
        assert tokenizer(text).input_ids == ours.tokenizer(text).input_ids == ids
        assert tokenizer.decode(ids) == decoded


@pytest.mark.parametrize("name", SHAPED)
def test_every_shape_is_the_same_function_in_transformers_4(exports, old, name):
    net = rcpu.load_model(str(exports / name), "cpu").net
    expected, prompt = tiny.logits(net, long_ids()), long_ids()[:1, :9]
    torch.testing.assert_close(old[0][name], expected, rtol=0, atol=1e-4 * expected.std().item())
    made = net.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False)
    assert old[2][name] == made[0].tolist()


@pytest.mark.parametrize("name", CASES)
def test_both_names_are_written(exports, name):
    config = json.loads((exports / name / "config.json").read_text())
    rope = config["rope_parameters"]
    assert config["rope_theta"] == rope["rope_theta"]
    assert config["torch_dtype"] == config["dtype"] == "float32"
    scaling = {k: v for k, v in rope.items() if k != "rope_theta"}
    assert config.get("rope_scaling") == (scaling if rope["rope_type"] != "default" else None)
    tokenizer = json.loads((exports / name / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
