"""The embedded model once from end to end, on its own text: real weights, real words, no network."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import rcpu

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def model() -> rcpu.Model:
    return rcpu.load_model("embedded", "cpu", "fp32")


@pytest.fixture(scope="module")
def text() -> rcpu.Text:
    return rcpu.load_text("embedded")


def one_kv_head_each(net: LlamaForCausalLM) -> LlamaForCausalLM:
    """The same function with the KV heads written out once for each query head that reads them."""
    config = copy.deepcopy(net.config)
    group, config.num_key_value_heads = (
        config.num_attention_heads // config.num_key_value_heads,
        config.num_attention_heads,
    )
    weights = net.state_dict()
    for name, w in weights.items():
        if "k_proj" in name or "v_proj" in name:
            weights[name] = w.view(-1, config.head_dim, w.shape[-1]).repeat_interleave(group, 0).flatten(0, 1)
    wide = LlamaForCausalLM(config)
    wide.load_state_dict(weights)
    return wide.eval()


def test_prune_measure_generate_export_and_load_again(model, text, tmp_path):
    config = rcpu.Recipe(samples=16, held_out=4, layers=(0, 1, 14, 28), ratio=0.2)
    windows = rcpu.calibration_windows(text, model.tokenizer, samples=16, held_out=4)
    result = rcpu.prune(model.net, windows, config)

    assert [(s.layer, s.site) for s in result.sites] == [(i, s) for i in (0, 1, 14, 28) for s in rcpu.SITES]
    for site in result.sites:
        assert site.unit == "channel"
        assert site.kept == {"o_proj": 3 * (64 - 12), "down_proj": 1536 - 307}[site.site]
        assert site.error_compensated < site.error_none
        assert 0 < site.error_compensated_held_out < 1
    assert rcpu.cost(result.net) == rcpu.plan(model.net, config).after

    ids = rcpu.evaluation_windows(text, model.tokenizer, max_windows=8)
    found = {
        name: rcpu.perplexity(net, ids, text=text.name).perplexity
        for name, net in (("dense", model.net), ("none", result.uncompensated(model.net)), ("rotation", result.net))
    }
    assert found["dense"] < min(found["none"], found["rotation"])
    assert max(found.values()) < 60  # it still speaks English: a broken model is in the thousands

    made = rcpu.generate(result.net, model.tokenizer, "The capital of France is", max_new_tokens=12)
    assert made.tokens > 4

    logits = result.net(ids[:2]).logits
    compact = rcpu.load_model(str(rcpu.save(model, result, tmp_path / "compact")), "cpu", "fp32")
    torch.testing.assert_close(compact.net(ids[:2]).logits, logits, rtol=0, atol=1e-5)
    rcpu.save(model, result, tmp_path / "padded", shape="padded")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "padded", dtype=torch.float32)
    assert type(stock) is LlamaForCausalLM
    torch.testing.assert_close(stock(ids[:2]).logits, logits, rtol=0, atol=2e-3)


def test_whole_heads_go_where_every_query_head_has_its_own_kv_head(model, text):
    wide = one_kv_head_each(model.net)
    ids = rcpu.evaluation_windows(text, model.tokenizer, max_windows=2)
    torch.testing.assert_close(wide(ids).logits, model.net(ids).logits, rtol=0, atol=1e-3)

    windows = rcpu.calibration_windows(text, model.tokenizer, samples=8, held_out=2)
    config = rcpu.Recipe(samples=8, held_out=2, layers=(0, 1, 2), ratio=0.2)
    result = rcpu.prune(wide, windows, config)
    attention = [s for s in result.sites if s.site == "o_proj"]
    assert all(s.unit == "head" and s.kept == 8 and s.units == 9 for s in attention)
    assert all(s.error_compensated < s.error_none for s in result.sites)
    assert result.net.config.query_heads[:4] == [8, 8, 8, 9]
    assert result.net.model.layers[0].self_attn.k_proj.out_features == 8 * 64
    assert rcpu.perplexity(result.net, ids, text=text.name).perplexity < 500


@torch.no_grad()
def test_loading_again_takes_the_converted_files(model):
    again = rcpu.load_model("embedded", "cpu", "bf16")
    assert again.fingerprint == model.fingerprint
    assert again.net.dtype == torch.bfloat16
    assert {p.suffix for p in again.folder.iterdir()} >= {".safetensors", ".json"}
