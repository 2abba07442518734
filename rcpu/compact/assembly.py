"""From a dense LLaMA and kept columns to one that is truly smaller, or to one of stock shape with zeros in place.

Rows and columns that go are not copied; whatever is not pruned is shared with the dense model, never changed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from rcpu.base.errors import RcpuError
from rcpu.compact.edits import Edits
from rcpu.models.compact_llama import CompactAttention, CompactLlamaConfig, CompactLlamaForCausalLM, CompactMLP
from rcpu.models.families import Site, architecture_of, attention_rows, consumer_of, heads_of, layers_of, with_consumer


@dataclass(frozen=True, eq=False)
class Cut:
    """What becomes of one site: what stays of its inputs, the weight for that, and a bias to add to the output."""

    columns: Tensor  # (kept,) ascending; or encoders of values (kv, rank, dim), see methods/subspace.py
    weight: Tensor  # (d_out, kept)
    bias: Tensor | None = None  # (d_out,)


def edits_of(net: LlamaForCausalLM, cuts: Mapping[tuple[int, str], Cut]) -> Edits:
    """Cuts as edits: kept columns, or new rows of the values, with the consumer's new weight and added bias."""
    sites = {site.name: site for site in architecture_of(net).sites}
    layers: dict[int, dict[str, Tensor]] = {}
    for (layer, name), cut in cuts.items():
        site, named = sites[name], {"weight": cut.weight} | ({} if cut.bias is None else {"bias": cut.bias})
        found = layers.setdefault(layer, {})
        if cut.columns.ndim > 1:
            (values,) = site.producers["value"]
            new = encoded(layers_of(net)[layer].get_submodule(f"{site.block}.{values}"), cut.columns)
            found[f"{site.block}.{values}.weight"] = new.weight.data
            if new.bias is not None:
                found[f"{site.block}.{values}.own_bias"] = new.bias.data
        else:
            named["columns"] = cut.columns
        found |= {f"{site.block}.{site.consumer}.{what}": t for what, t in named.items()}
    return Edits(layers)


def cuts_of(net: LlamaForCausalLM, edits: Edits) -> dict[tuple[int, str], Cut]:
    """The cuts that edits consist of; raises ``RcpuError`` where they are more than kept columns."""
    sites = {f"{site.block}.{site.consumer}": site.name for site in architecture_of(net).sites}
    site_paths = {name: path for path, name in sites.items()}
    cuts, device, dtype = {}, net.device, net.dtype
    for layer, named in edits.layers.items():
        by_site: dict[str, dict[str, Tensor]] = {}
        for key, tensor in named.items():
            projection, _, what = key.rpartition(".")
            if projection not in sites or what not in ("columns", "weight", "bias"):
                raise RcpuError(f"layer {layer}: {key} is more than a choice of columns")
            by_site.setdefault(sites[projection], {})[what] = tensor
        for name, found in by_site.items():
            bias = found.get("bias")
            if "columns" not in found:
                raise RcpuError(f"layer {layer}, {name}: its edits are more than a choice of columns")
            dense = layers_of(net)[layer].get_submodule(site_paths[name]).weight.data
            weight = found.get("weight", dense[:, found["columns"].to(device)])
            new = (None if t is None else t.to(device, dtype) for t in (weight, bias))
            cuts[layer, name] = Cut(found["columns"], *new)
    return cuts


class Assembly:
    """Builds the compact model block by block, so that a layer loop can run each block as soon as it is solved."""

    def __init__(self, net: LlamaForCausalLM):
        self.dense = net
        values = {k: v for k, v in net.config.to_dict().items() if k not in ("model_type", "architectures")}
        self.config = CompactLlamaConfig(**values)
        self.config._attn_implementation = net.config._attn_implementation
        self.blocks: dict[tuple[int, str], nn.Module] = {}
        self.cuts: dict[tuple[int, str], Cut] = {}

    def add(self, layer: int, site: Site, cut: Cut) -> nn.Module:
        """Make the compact block of one site from the dense one and return it."""
        dense, config = layers_of(self.dense)[layer].get_submodule(site.block), self.config
        narrower = cut.columns.ndim > 1
        rows = {} if narrower else producer_rows(self.dense, site, cut.columns)
        if narrower:
            config.value_dims[layer] = cut.columns.shape[1]
        elif site.attention:
            heads = heads_of(self.dense)
            config.query_heads[layer] = len(rows["query"]) // heads.dim
            config.kv_heads[layer] = len(rows["key"]) // heads.dim
            config.value_dims[layer] = len(rows["value"]) // config.kv_heads[layer]
        else:
            config.intermediate_sizes[layer] = len(cut.columns)
        consumer = consumer_of(layers_of(self.dense)[layer], site)
        bias = _sum(consumer.bias, cut.bias)
        (config.o_bias if site.attention else config.down_bias)[layer] = bias is not None
        with torch.device("meta"):
            block = (CompactAttention if site.attention else CompactMLP)(config, layer)
        for name, part in dense.named_children():  # what no cut changes, as norms of queries and keys
            setattr(block, name, part)
        for role, names in site.producers.items():
            for name in names:
                part = dense.get_submodule(name)
                if narrower:
                    setattr(block, name, encoded(part, cut.columns) if role == "value" else part)
                else:
                    setattr(block, name, _rows(part, rows[role]))
        setattr(block, site.consumer, linear(cut.weight, bias))
        self.blocks[layer, site.name], self.cuts[layer, site.name] = block.eval(), cut
        return block

    def model(self) -> CompactLlamaForCausalLM:
        """The whole model: the blocks added so far, and the dense model's own modules for all else."""
        with torch.device("meta"):
            net = CompactLlamaForCausalLM(self.config)
        share(self.dense, net)
        arch = architecture_of(self.dense)
        for i, layer in enumerate(net.model.layers):
            for site in arch.sites:
                if block := self.blocks.get((i, site.name)):
                    setattr(layer, site.block, block)
        return net.eval()


def producer_rows(net: LlamaForCausalLM, site: Site, columns: Tensor) -> dict[str, Tensor]:
    """Rows that each producer role of the site keeps when these columns of its consumer do."""
    return attention_rows(columns, heads_of(net)) if site.attention else {"channel": columns}


def removed_parameters(net: LlamaForCausalLM, layer: int, site: Site, columns: Tensor) -> tuple[int, int]:
    """How many weights and how many biases leave one site when only these columns of its consumer stay."""
    block = layers_of(net)[layer].get_submodule(site.block)
    consumer = block.get_submodule(site.consumer)
    weights, biases = (consumer.in_features - len(columns)) * consumer.out_features, 0
    rows = producer_rows(net, site, columns)
    for role, names in site.producers.items():
        for part in map(block.get_submodule, names):
            gone = part.out_features - len(rows[role])
            weights += gone * part.in_features
            biases += gone if part.bias is not None else 0
    return weights, biases


def share(source: LlamaForCausalLM, target: LlamaForCausalLM) -> None:
    """Put the source's modules, parameters and all, in the place of the target's."""
    target.model.embed_tokens = source.model.embed_tokens
    target.model.norm = source.model.norm
    target.model.rotary_emb = source.model.rotary_emb
    target.lm_head = source.lm_head
    target.generation_config = copy.deepcopy(source.generation_config)
    for ours, theirs in zip(target.model.layers, source.model.layers, strict=True):
        for name, module in theirs.named_children():
            setattr(ours, name, module)


def with_cuts(
    net: CompactLlamaForCausalLM, dense: LlamaForCausalLM, cuts: Mapping[tuple[int, str], Cut]
) -> CompactLlamaForCausalLM:
    """The same removal with other consumer weights, e.g. none compensated: all but those weights is shared."""
    config = copy.deepcopy(net.config)
    sites = {site.name: site for site in architecture_of(dense).sites}
    new: dict[tuple[int, str], nn.Module] = {}
    for (layer, name), cut in cuts.items():
        site = sites[name]
        bias = _sum(consumer_of(layers_of(dense)[layer], site).bias, cut.bias)
        (config.o_bias if site.attention else config.down_bias)[layer] = bias is not None
        block = net.model.layers[layer].get_submodule(site.block)
        new[layer, name] = with_consumer(block, site, linear(cut.weight, bias))
    with torch.device("meta"):
        other = CompactLlamaForCausalLM(config)
    share(net, other)
    for (layer, name), block in new.items():
        setattr(other.model.layers[layer], sites[name].block, block)
    return other.eval()


def padded(dense: LlamaForCausalLM, cuts: Mapping[tuple[int, str], Cut]) -> LlamaForCausalLM:
    """A stock LLaMA of the dense shape with zeros where rows and columns went: the same function as the compact one.

    Biases need stock switches for a whole model, so one biased site gives all its kind a bias, zero elsewhere.
    """
    config, arch = copy.deepcopy(dense.config), architecture_of(dense)
    for site in arch.sites:
        if any(cut.bias is not None for (_, name), cut in cuts.items() if name == site.name):
            setattr(config, "attention_bias" if site.attention else "mlp_bias", True)
    with torch.device("meta"):
        net = LlamaForCausalLM(config)
    stock = [dict(layer.named_children()) for layer in net.model.layers]  # of the right class and bias, no weights
    share(dense, net)
    for i, layer in enumerate(net.model.layers):
        for site in arch.sites:
            cut = cuts.get((i, site.name))
            biased = config.attention_bias if site.attention else config.mlp_bias
            source = layer.get_submodule(site.block)
            if cut is None and biased == (source.get_submodule(site.consumer).bias is not None):
                continue
            block = stock[i][site.block]
            consumer = source.get_submodule(site.consumer)
            columns = torch.arange(consumer.in_features) if cut is None else cut.columns
            encoders = columns if columns.ndim > 1 else None
            if encoders is not None:  # the first values of every head are the narrower ones
                _, rank, dim = encoders.shape
                columns = torch.arange(consumer.in_features).view(-1, dim)[:, :rank].flatten()
            rows = producer_rows(dense, site, columns)
            for role, names in site.producers.items():
                for name in names:
                    part = source.get_submodule(name)
                    if encoders is not None and role == "value":
                        part = encoded(part, torch.nn.functional.pad(encoders, (0, 0, 0, dim - rank)))
                    bias = _zeros_but(part.bias, rows[role]) if part.bias is not None else None
                    if biased and bias is None:
                        bias = part.weight.new_zeros(part.out_features)
                    setattr(block, name, linear(_zeros_but(part.weight, rows[role]), bias))
            weight = consumer.weight
            if cut is not None:
                weight = torch.zeros_like(weight)
                weight[:, columns] = cut.weight
            bias = _sum(consumer.bias, None if cut is None else cut.bias)
            if biased and bias is None:
                bias = weight.new_zeros(len(weight))
            setattr(block, site.consumer, linear(weight, bias))
            setattr(layer, site.block, block.eval())
    return net.eval()


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """An nn.Linear that holds these very tensors."""
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    module.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        module.bias = nn.Parameter(bias, requires_grad=False)
    return module


def encoded(values: nn.Linear, encoders: Tensor) -> nn.Linear:
    """The value projection with encoders (kv, rank, dim) applied to the rows of each KV head, and to its bias."""
    kv, _, dim = encoders.shape
    encoders = encoders.to(values.weight.device)
    wide = values.weight.data.view(kv, dim, -1).to(encoders)
    weight = (encoders @ wide).flatten(0, 1).to(values.weight)
    if values.bias is None:
        return linear(weight)
    return linear(weight, (encoders @ values.bias.data.view(kv, dim, 1).to(encoders)).flatten().to(values.weight))


def _rows(dense: nn.Linear, rows: Tensor) -> nn.Linear:
    if len(rows) == dense.out_features:
        return dense
    rows = rows.to(dense.weight.device)
    bias = None if dense.bias is None else dense.bias.data.index_select(0, rows)
    return linear(dense.weight.data.index_select(0, rows), bias)


def _zeros_but(x: Tensor, rows: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[rows] = x[rows]
    return out


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a.detach()
    return a.detach() + b
