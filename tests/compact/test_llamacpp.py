"""GGUF files, read back through transformers: the same logits, the same tokens."""

import json

import gguf
import pytest
import torch
from gguf import GGUFReader
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerFast

import rcpu
from rcpu.compact.llamacpp import QUANTS, gguf_problem, split_name, write_gguf
from rcpu.compact.shapes import shaped
from rcpu.models.canonical import canonical
from tests import tiny


@pytest.fixture(scope="module")
def stock():
    """A LLaMA of whole KV groups and one width, pruned; rows are a multiple of Q8_0's block of 32."""
    net = tiny.llama(hidden_size=64, intermediate_size=128, num_attention_heads=8, num_key_value_heads=4)
    recipe = rcpu.Recipe(ratio=0.5, unit="kv_group")
    return shaped(rcpu.prune(net, tiny.calibration(), recipe).net, "stock")


def read(path):
    options = {"gguf_file": path.name, "local_files_only": True}
    net = AutoModelForCausalLM.from_pretrained(
        path.parent, **options, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    return net.eval()


@pytest.mark.parametrize(("quant", "accuracy"), [("f32", 1e-5), ("f16", 2e-3), ("bf16", 2e-2), ("q8_0", 1e-1)])
def test_what_is_written_is_read_as_the_same_function(stock, tokenizer, tmp_path, quant, accuracy):
    path = tmp_path / "model.gguf"
    write_gguf(stock, tokenizer, path, quant)
    again = read(path)
    expected = tiny.logits(stock)
    error = (tiny.logits(again) - expected).norm() / expected.norm()
    assert error < accuracy
    if quant == "f32":
        assert error < 1e-6
    kinds = {t.tensor_type for t in GGUFReader(path).tensors if len(t.shape) == 2}
    assert kinds == {QUANTS[quant]}


def test_a_padded_model_is_read_as_the_same_function(tokenizer, tmp_path):
    net = rcpu.prune(tiny.net("gqa"), tiny.calibration(), rcpu.Recipe(ratio=0.3)).net
    write_gguf(shaped(net, "padded"), tokenizer, tmp_path / "model.gguf", "f32")
    tiny.assert_same_function(read(tmp_path / "model.gguf"), net)


@pytest.mark.parametrize("name", ["mistral-wide", "qwen2", "qwen3", "phi3"])
def test_every_family_has_its_names(name, tokenizer, tmp_path):
    net = tiny.stock(name)
    compact = rcpu.prune(canonical(tiny.stock(name)), tiny.calibration(), rcpu.Recipe(ratio=0.5, unit="kv_group")).net
    for kind, one in (("dense", net), ("stock", shaped(compact, "stock"))):
        path = tmp_path / f"{kind}.gguf"
        write_gguf(one, tokenizer, path, "f32")
        fields, tensors = GGUFReader(path).fields, {t.name: t for t in GGUFReader(path).tensors}
        arch = fields["general.architecture"].contents()
        assert arch == {"mistral-wide": "llama"}.get(name, name)
        assert fields[f"{arch}.attention.head_count_kv"].contents() == one.config.num_key_value_heads
        assert fields[f"{arch}.feed_forward_length"].contents() == one.config.intermediate_size
        count = sum(t.n_elements for t in tensors.values())
        assert count == rcpu.cost(one).parameters
    if name == "qwen3":
        assert "blk.0.attn_q_norm.weight" in tensors
    if name == "qwen2":
        assert "blk.0.attn_q.bias" in tensors


def test_tokens_and_template_come_along(tokenizer, tmp_path):
    said = json.loads(tokenizer.backend_tokenizer.to_str())
    said["model"]["merges"] = [["w", "o"], ["wo", "r"]]
    said["model"]["vocab"] |= {"wo": 256, "wor": 257}
    said["added_tokens"] = []
    own = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(said)), eos_token="</s>")
    stock, end = tiny.llama(vocab_size=261), 258  # more rows than tokens, as some models have
    own.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    path = tmp_path / "model.gguf"
    write_gguf(stock, own, path, "f16", name="tiny")
    fields = GGUFReader(path).fields
    assert fields["general.name"].contents() == "tiny"
    assert fields["tokenizer.chat_template"].contents() == own.chat_template
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert tokens == [*own.convert_ids_to_tokens(range(len(own))), "[PAD259]", "[PAD260]"]
    assert fields["tokenizer.ggml.token_type"].contents()[end] == gguf.TokenType.CONTROL
    assert fields["tokenizer.ggml.eos_token_id"].contents() == end
    assert not fields["tokenizer.ggml.add_bos_token"].contents()
    again = AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    assert len(own("words").input_ids) == 3
    for text in ("plain words", "Grüße 123"):
        assert again(text).input_ids == own(text).input_ids


def test_scaled_rope_is_told(tokenizer, tmp_path):
    net = tiny.stock("llama3")
    write_gguf(net, tokenizer, tmp_path / "model.gguf", "f32")
    (freqs,) = [t for t in GGUFReader(tmp_path / "model.gguf").tensors if t.name == "rope_freqs.weight"]
    dim = net.config.head_dim
    plain = 500.0 ** (-torch.arange(0, dim, 2) / dim)
    torch.testing.assert_close(plain / torch.tensor(freqs.data), net.model.rotary_emb.inv_freq)


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"type": "ByteLevel", "use_regex": True}, "gpt-2"),
        ({"type": "ByteLevel", "use_regex": False}, "default"),
        (
            {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "ByteLevel", "use_regex": True}]},
            "smollm",
        ),
        ({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": LLAMA3}}]}, "llama-bpe"),
        ({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": QWEN2}}]}, "qwen2"),
        (None, "default"),
    ],
)
def test_ways_to_split_have_llama_cpps_names(said, name):
    assert split_name(json.loads(json.dumps(said))) == name


def test_what_cannot_be_is_said(stock, tokenizer, tmp_path):
    compact = rcpu.prune(tiny.net("gqa"), tiny.calibration(), rcpu.Recipe()).net
    assert "export it as stock or padded first" in gguf_problem(compact.config, tokenizer)
    dynamic = tiny.llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    assert gguf_problem(dynamic.config, tokenizer) == "llama.cpp has no RoPE type 'dynamic'"
    with pytest.raises(rcpu.RcpuError, match=r"cannot become a GGUF file: llama\.cpp has no RoPE type"):
        write_gguf(dynamic, tokenizer, tmp_path / "x.gguf")
    with pytest.raises(rcpu.RcpuError, match="unknown quant 'q4'"):
        write_gguf(stock, tokenizer, tmp_path / "x.gguf", "q4")
    small = tiny.llama(vocab_size=tiny.END)
    assert gguf_problem(small.config, tokenizer) == "its tokenizer makes 257 tokens, and it has 256 rows for them"
    assert not list(tmp_path.iterdir())
