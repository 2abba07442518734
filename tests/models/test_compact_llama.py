"""The one modelling file: every size that it can have is the function it stands for, is counted, saved and reloaded."""

import copy

import pytest
import torch
from transformers import DynamicCache

import rcpu
from rcpu.models import sizes
from rcpu.models.compact_llama import CompactLlamaConfig, CompactLlamaForCausalLM, CompactNorm
from tests import tiny

SHAPES = {
    "pairs": {"key_dims": [8, 6, 2]},
    "wide values": {"key_dims": [2, 4, 8], "value_dims": [8, 8, 3]},
    "factors": {
        "ranks": {
            "q_proj": [3, 0, 5],
            "k_proj": [0, 4, 2],
            "v_proj": [5, 0, 0],
            "o_proj": [7, 2, 0],
            "gate_proj": [0, 3, 9],
            "up_proj": [1, 0, 0],
            "down_proj": [0, 11, 4],
        }
    },
    "branches": {"branch_ranks": [0, 2, 5], "intermediate_sizes": [40, 8, 21]},
    "sliced": {"residual_sizes": [20, 24, 18, 20, 20, 17, 48], "embedding_size": 20},
    "head sliced": {"residual_sizes": [20] * 7, "embedding_size": 20},
    "embedding turned": {"residual_sizes": [20] * 7},
    "all": {
        "residual_sizes": [20, 24, 18, 20, 20, 17, 48],
        "key_dims": [4, 8, 6],
        "value_dims": [8, 5, 3],
        "ranks": {"q_proj": [3, 0, 5], "down_proj": [0, 11, 4]},
        "branch_ranks": [0, 2, 5],
        "o_bias": [True, False, True],
        "down_bias": [False, True, True],
    },
}
SHAPES |= {"tied": SHAPES["sliced"] | {"tie_word_embeddings": True, "embedding_size": 48}}
EVERY = [(kind, shape) for shape in SHAPES for kind in ("gqa", "biased") if (kind, shape) != ("biased", "tied")]


def config(kind: str = "gqa", **shape) -> CompactLlamaConfig:
    dense = tiny.net(kind).config.to_dict()
    return CompactLlamaConfig(**{k: v for k, v in dense.items() if k not in ("model_type", "architectures")} | shape)


def build(kind: str = "gqa", **shape) -> CompactLlamaForCausalLM:
    """A random compact model of this shape."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(5)
        net = CompactLlamaForCausalLM(config(kind, **shape))
        for name, values in net.named_parameters():
            if name.endswith("bias"):
                values.normal_(0, 0.3)
        for layer in net.model.layers:
            if hasattr(layer.self_attn, "pairs"):
                kv, count = layer.self_attn.pairs.shape
                order = torch.rand(kv, layer.self_attn.head_dim // 2).argsort(1)
                layer.self_attn.pairs.copy_(order[:, :count].sort(1).values)
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize(("kind", "shape"), EVERY)
def test_saved_and_reloaded_it_gives_the_same_logits(kind, shape, tmp_path):
    net = build(kind, **SHAPES[shape])
    folder = tiny.save(net, tmp_path / "model")
    again = rcpu.load_model(str(folder), "cpu").net
    assert tiny.logits(again).equal(tiny.logits(net))
    narrow = rcpu.load_model(str(folder), "cpu", "bf16").net
    assert narrow.dtype == torch.bfloat16
    assert (tiny.logits(narrow.float()) - tiny.logits(net)).norm() < 0.1 * tiny.logits(net).norm()


@pytest.mark.parametrize(("kind", "shape"), EVERY)
def test_parameters_are_counted_from_the_configuration(kind, shape):
    net = build(kind, **SHAPES[shape])
    assert sizes.parameter_count(net.config) == rcpu.cost(net).parameters == sum(sizes.parts(net).values())
    for i, layer in enumerate(net.model.layers):
        assert sizes.layer_parameters(net.config, i) == sum(p.numel() for p in layer.parameters())
    assert sizes.flops_per_token(net.config) == rcpu.cost(net).flops_per_token


@pytest.mark.parametrize(("kind", "shape"), EVERY)
def test_decoding_with_a_cache_is_the_full_pass(kind, shape):
    net, tokens = build(kind, **SHAPES[shape]), tiny.ids(2, 12, seed=4)
    full, cache, steps = tiny.logits(net, tokens), DynamicCache(config=net.config), []
    with torch.no_grad():
        for part in (tokens[:, :5], *tokens[:, 5:].split(1, dim=1)):
            steps.append(net(input_ids=part, past_key_values=cache, use_cache=True).logits)
    torch.testing.assert_close(torch.cat(steps, 1), full, rtol=0, atol=1e-4 * full.std().item())
    for i, (kept, kv) in enumerate(zip(cache.layers, net.config.kv_heads, strict=True)):
        assert kept.keys.shape == (2, kv, 12, net.config.key_dims[i])
        assert kept.values.shape == (2, kv, 12, net.config.value_dims[i])
    eager = copy.deepcopy(net)
    eager.set_attn_implementation("eager")
    torch.testing.assert_close(tiny.logits(eager, tokens), full, rtol=0, atol=1e-4 * full.std().item())


@pytest.mark.parametrize("shape", SHAPES)
def test_generate_continues_as_the_full_pass(shape):
    net, prompt = build(**SHAPES[shape]), tiny.ids(1, 7, seed=5)
    found = net.generate(prompt, max_new_tokens=8, do_sample=False, pad_token_id=tiny.END)
    for end in range(prompt.shape[1], found.shape[1]):
        assert tiny.logits(net, found[:, :end])[0, -1].argmax() == found[0, end]
    assert found.shape[1] > prompt.shape[1]


def test_pairs_that_go_are_zeros_in_queries_and_keys():
    net = build(key_dims=[4, 6, 4])
    dense = copy.deepcopy(tiny.net("gqa"))
    compact = CompactLlamaForCausalLM(config(key_dims=[4, 6, 4])).eval()
    state = dict(dense.state_dict())
    for i, layer in enumerate(net.model.layers):
        pairs = layer.self_attn.pairs  # (kv, count)
        state[f"model.layers.{i}.self_attn.pairs"] = pairs
        for name, group in (("q_proj", 3), ("k_proj", 1)):
            columns = torch.cat([pairs, pairs + 4], 1).repeat_interleave(group, 0)  # (heads, 2 · count)
            rows = (torch.arange(len(columns))[:, None] * 8 + columns).flatten()
            key = f"model.layers.{i}.self_attn.{name}.weight"
            weight = state[key]
            state[key] = weight[rows]
            gone = torch.ones(len(weight), dtype=torch.bool)
            gone[rows] = False
            dense.get_parameter(key)[gone] = 0
    compact.load_state_dict(state)
    tiny.assert_same_function(compact, dense)


def test_factors_are_their_product_and_branches_a_sum():
    shape = SHAPES["factors"] | {"branch_ranks": [0, 2, 5]}
    net = build("biased", **shape)
    whole = build("biased")
    whole.load_state_dict({k: v for k, v in net.state_dict().items() if ".branch." not in k}, strict=False)
    for layer, plain in zip(net.model.layers, whole.model.layers, strict=True):
        for block in ("self_attn", "mlp"):
            for name, part in layer.get_submodule(block).named_children():
                if isinstance(part, torch.nn.Sequential) and name != "branch":
                    target = plain.get_submodule(block).get_submodule(name)
                    target.weight.copy_(part[1].weight @ part[0].weight)
                    target.bias.copy_(part[1].bias)
        if branch := layer.mlp.branch:
            plain.mlp.register_forward_hook(lambda _, args, y, branch=branch: y + branch[1](branch[0](args[0])))
    tiny.assert_same_function(net, whole)


@pytest.mark.parametrize("tied", [True, False])
def test_a_residual_stream_of_full_width_may_turn_between_blocks(tied):
    dense = tiny.llama(**tiny.KINDS["gqa"], tie_word_embeddings=tied)
    d, count = 48, 7
    q = [torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(i)))[0] for i in range(count)]
    if tied:
        q[-1] = torch.eye(d)
    net = build(residual_sizes=[d] * count, tie_word_embeddings=tied)
    state = dict(net.state_dict())
    old = dense.state_dict()
    state["model.embed_tokens.weight"] = old["model.embed_tokens.weight"] @ (torch.eye(d) if tied else q[0])
    if tied:
        q[0] = torch.eye(d)
        state["lm_head.weight"], state["model.norm.weight"] = old["model.embed_tokens.weight"], old["model.norm.weight"]
    else:
        state["lm_head.weight"] = old["lm_head.weight"] * old["model.norm.weight"] @ q[-1]
    for i in range(3):
        at = f"model.layers.{i}."
        for block, norm, readers, writer, before, after in (
            ("self_attn", "input_layernorm", ("q_proj", "k_proj", "v_proj"), "o_proj", q[2 * i], q[2 * i + 1]),
            ("mlp", "post_attention_layernorm", ("gate_proj", "up_proj"), "down_proj", q[2 * i + 1], q[2 * i + 2]),
        ):
            for name in readers:
                weight = old[f"{at}{block}.{name}.weight"] * old[f"{at}{norm}.weight"]
                state[f"{at}{block}.{name}.weight"] = weight @ before
            state[f"{at}{block}.{writer}.weight"] = after.mT @ old[f"{at}{block}.{writer}.weight"]
            state[f"{at}{'attn' if block == 'self_attn' else 'mlp'}_turn.weight"] = after.mT @ before
    net.load_state_dict(state)
    tiny.assert_same_function(net, dense)


def test_the_norm_of_a_sliced_stream_divides_by_the_width_it_had():
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    wide = torch.cat([x, torch.zeros(3, 3)], 1)
    expected = (wide / (wide.pow(2).mean(1, keepdim=True) + 1e-5).sqrt())[:, :5]
    torch.testing.assert_close(CompactNorm(8, 1e-5)(x), expected)


def test_the_published_count_of_a_sliced_model():
    """SmolLM2-135M sliced to 460 by SliceGPT's own code: 148,636,208 parameters, 12,749,360 of them turns."""
    shape = CompactLlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        residual_sizes=[460] * 60 + [576],
        embedding_size=460,
    )
    assert sizes.parameter_count(shape) == 148_636_208
