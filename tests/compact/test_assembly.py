"""Smaller, padded and masked models compute the same, and share what was not pruned."""

import copy
import functools

import pytest
import torch
from transformers import DynamicCache, LlamaForCausalLM

import rcpu
from rcpu.compact.assembly import padded
from tests import reference, tiny

UNITS = [
    *[(kind, unit) for kind in ("mha", "biased", "tied") for unit in ("head", "kv_group", "channel")],
    ("gqa", "kv_group"),
    ("gqa", "channel"),
]
EVERY = [
    (kind, unit, name)
    for kind, unit in UNITS
    for name in (rcpu.COMPENSATORS if kind in ("gqa", "biased") else ("rotation", "bias"))
]


@functools.cache
def prune(kind: str, unit: str, compensation: str = "rotation", **settings) -> rcpu.PruneResult:
    """A result to look at and never to change."""
    ratio = 0.5 if unit == "kv_group" else 0.3
    config = rcpu.Recipe(ratio=ratio, unit=unit, compensation=compensation, **settings)
    return rcpu.prune(tiny.net(kind), tiny.calibration(samples=6, held_out=0), config)


def parameters(net: torch.nn.Module) -> dict[str, int]:
    """Where the numbers of each parameter lie."""
    return {name: values.data_ptr() for name, values in net.named_parameters()}


@pytest.mark.parametrize(("kind", "unit", "compensation"), EVERY)
def test_compact_padded_and_masked_models_agree(kind, unit, compensation):
    result = prune(kind, unit, compensation)
    expected = reference.masked(tiny.net(kind), result.cuts)
    tiny.assert_same_function(result.net, expected)
    tiny.assert_same_function(padded(tiny.net(kind), result.cuts), expected)


@pytest.mark.parametrize(
    "settings", [{"layers": (1,)}, {"sites": ("o_proj",)}, {"sites": ("down_proj",), "layers": (0, 2)}], ids=str
)
@pytest.mark.parametrize("compensation", ["rotation", "bias"])
@pytest.mark.parametrize("kind", ["gqa", "biased"])
def test_they_agree_where_only_parts_were_pruned(kind, compensation, settings):
    result = prune(kind, "auto", compensation, **settings)
    expected = reference.masked(tiny.net(kind), result.cuts)
    tiny.assert_same_function(result.net, expected)
    tiny.assert_same_function(padded(tiny.net(kind), result.cuts), expected)


@pytest.mark.parametrize("compensation", ["rotation", "bias"])
@pytest.mark.parametrize(("kind", "unit"), UNITS)
def test_compact_is_smaller_by_what_was_removed(kind, unit, compensation):
    dense, result = tiny.net(kind), prune(kind, unit, compensation)
    c = dense.config
    d, group, biased = c.hidden_size, c.num_attention_heads // c.num_key_value_heads, c.attention_bias
    removed = {  # rows of the query, key and value projections in each layer
        "head": (8, 8, 8),  # one of four heads
        "kv_group": (c.num_key_value_heads // 2 * group * 8, *[c.num_key_value_heads // 2 * 8] * 2),
        "channel": (0, 0, 2 * c.num_key_value_heads),  # two of eight channels
    }[unit]
    columns = removed[2] * group  # of o_proj
    channels = int((0.5 if unit == "kv_group" else 0.3) * c.intermediate_size)
    layer = (sum(removed) + columns) * d + 3 * channels * d
    if biased:
        layer += sum(removed) + 2 * channels
    elif compensation == "bias":
        layer -= 2 * d  # of o_proj and down_proj, new
    before, after = rcpu.cost(dense), rcpu.cost(result.net)
    assert before.parameters - after.parameters == 3 * layer
    assert before.bytes - after.bytes == 4 * 3 * layer
    assert after.flops_per_token < before.flops_per_token


@pytest.mark.parametrize(("kind", "unit"), UNITS)
def test_decoding_with_a_cache_is_the_full_pass(kind, unit):
    result = prune(kind, unit)
    tokens = tiny.ids(2, 12, seed=4)
    full, cache, steps = tiny.logits(result.net, tokens), DynamicCache(config=result.net.config), []
    with torch.no_grad():
        for part in (tokens[:, :5], *tokens[:, 5:].split(1, dim=1)):
            steps.append(result.net(input_ids=part, past_key_values=cache, use_cache=True).logits)
    torch.testing.assert_close(torch.cat(steps, 1), full, rtol=0, atol=1e-4 * full.std().item())
    attention = result.net.model.layers[0].self_attn
    assert cache.layers[0].values.shape == (
        2,
        attention.v_proj.out_features // attention.value_dim,
        12,
        attention.value_dim,
    )
    assert cache.layers[0].keys.shape[1] == cache.layers[0].values.shape[1]


@pytest.mark.parametrize(("kind", "unit"), [("mha", "head"), ("gqa", "kv_group"), ("gqa", "channel")])
def test_generate_continues_as_the_padded_model(kind, unit):
    result = prune(kind, unit)
    prompt = tiny.ids(2, 7, seed=5)
    options = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": tiny.END}
    prompt_mask = torch.ones_like(prompt)
    prompt_mask[0, :3] = 0  # padding on the left
    for mask in (torch.ones_like(prompt), prompt_mask):
        found, expected = (
            net.generate(prompt, attention_mask=mask, **options)
            for net in (result.net, padded(tiny.net(kind), result.cuts))
        )
        assert found.equal(expected)
    assert found.shape[1] > prompt.shape[1]


def test_eager_attention_agrees():
    result = prune("gqa", "channel")
    expected = tiny.logits(result.net)
    net = result.uncompensated(tiny.net("gqa"))
    eager = copy.deepcopy(result.net)
    eager.set_attn_implementation("eager")
    torch.testing.assert_close(tiny.logits(eager), expected, rtol=0, atol=1e-4 * expected.std().item())
    assert not torch.allclose(tiny.logits(net), expected)


@pytest.mark.parametrize("shape", ["compact", "padded"])
@pytest.mark.parametrize(("kind", "unit"), UNITS)
def test_what_is_not_pruned_is_shared(kind, unit, shape):
    dense = tiny.net(kind)
    result = prune(kind, unit, layers=(1,))
    net = result.net if shape == "compact" else padded(dense, result.cuts)
    changed = {
        name.removeprefix("model.layers.1.").removesuffix(".weight")
        for name, pointer in parameters(net).items()
        if name.endswith("weight") and pointer != parameters(dense)[name]
    }
    scores = {"self_attn.q_proj", "self_attn.k_proj"}  # whole heads take them along, value channels do not
    expected = {"self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
    assert changed - scores == expected
    if shape == "compact" or unit != "channel":
        assert changed & scores == (set() if unit == "channel" else scores)
    assert net.model.layers[0].self_attn is dense.model.layers[0].self_attn
    assert net.model.layers[2].mlp is dense.model.layers[2].mlp
    assert net.model.embed_tokens is dense.model.embed_tokens
    assert net.lm_head is dense.lm_head
    assert (net.lm_head.weight is net.model.embed_tokens.weight) == (kind == "tied")


@pytest.mark.parametrize("compensation", rcpu.COMPENSATORS)
@pytest.mark.parametrize(("kind", "unit"), [("mha", "head"), ("gqa", "channel"), ("biased", "head")])
def test_uncompensated_is_removal_alone(kind, unit, compensation):
    dense, result = tiny.net(kind), prune(kind, unit, compensation)
    before, output, sizes = tiny.snapshot(result.net), tiny.logits(result.net), result.net.config.to_dict()
    plain = result.uncompensated(dense)
    masked = copy.deepcopy(dense)
    for (layer, site), cut in result.cuts.items():
        weight = reference.consumer_of(dense, layer, site).weight
        reference.mask(masked, layer, site, cut.columns, weight[:, cut.columns])
    tiny.assert_same_function(plain, masked)
    consumers = ("o_proj.weight", "down_proj.weight", "o_proj.bias", "down_proj.bias")
    ours, theirs = parameters(plain), parameters(result.net)
    assert all(ours[name] == theirs[name] for name in ours if not name.endswith(consumers))
    tiny.assert_unchanged(result.net, before)
    assert result.net.config.to_dict() == sizes
    assert rcpu.models.sizes.parameter_count(plain.config) == rcpu.cost(plain).parameters
    assert tiny.logits(result.net).equal(output)


@pytest.mark.parametrize("compensation", ["rotation", "bias"])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_padded_is_a_stock_model_of_the_dense_shape(kind, compensation):
    dense, result = tiny.net(kind), prune(kind, "auto", compensation)
    before = tiny.snapshot(dense)
    net = padded(dense, result.cuts)
    assert type(net) is LlamaForCausalLM
    shapes = {name: values.shape for name, values in net.state_dict().items()}
    assert shapes.items() >= {name: values.shape for name, values in dense.state_dict().items()}.items()
    assert all(name.endswith("bias") for name in shapes.keys() - dense.state_dict().keys())
    assert LlamaForCausalLM(net.config).state_dict().keys() == shapes.keys()
    assert not any(p.is_meta for p in net.parameters())
    for (layer, site), cut in result.cuts.items():
        weight = reference.consumer_of(net, layer, site).weight
        gone = sorted(set(range(weight.shape[1])) - set(cut.columns.tolist()))
        assert weight[:, cut.columns].equal(cut.weight)
        assert not weight[:, gone].any()
    tiny.assert_unchanged(dense, before)
