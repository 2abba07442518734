"""The compact model that edits make of a dense one: projections are edited one by one, sizes are read off their shapes.

Whatever no edit names is shared with the dense model, which is never changed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from rcpu.base.errors import RcpuError
from rcpu.compact.assembly import linear, share
from rcpu.compact.edits import Edits
from rcpu.models.canonical import canonical_config
from rcpu.models.compact_llama import (
    CompactLayer,
    CompactLlamaConfig,
    CompactLlamaForCausalLM,
    CompactNorm,
    TurnedEmbedding,
)
from rcpu.models.families import architecture_of, attention_rows, heads_of, layers_of

Named = Mapping[str, Tensor]  # edits of one layer


@torch.no_grad()
def rebuild(net: LlamaForCausalLM, edits: Edits) -> CompactLlamaForCausalLM:
    """The compact model that these edits make of the dense one.

    Raises:
        RcpuError: the edits are of another shape than this model.
    """
    count, config = len(layers_of(net)), compact_config(net)
    if beyond := [i for i in edits.layers if i >= count]:
        raise RcpuError(f"the edits change layer {min(beyond)}, but this model has layers 0 to {count - 1}")
    axes = _axes(net, edits)
    if axes:
        config.residual_sizes = [a.shape[1] for a in axes]
        if "embed_tokens.turn" not in edits.model:
            config.embedding_size, config.tie_word_embeddings = axes[0].shape[1], False
    layers = {
        i: _layer(net, config, i, edits.layers.get(i, {}), axes[2 * i : 2 * i + 3])
        for i in range(count)
        if axes or edits.layers.get(i)
    }
    with torch.device("meta"):
        made = CompactLlamaForCausalLM(config)
    share(net, made)
    for i, layer in layers.items():
        made.model.layers[i] = layer
    if axes:
        _turn_ends(net, made, edits.model, axes[-1])
    return made.eval()


@torch.no_grad()
def edited_layer(net: LlamaForCausalLM, index: int, named: Named) -> nn.Module:
    """One decoder layer as these edits make it, to run while others are still to be edited."""
    return _layer(net, compact_config(net), index, named, [])


def compact_config(net: nn.Module) -> CompactLlamaConfig:
    """The configuration of a compact model that is still of the dense sizes."""
    config = copy.deepcopy(canonical_config(net.config))
    config._attn_implementation = net.config._attn_implementation
    return config


def edit(dense: nn.Linear, said: Named, rows: Tensor | None = None) -> nn.Module:
    """One projection after its edits; ``rows`` stay where these do not say otherwise."""
    rows = said.get("rows", rows)
    if not said and (rows is None or len(rows) == dense.out_features):
        return dense
    at, kind = dense.weight.device, dense.weight.dtype
    given = {what: t.to(at, kind if t.is_floating_point() else t.dtype).contiguous() for what, t in said.items()}
    weight, bias = dense.weight.data, None if dense.bias is None else dense.bias.data
    if rows is not None:
        weight, bias = weight[rows.to(at)], None if bias is None else bias[rows.to(at)]
    if "left" in given:
        weight = given["left"]
    elif "weight" in given:
        weight = given["weight"]
    elif "columns" in given:
        weight = weight[:, given["columns"]]
    if "keep" in given:
        weight = torch.where(given["keep"], weight, 0)
    bias = given.get("own_bias", bias)
    if "bias" in given:
        bias = given["bias"] if bias is None else bias + given["bias"]
    if len(weight) == 0 or (bias is not None and len(bias) != len(weight)):
        raise IndexError(f"{len(weight)} outputs and a bias of {0 if bias is None else len(bias)} do not fit")
    last = linear(weight, bias)
    return nn.Sequential(linear(given["right"]), last) if "left" in given else last


def _layer(net: nn.Module, config: CompactLlamaConfig, index: int, named: Named, axes: list[Tensor]) -> nn.Module:
    """The decoder layer of this index; the sizes of what it is made of are written into the configuration."""
    dense, sites = layers_of(net)[index], architecture_of(net).sites
    said: dict[str, dict[str, Tensor]] = {}
    for key, tensor in named.items():
        module, _, what = key.rpartition(".")
        said.setdefault(module, {})[what] = tensor
    parts: dict[str, nn.Module] = {}
    attention = said.pop("self_attn", {})
    there = [site for site in sites if not (site.attention and "gone" in attention)]
    for site in there:
        consumer = f"{site.block}.{site.consumer}"
        kept, rows = said.get(consumer, {}).get("columns"), {}
        try:
            if kept is not None:
                rows = attention_rows(kept, heads_of(net)) if site.attention else {"channel": kept}
            parts[consumer] = edit(dense.get_submodule(consumer), said.pop(consumer, {}))
            if d_out(parts[consumer]) != dense.get_submodule(consumer).out_features:
                raise IndexError
            for role, names in site.producers.items():
                for path in (f"{site.block}.{name}" for name in names):
                    parts[path] = edit(dense.get_submodule(path), said.pop(path, {}), rows.get(role))
        except (IndexError, RuntimeError, KeyError) as error:
            raise RcpuError(f"layer {index}, {site.name}: the edits belong to a model of another shape") from error
    if "mlp.branch" in said:
        branch = said.pop("mlp.branch")
        both = (branch[side].to(net.device, net.dtype).contiguous() for side in ("right", "left"))
        parts["mlp.branch"] = nn.Sequential(*map(linear, both))
    pairs = attention.get("pairs")
    if unknown := said.keys() - {"mlp"}:  # whose axes were read before
        raise RcpuError(f"layer {index}: {min(unknown)} is no projection of this model")
    _read_sizes(config, index, parts, pairs)
    with torch.device("meta"):
        made = CompactLayer(config, index)
    if axes:
        _turn_blocks(dense, made, parts, axes)
    else:
        for site in sites:
            setattr(made, site.norm, dense.get_submodule(site.norm))
    for site in there:  # what no edit names, as norms of queries and keys
        for name, part in dense.get_submodule(site.block).named_children():
            parts.setdefault(f"{site.block}.{name}", part)
    for path, part in parts.items():
        block, _, name = path.rpartition(".")
        setattr(made.get_submodule(block), name, part)
    if pairs is not None:
        made.self_attn.pairs = pairs.to(net.device)
    if config.qk_norm:
        made.self_attn.q_norm, made.self_attn.k_norm = dense.self_attn.q_norm, dense.self_attn.k_norm
    return made.eval()


def _read_sizes(config: CompactLlamaConfig, index: int, parts: Mapping[str, nn.Module], pairs: Tensor | None) -> None:
    sizes = {
        "down_bias": _bias(parts["mlp.down_proj"]) is not None,
        "intermediate_sizes": d_out(parts["mlp.up_proj"]),
        "query_heads": 0,
        "kv_heads": 0,
    }
    if "self_attn.o_proj" in parts:
        sizes["o_bias"] = _bias(parts["self_attn.o_proj"]) is not None
        sizes["key_dims"] = config.head_dim if pairs is None else 2 * pairs.shape[1]
        sizes["query_heads"] = d_out(parts["self_attn.q_proj"]) // sizes["key_dims"]
        sizes["kv_heads"] = d_out(parts["self_attn.k_proj"]) // sizes["key_dims"]
        sizes["value_dims"] = d_out(parts["self_attn.v_proj"]) // sizes["kv_heads"]
    for path, part in parts.items():
        if isinstance(part, nn.Sequential):
            name = path.rpartition(".")[2]
            if name == "branch":
                sizes["branch_ranks"] = part[0].out_features
            else:
                config.ranks.setdefault(name, [0] * config.num_hidden_layers)[index] = part[0].out_features
    for name, size in sizes.items():
        getattr(config, name)[index] = size


def d_out(part: nn.Module) -> int:
    """Outputs of a projection, whole or in factors."""
    return (part[-1] if isinstance(part, nn.Sequential) else part).out_features


def _bias(part: nn.Module) -> Tensor | None:
    return (part[-1] if isinstance(part, nn.Sequential) else part).bias


def _axes(net: nn.Module, edits: Edits) -> list[Tensor]:
    """Axes of the residual stream before each block and after the last, each (d_model, width); none where it stays."""
    names = [f"{site.block}.axes" for site in architecture_of(net).sites]
    found = [edits.layers.get(i, {}).get(name) for i in range(len(layers_of(net))) for name in names]
    if not any(a is not None for a in found):
        return []
    d = net.config.hidden_size
    found.append(edits.model.get("axes", torch.eye(d)))
    if any(a is None or len(a) != d for a in found) or not edits.model.keys() & {
        "embed_tokens.map",
        "embed_tokens.turn",
    }:
        raise RcpuError(f"a sliced residual stream needs axes of {d} numbers before every block, and an embedding")
    return [a.to(net.device, torch.float32) for a in found]


def _turn_blocks(dense: nn.Module, made: nn.Module, parts: dict[str, nn.Module], axes: list[Tensor]) -> None:
    """Let projections read and write in the axes before and after their block, the norms' gains in what reads."""
    kind = dense.input_layernorm.weight.dtype
    for block, norm, turn, (before, after) in (
        ("self_attn", dense.input_layernorm, made.attn_turn, axes[:2]),
        ("mlp", dense.post_attention_layernorm, made.mlp_turn, axes[1:]),
    ):
        reads = norm.weight.data.float()[:, None] * before
        turn.weight = nn.Parameter((after.mT @ before).to(kind), requires_grad=False)
        for path, part in parts.items():
            if not path.startswith(f"{block}."):
                continue
            first, last = (part[0], part[-1]) if isinstance(part, nn.Sequential) else (part, part)
            name = path.rpartition(".")[2]
            if name in ("o_proj", "down_proj", "branch"):
                bias = None if last.bias is None else (after.mT @ last.bias.data.float()).to(kind)
                last = linear((after.mT @ last.weight.data.float()).to(kind), bias)
            if name not in ("o_proj", "down_proj"):
                read = linear((first.weight.data.float() @ reads).to(kind), first.bias)
                first, last = (read, last) if isinstance(part, nn.Sequential) else (read, read)
            parts[path] = nn.Sequential(first, last) if isinstance(part, nn.Sequential) else last


def _turn_ends(net: LlamaForCausalLM, made: CompactLlamaForCausalLM, named: Named, last: Tensor) -> None:
    """The embedding goes to the first axes, by a matrix behind it or row by row; an untied head reads the last axes."""
    dense, kind = net.model.embed_tokens, net.dtype
    turn = named.get("embed_tokens.turn", named.get("embed_tokens.map")).to(net.device, torch.float32)
    if "embed_tokens.turn" in named:
        with torch.device("meta"):
            embedding = TurnedEmbedding(*dense.weight.shape, dense.padding_idx, turn.shape[1])
        embedding.weight = dense.weight
        embedding.turn = linear(turn.mT.contiguous().to(kind))
    else:
        rows = (dense.weight.data.float() @ turn).to(kind)
        embedding = nn.Embedding.from_pretrained(rows, freeze=True, padding_idx=dense.padding_idx)
    made.model.embed_tokens = embedding
    if not made.config.tie_word_embeddings:
        made.model.norm = CompactNorm(net.config.hidden_size, net.config.rms_norm_eps)
        reads = net.model.norm.weight.data.float()[:, None] * last
        made.lm_head = linear((net.lm_head.weight.data.float() @ reads).to(kind))
