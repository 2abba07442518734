"""Stock and padded models: the same function, one size in all layers or the reason why not, any loader's class."""

from dataclasses import replace

import pytest
import torch
import transformers

import rcpu
from rcpu.compact.shapes import check_shape, shape_problem, shaped, stock_config
from rcpu.models.canonical import canonical, canonical_config
from rcpu.models.compact_llama import CompactLlamaConfig, CompactLlamaForCausalLM
from tests import tiny

#: With one width and whole KV groups everywhere.
UNIFORM = rcpu.Recipe(ratio=0.5, unit="kv_group", compensation="rotation")


def dense(name: str):
    return canonical(tiny.stock(name)) if name in tiny.FAMILIES else tiny.net(name)


def pruned(name: str, **changes):
    return rcpu.prune(dense(name), tiny.calibration(), replace(UNIFORM, **changes)).net


@pytest.mark.parametrize("name", [*tiny.KINDS, *(name for name in tiny.FAMILIES if name != "phi3-long")])
def test_stock_is_the_same_function_and_smaller(name):
    net = pruned(name)
    made = shaped(net, "stock")
    tiny.assert_same_function(made, net, 1e-4)
    assert type(made).__module__.startswith("transformers.models.")
    assert type(made.config).model_type in ("llama", "mistral", "qwen2", "qwen3", "phi3")
    assert rcpu.cost(made).parameters == rcpu.cost(net).parameters < rcpu.cost(dense(name)).parameters
    fresh = type(made)(made.config)
    assert {k: v.shape for k, v in fresh.state_dict().items()} == {k: v.shape for k, v in made.state_dict().items()}


@pytest.mark.parametrize("unit", ["channel", "kv_group"])
@pytest.mark.parametrize("name", [*tiny.KINDS, *tiny.FAMILIES])
def test_padded_is_the_same_function_in_the_dense_sizes(name, unit):
    net = pruned(name, unit=unit, ratio=0.5, layers=(0, 2))
    made = shaped(net, "padded")
    tiny.assert_same_function(made, net, 1e-4)
    assert rcpu.cost(made).parameters == rcpu.cost(dense(name)).parameters
    assert made.config.num_attention_heads == dense(name).config.num_attention_heads


@pytest.mark.parametrize("shape", ["stock", "padded"])
@pytest.mark.parametrize("name", ["gqa", "biased", "tied", "qwen3"])
def test_biases_take_the_switches_of_the_family(name, shape):
    net = pruned(name, compensation="bias", sites=("o_proj",))
    made = shaped(net, shape)
    tiny.assert_same_function(made, net, 1e-4)
    assert made.config.attention_bias


def test_families_without_switches_say_so():
    net = pruned("mistral", compensation="bias")
    for shape in ("stock", "padded"):
        with pytest.raises(rcpu.RcpuError, match="a bias was added to o_proj, and Mistral has none there; possible is"):
            shaped(net, shape)
    assert shape_problem(net.config, "compact") == ""


def test_sizes_are_rounded_up_with_zeros():
    net = pruned("gqa", ratio=0.2, sites=("down_proj",))
    made = shaped(net, "stock", multiple=64)
    assert made.config.intermediate_size == 64  # of 58
    tiny.assert_same_function(made, net, 1e-4)
    with pytest.raises(rcpu.RcpuError, match="a multiple of 64 or 128: 3"):
        check_shape(net.config, "stock", 3)
    with pytest.raises(rcpu.RcpuError, match="for the stock shape alone"):
        check_shape(net.config, "padded", 64)


def test_heads_that_do_not_divide_a_llamas_width_make_it_a_mistral():
    """transformers refuses a LLaMA of 32 columns and three heads."""
    net = pruned("mha", unit="head", ratio=0.25)
    assert net.config.query_heads[0] == 3
    made = shaped(net, "stock")
    assert type(made) is transformers.MistralForCausalLM
    assert made.config.sliding_window is None
    tiny.assert_same_function(made, net, 1e-4)
    biased = pruned("biased", unit="head", ratio=0.25)
    with pytest.raises(rcpu.RcpuError, match="3 heads do not divide a LLaMA's width"):
        shaped(biased, "stock")


def test_a_phi_3_with_long_rope_keeps_its_heads():
    whole = pruned("phi3-long")
    assert "LongRoPE's factors of a Phi-3" in shape_problem(whole.config, "stock")
    assert shape_problem(whole.config, "padded") == ""
    narrow = pruned("phi3-long", sites=("down_proj",))
    made = shaped(narrow, "stock")
    tiny.assert_same_function(made, narrow, 1e-4)


def config(**changes) -> CompactLlamaConfig:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
    return CompactLlamaConfig(**sizes | changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"intermediate_sizes": [40, 44]}, "layer 0 has 40 channels and layer 1 has 44"),
        ({"query_heads": [4, 2], "kv_heads": [4, 2]}, "layer 0 has 4 KV heads and layer 1 has 2"),
        ({"value_dims": [8, 6]}, "layer 1 has values 6 wide beside heads of 8"),
        ({"key_dims": [4, 8]}, "layer 0 has fewer RoPE pairs"),
        ({"ranks": {"up_proj": [0, 7]}}, "up_proj is a product of two factors"),
        ({}, "nothing in it is smaller than the dense model"),
    ],
)
def test_what_rules_stock_out_is_said(changes, reason):
    assert reason in shape_problem(config(**changes), "stock")
    assert shape_problem(config(**changes), "padded") == ""
    assert shape_problem(config(**changes), "compact") == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"branch_ranks": [0, 3]}, "layer 1 has a linear branch"),
        ({"residual_sizes": [32, 30, 30, 30, 30]}, "its residual stream was sliced"),
    ],
)
def test_what_rules_padded_out_is_said(changes, reason):
    for shape in ("stock", "padded"):
        assert reason in shape_problem(config(**changes), shape)
    with pytest.raises(rcpu.RcpuError, match="possible is compact"):
        check_shape(config(**changes), "padded")


def test_factors_and_pairs_are_put_in_their_places():
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        net = CompactLlamaForCausalLM(
            config(
                vocab_size=tiny.VOCABULARY,
                num_key_value_heads=2,
                key_dims=[6, 8],
                value_dims=[8, 5],
                ranks={"up_proj": [7, 0], "o_proj": [0, 9]},
                initializer_range=0.2,
            )
        ).eval()
    net.model.layers[0].self_attn.pairs = torch.tensor([[0, 2, 3], [1, 2, 3]])
    tiny.assert_same_function(shaped(net, "padded"), net, 1e-4)


def test_the_way_back_keeps_what_a_configuration_said():
    for name in tiny.FAMILIES:
        own = tiny.stock(name).config
        c = canonical_config(own)
        again = stock_config(c, c.num_attention_heads, c.num_key_value_heads, c.intermediate_size).to_dict()
        for key, value in own.to_dict().items():
            if key not in ("architectures", "head_dim", "dtype", "partial_rotary_factor"):
                assert again[key] == value, (name, key)
