"""Every family: the function of transformers' own class, pruned as the plain reference prunes that, saved and read."""

import copy
import dataclasses
import json

import pytest
import torch
from transformers import MistralConfig, Qwen2Config

import rcpu
from rcpu.models.canonical import apart, canonical, canonical_config, together
from rcpu.models.families import FAMILIES, family_of
from rcpu.models.sizes import parameter_count
from tests import reference, tiny

NAMES = list(tiny.FAMILIES)
PROMPT = tiny.ids(1, 9)


def greedy(net) -> list[int]:
    mask = torch.ones_like(PROMPT)
    return net.generate(PROMPT, attention_mask=mask, max_new_tokens=14, do_sample=False, pad_token_id=0)[0].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_family_loads_as_the_same_function(name, tmp_path):
    net = tiny.stock(name)
    model = rcpu.load_model(str(tiny.save(net, tmp_path / "dense")), device="cpu")
    tiny.assert_same_function(model.net, net, 1e-5)
    assert greedy(model.net) == greedy(net)
    assert rcpu.cost(model.net).parameters == rcpu.cost(net).parameters == parameter_count(net.config)
    ours, theirs = (rcpu.perplexity(n, tiny.ids(3, 16), text="").perplexity for n in (model.net, net))
    assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("compensation", ["rotation", "least_squares", "bias"])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_pruned_as_the_reference_prunes_transformers_own(name, compensation):
    net, windows = tiny.stock(name), tiny.calibration()
    recipe = rcpu.Recipe(ratio=0.3, compensation=compensation, scorer="wanda_sp")
    plain = copy.deepcopy(net)
    plain.config.head_dim = canonical_config(net.config).head_dim
    masked, found = reference.prune(plain, windows, recipe, "channel")
    dense = canonical(net)
    before = tiny.snapshot(dense)
    result = rcpu.prune(dense, windows, recipe)
    tiny.assert_unchanged(dense, before)
    for site in result.sites:
        expected = found[site.layer, site.site]
        assert site.columns.tolist() == expected.columns
        assert site.error_compensated == pytest.approx(expected.errors["error_compensated"], rel=1e-3, abs=1e-5)
    tiny.assert_same_function(result.net, masked, 1e-3)
    assert greedy(result.net) == greedy(masked)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("unit", ["channel", "kv_group"])
def test_compact_models_are_saved_and_read(name, unit, tmp_path):
    model = rcpu.load_model(str(tiny.save(tiny.stock(name), tmp_path / "dense")), device="cpu")
    result = rcpu.prune(model.net, tiny.calibration(), rcpu.Recipe(ratio=0.5, unit=unit, compensation="bias"))
    folder = rcpu.save(model, result, tmp_path / "pruned")
    again = rcpu.load_model(str(folder), device="cpu").net
    assert tiny.logits(again).equal(tiny.logits(result.net))
    assert greedy(again) == greedy(result.net)
    assert rcpu.cost(again) == rcpu.cost(result.net)
    assert parameter_count(again.config) == rcpu.cost(again).parameters < rcpu.cost(model.net).parameters
    plan = rcpu.plan(model.net, result.recipe)
    assert plan.after == rcpu.cost(result.net)
    with pytest.raises(rcpu.RcpuError, match="it is already pruned"):
        rcpu.prune(again, tiny.calibration(), result.recipe)


@pytest.mark.parametrize("name", NAMES)
def test_weights_come_apart_and_together(name):
    net = tiny.stock(name)
    family, config = family_of(net.config), canonical_config(net.config)
    state = net.model.layers[1].state_dict()
    parts = apart(state, config, family)
    assert {"self_attn.q_proj.weight", "mlp.up_proj.weight"} <= set(parts)
    again = together(parts, family)
    assert again.keys() == state.keys()
    assert all(again[k].equal(state[k]) for k in state)


def test_windows_count_only_where_they_are_set():
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3}
    assert canonical_config(MistralConfig(sliding_window=None, **sizes)).layer_types is None
    assert canonical_config(MistralConfig(sliding_window=4, **sizes)).layer_types == ["sliding_attention"] * 3
    assert canonical_config(Qwen2Config(**sizes)).sliding_window is None
    windowed = Qwen2Config(use_sliding_window=True, sliding_window=4, max_window_layers=2, **sizes)
    assert canonical_config(windowed).layer_types == ["full_attention", "full_attention", "sliding_attention"]


def test_every_row_names_classes_of_one_model_type():
    for kind, family in FAMILIES.items():
        assert family.config.model_type == family.model.config_class.model_type == kind
        assert dataclasses.asdict(family)["label"]


@pytest.mark.parametrize(("kind", "size"), [("mistral", "hidden_size"), ("phi3", "num_key_value_heads")])
def test_sizes_that_cannot_be_are_told_with_the_familys_name(kind, size, tmp_path):
    folder = tiny.save(tiny.stock(kind), tmp_path / "dense")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), size: 0}))
    with pytest.raises(rcpu.RcpuError, match=f"does not describe a {FAMILIES[kind].label}"):
        rcpu.load_model(str(folder), device="cpu")


def test_phi_3s_pointer_to_code_is_not_followed(tmp_path):
    folder = tiny.save(tiny.stock("phi3"), tmp_path / "dense")
    path = folder / "config.json"
    named = {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": named}))
    tiny.assert_same_function(rcpu.load_model(str(folder), device="cpu").net, tiny.stock("phi3"), 1e-5)


@pytest.mark.embedded
@pytest.mark.parametrize("kind", ["mistral", "qwen2"])
def test_the_embedded_model_under_another_name_measures_and_prunes_the_same(kind):
    model, text = rcpu.load_model("embedded", "cpu"), rcpu.load_text("embedded")
    family = FAMILIES[kind]
    values = {k: v for k, v in model.net.config.to_dict().items() if k not in ("model_type", "architectures")}
    config = family.config(
        **values | {"sliding_window": 8192 if kind == "mistral" else None}, attn_implementation="sdpa"
    )
    with torch.device("meta"):
        other = family.model(config)
    zeros = {k: torch.zeros_like(p, device="cpu") for k, p in other.state_dict().items() if k.endswith("bias")}
    assert bool(zeros) == (kind == "qwen2")
    other.load_state_dict(model.net.state_dict() | zeros, assign=True)
    other.model.rotary_emb = model.net.model.rotary_emb
    other = canonical(other.eval().requires_grad_(False))
    recipe = rcpu.Recipe(samples=4, held_out=1, layers=(0, 15, 29), unit="kv_group", ratio=0.4)
    windows = rcpu.calibration_windows(text, model.tokenizer, samples=4, held_out=1)
    test = rcpu.evaluation_windows(text, model.tokenizer, max_windows=3)
    nets = [[net, rcpu.prune(net, windows, recipe).net] for net in (model.net, other)]
    (dense, pruned), (theirs, theirs_pruned) = (
        [rcpu.perplexity(n, test, text="").perplexity for n in pair] for pair in nets
    )
    assert theirs == pytest.approx(dense, rel=1e-5)
    assert theirs_pruned == pytest.approx(pruned, rel=1e-4)
    assert pruned > 1.01 * dense
