"""Families of models and where they keep what we prune: rows of data, and a few functions that read them.

Every family is a LLaMA with something beside it (compact_llama.py); a row says what. A LLaMA is kept as it was loaded,
the others are turned into that form when they are (canonical.py). Only these and assembly.py know names of modules.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from rcpu.base.errors import RcpuError, choose

SITES = ("o_proj", "down_proj")


@dataclass(frozen=True)
class Family:
    """What a family of models has beside, or without, a LLaMA's parts."""

    label: str
    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]
    #: Biases of q, k and v; of o_proj; of the MLP: the switch in the configuration, True where always, False for none.
    biases: tuple[str | bool, str | bool, str | bool] = (False, False, False)
    qk_norm: bool = False
    windowed: str = ""  # whose attention looks back only so far: "all" layers if a window is set, or as "listed"
    fused: dict[str, tuple[str, ...]] = field(default_factory=dict)  # projections that hold several, one below another
    gguf: str = "llama"  # what llama.cpp calls it


#: By model_type. A new family is a line here; what a line cannot say goes to compact_llama.py.
FAMILIES = {
    "llama": Family("LLaMA", LlamaConfig, LlamaForCausalLM, ("attention_bias", "attention_bias", "mlp_bias")),
    "mistral": Family("Mistral", MistralConfig, MistralForCausalLM, windowed="all"),
    "qwen2": Family("Qwen2", Qwen2Config, Qwen2ForCausalLM, (True, False, False), windowed="listed", gguf="qwen2"),
    "qwen3": Family(
        "Qwen3",
        Qwen3Config,
        Qwen3ForCausalLM,
        ("attention_bias", "attention_bias", False),
        qk_norm=True,
        windowed="listed",
        gguf="qwen3",
    ),
    "phi3": Family(
        "Phi-3",
        Phi3Config,
        Phi3ForCausalLM,
        windowed="all",
        fused={
            "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
        },
        gguf="phi3",
    ),
}


def family_of(config: PreTrainedConfig) -> Family:
    """The family that a configuration, of transformers or of ours, belongs to."""
    return FAMILIES[getattr(config, "family", config.model_type)]


@dataclass(frozen=True)
class Heads:
    """Shape of one attention layer: query heads, KV heads, and the width of a head."""

    query: int
    kv: int
    dim: int


@dataclass(frozen=True)
class Site:
    """One prunable matrix: the ``consumer`` whose columns go, in a residual block h + consumer(inner(norm(h)))."""

    name: str  # what users call it
    norm: str
    block: str
    consumer: str  # in the block
    producers: dict[str, tuple[str, ...]]  # which projections of the block lose rows, by what their rows are
    attention: bool


@dataclass(frozen=True)
class Architecture:
    """Paths of the parts of a causal language model; ``sites`` are its residual blocks in the order they run."""

    layers: str
    embedding: str
    rotary: str
    sites: tuple[Site, ...]


ARCHITECTURE = Architecture(
    layers="model.layers",
    embedding="model.embed_tokens",
    rotary="model.rotary_emb",
    sites=(
        Site(
            "o_proj",
            norm="input_layernorm",
            block="self_attn",
            consumer="o_proj",
            producers={"query": ("q_proj",), "key": ("k_proj",), "value": ("v_proj",)},
            attention=True,
        ),
        Site(
            "down_proj",
            norm="post_attention_layernorm",
            block="mlp",
            consumer="down_proj",
            producers={"channel": ("gate_proj", "up_proj")},
            attention=False,
        ),
    ),
)


def architecture_of(net: nn.Module) -> Architecture:
    """Where this model keeps what; raises ``RcpuError`` if it is none that is pruned here, or was pruned already."""
    config = net.config
    if config.model_type == "llama" or getattr(config, "dense", False):
        return ARCHITECTURE
    hint = " (it is already pruned: prune the dense model)" if config.model_type.startswith("rcpu_") else ""
    raise RcpuError(f"cannot prune a {config.model_type!r} model{hint}: supported is {', '.join(FAMILIES)}")


def layers_of(net: nn.Module) -> nn.ModuleList:
    """The decoder layers."""
    return net.get_submodule(architecture_of(net).layers)


def heads_of(net: nn.Module) -> Heads:
    """Query heads, KV heads and head width of the dense model."""
    return Heads(net.config.num_attention_heads, net.config.num_key_value_heads, net.config.head_dim)


def consumer_of(layer: nn.Module, site: Site) -> nn.Linear:
    """The projection whose columns can go."""
    return layer.get_submodule(f"{site.block}.{site.consumer}")


def site_named(net: nn.Module, name: str) -> Site:
    """The site that users call ``name``; raises ``RcpuError`` if this model has none such."""
    sites = {site.name: site for site in architecture_of(net).sites}
    return choose("site", name, sites)


def weight_of(net: nn.Module, layer: int, name: str) -> Tensor:
    """The weight of one prunable projection, (d_out, d_in), without its gradient."""
    return consumer_of(layers_of(net)[layer], site_named(net, name)).weight.detach()


def with_consumer(block: nn.Module, site: Site, consumer: nn.Module) -> nn.Module:
    """The same block with another consumer. Parameters are shared; the block passed in is untouched."""
    return _replaced(block, site.consumer.split("."), consumer)


def with_weights(net: nn.Module, weights: Mapping[tuple[int, str], Tensor]) -> nn.Module:
    """The same model with other weights (d_out, d_in) at these layers' sites; all else is shared, as by a consumer."""
    arch = architecture_of(net)
    for (layer, name), weight in weights.items():
        site = site_named(net, name)
        consumer = copy.copy(consumer_of(layers_of(net)[layer], site))
        consumer._parameters = {**consumer._parameters, "weight": nn.Parameter(weight, requires_grad=False)}
        net = _replaced(net, f"{arch.layers}.{layer}.{site.block}.{site.consumer}".split("."), consumer)
    return net


def _replaced(module: nn.Module, path: list[str], new: nn.Module) -> nn.Module:
    shell = copy.copy(module)
    inner = _replaced(module._modules[path[0]], path[1:], new) if path[1:] else new
    shell._modules = {**module._modules, path[0]: inner}
    return shell


MASKS = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}


@dataclass(frozen=True, eq=False)
class Embedded:
    """Hidden states that enter the first layer, and what every layer needs beside them."""

    hidden: Tensor  # (windows, tokens, d_model)
    attention: dict  # keyword arguments of an attention block for a batch of any size


def embed(net: nn.Module, ids: Tensor) -> Embedded:  # (windows, tokens)
    """Embed token windows of one length; no padding, so all share one causal mask and one set of positions."""
    arch = architecture_of(net)
    hidden = net.get_submodule(arch.embedding)(ids)
    positions = torch.arange(ids.shape[1], device=ids.device)[None]
    about = {
        "config": net.config,
        "inputs_embeds": hidden[:1],
        "attention_mask": None,
        "past_key_values": None,
        "position_ids": positions,
    }
    types = sorted(set(getattr(net.config, "layer_types", None) or ["full_attention"]))
    masks = [MASKS[kind](**about) for kind in types]
    mask = masks[0] if len(masks) == 1 else dict(zip(types, masks, strict=True))
    rotary = net.get_submodule(arch.rotary)(hidden, positions)
    return Embedded(hidden, {"position_embeddings": rotary, "attention_mask": mask})


def run_block(block: nn.Module, norm: nn.Module, site: Site, hidden: Tensor, attention: dict) -> Tensor:
    """What a residual block adds to its hidden states (windows, tokens, d_model)."""
    x = norm(hidden)
    return block(x, **attention)[0] if site.attention else block(x)


def attention_rows(columns: Tensor, heads: Heads) -> dict[str, Tensor]:
    """Rows of the query, key and value projections that kept columns of o_proj still need, ascending.

    A value row stays with its column; query and key rows stay while any column of their head does.
    """
    head, channel = columns // heads.dim, columns % heads.dim
    group = head // (heads.query // heads.kv)

    def whole(kept: Tensor) -> Tensor:
        return (kept.unique()[:, None] * heads.dim + torch.arange(heads.dim)).flatten()

    return {"query": whole(head), "key": whole(group), "value": (group * heads.dim + channel).unique()}
