"""The badges: which program loads what, by rules."""

import dataclasses

import pytest

import rcpu
from rcpu.compact.card import licence_of, model_card
from rcpu.compact.loaders import LOADERS, loads_in, shape_line, shapes_load_in
from rcpu.compact.shapes import shape_config, shaped
from rcpu.models.canonical import canonical
from tests import tiny

RECIPE = rcpu.Recipe(ratio=0.5, unit="kv_group")


def pruned(name: str, **changes):
    net = canonical(tiny.stock(name)) if name in tiny.FAMILIES else tiny.net(name)
    return rcpu.prune(net, tiny.calibration(), dataclasses.replace(RECIPE, **changes)).net


@pytest.mark.parametrize("shape", ["stock", "padded"])
@pytest.mark.parametrize("name", ["gqa", "mistral", "qwen2", "llama3"])
def test_stock_and_padded_load_everywhere(name, shape, tokenizer):
    assert loads_in(shape_config(pruned(name).config, shape), tokenizer) == dict.fromkeys(LOADERS, "")


def test_compact_loads_in_transformers_alone(tokenizer):
    """That 4 computes the same is in test_old_names.py."""
    found = loads_in(pruned("gqa").config, tokenizer)
    assert [name for name, reason in found.items() if not reason] == ["transformers 5", "transformers 4"]
    assert list(found) == list(LOADERS)


def test_every_shape_of_a_model_is_told(tokenizer):
    found = shapes_load_in(pruned("gqa", unit="channel").config, tokenizer)
    assert shape_line("compact", found["compact"]).startswith("as compact it loads in transformers 5, transformers 4; ")
    assert shape_line("stock", found["stock"]).startswith("not as stock: layer 0 has values 4 wide")
    assert shape_line("padded", found["padded"]) == f"as padded it loads in {', '.join(LOADERS)}"


def test_heads_that_vllms_kernels_do_not_take(tokenizer):
    net = tiny.llama(hidden_size=24, num_attention_heads=4, num_key_value_heads=4)  # six wide
    assert "these are 6 wide" in loads_in(net.config, tokenizer)["vLLM"]


def test_biases_and_rope_that_a_program_does_not_know(tokenizer):
    biased = shaped(pruned("qwen3", compensation="bias", sites=("o_proj",)), "padded")
    assert loads_in(biased.config, tokenizer)["vLLM"] == "its Qwen3 has no bias in o_proj"
    dynamic = tiny.llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    assert loads_in(dynamic.config, tokenizer) == {
        **dict.fromkeys(LOADERS, ""),
        "llama.cpp": "llama.cpp has no RoPE type 'dynamic'",
    }


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ("---\nlicense: mit\n---\n# x", "mit"),
        ("---\ntags:\n- a\nlicense: llama3.2\nx: y\n---\n", "llama3.2"),
        ("# license: mit", ""),
        (None, ""),
    ],
)
def test_a_licence_is_that_of_the_base_models_card(tmp_path, card, found):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path, "owner/name") == found
    assert licence_of(tmp_path, "embedded") == "apache-2.0"


def test_a_card_tells_all_that_matters():
    text = model_card(
        base="owner/base",
        on_hub=True,
        licence="",
        shape="stock",
        recipe=RECIPE.to_yaml(),
        record={"versions": {}, "parameters_before": 12345, "parameters_after": 6789},
        loads={"transformers 5": "", "vLLM": "a reason"},
        numbers=["perplexity 12.3 on a text"],
    )
    assert text.startswith("---\nlicense: other\nbase_model: owner/base\n")
    for part in ("| parameters | 12,345 | 6,789 |", "- perplexity 12.3", "| vLLM | no: a reason |", "ratio: 0.5"):
        assert part in text
    assert "which its card does not name" in text
