"""Where a model keeps what we prune: architectures are rows of data, and these few functions read them.

Only this file, assembly.py and compact_llama.py know the names of Hugging Face modules.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_causal_mask

from rcpu.base.errors import RcpuError, choose

SITES = ("o_proj", "down_proj")


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


ARCHITECTURES = {
    "llama": Architecture(
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
    ),
}


def architecture_of(net: nn.Module) -> Architecture:
    """The row for this model; raises ``RcpuError`` if there is none."""
    kind = net.config.model_type
    if kind not in ARCHITECTURES:
        hint = " (it is already pruned: prune the dense model)" if kind.startswith("rcpu_") else ""
        raise RcpuError(f"cannot prune a {kind!r} model{hint}: supported is {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[kind]


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
    shell = copy.copy(block)
    shell._modules = {**block._modules, site.consumer: consumer}
    return shell


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
    mask = create_causal_mask(
        config=net.config,
        inputs_embeds=hidden[:1],
        attention_mask=None,
        past_key_values=None,
        position_ids=positions,
    )
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
