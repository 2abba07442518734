"""What a model takes up: parameters, bytes, FLOPs a token, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig

from rcpu.base.errors import RcpuError
from rcpu.models.canonical import canonical_config
from rcpu.models.compact_llama import CompactLlamaConfig
from rcpu.models.devices import free_memory


@dataclass(frozen=True)
class Cost:
    """What a model takes up. FLOPs count two for each weight of a matrix product, per token, context excluded."""

    parameters: int
    bytes: int
    flops_per_token: int


def cost(net: nn.Module) -> Cost:
    """Parameters (shared ones once), their bytes, and FLOPs a token of all matrix products."""
    parameters = {id(p): p for p in net.parameters()}.values()
    linears = [m.weight.numel() for m in net.modules() if isinstance(m, nn.Linear)]
    return Cost(
        sum(p.numel() for p in parameters),
        sum(p.numel() * p.element_size() for p in parameters),
        2 * sum(linears),
    )


def parts(net: nn.Module) -> dict[str, int]:
    """Parameters by what they do, shared ones once: embeddings, attention, MLP, what methods add, the rest."""
    groups = {
        "embeddings": ("embed_tokens",),
        "q, k, v": ("q_proj", "k_proj", "v_proj"),
        "o_proj": ("o_proj",),
        "gate, up": ("gate_proj", "up_proj"),
        "down_proj": ("down_proj",),
        "branches": ("branch",),
        "turns": ("turn",),
        "output head": ("lm_head",),
    }
    found = dict.fromkeys([*groups, "norms"], 0)
    for name, p in net.named_parameters():
        owners = [g for g, modules in groups.items() if any(f"{m}." in name for m in modules)]
        owner = owners[-1] if owners else "norms"  # the turn of an embedding is a turn
        found[owner] += p.numel()
    return {name: n for name, n in found.items() if n}


#: Room beside the weights for hidden states, statistics and one decomposition, as a share of the weights.
HEADROOM = 0.15
#: What a stream holds of one layer and beside it, in layers.
LAYERS_HELD = 8


def parameter_count(config: PreTrainedConfig) -> int:
    """Parameters of the model that ``config`` describes, dense or compact; nothing is built."""
    config = canonical_config(config)
    return outside_parameters(config) + sum(layer_parameters(config, i) for i in range(config.num_hidden_layers))


def layer_parameters(config: CompactLlamaConfig, layer: int) -> int:
    """Parameters of one decoder layer: its matrices, factors, biases, branch, norms and turns."""
    _, between, after = config.widths(layer)
    heads, kv = config.query_heads[layer], config.kv_heads[layer]
    total = _matrices(config, layer) + between * config.o_bias[layer] * (heads > 0) + after * config.down_bias[layer]
    rows = (heads + kv) * config.key_dims[layer] + kv * config.value_dims[layer]
    total += rows * config.attention_bias + 2 * config.intermediate_sizes[layer] * config.mlp_bias
    total += 2 * config.head_dim * config.qk_norm * (heads > 0)
    return total + (0 if config.residual_sizes else 2 * config.hidden_size)


def flops_per_token(config: CompactLlamaConfig) -> int:
    """As :class:`Cost` has them, of the model that ``config`` describes."""
    sizes = config.residual_sizes or [config.hidden_size]
    turn = config.embedding_size * sizes[0] * (config.embedding_size != sizes[0])
    layers = sum(_matrices(config, i) for i in range(config.num_hidden_layers))
    return 2 * (layers + turn + sizes[-1] * config.vocab_size)


def _matrices(config: CompactLlamaConfig, layer: int) -> int:
    """Weights of one layer's matrix products."""
    heads, kv = config.query_heads[layer], config.kv_heads[layer]
    key, value, size = config.key_dims[layer], config.value_dims[layer], config.intermediate_sizes[layer]
    before, between, after = config.widths(layer)
    total = config.branch_ranks[layer] * (between + after)
    for name, d_in, d_out in (
        ("q_proj", before, heads * key),
        ("k_proj", before, kv * key),
        ("v_proj", before, kv * value),
        ("o_proj", heads * value, between),
        ("gate_proj", between, size),
        ("up_proj", between, size),
        ("down_proj", size, after),
    ):
        rank = config.rank(name, layer)
        total += rank * (d_in + d_out) if rank else d_in * d_out
    return total + (before * between + between * after if config.residual_sizes else 0)


def outside_parameters(config: CompactLlamaConfig) -> int:
    """Parameters outside the decoder layers: embedding, what turns it, the last norm, and a head of its own."""
    sizes, tied = config.residual_sizes or [config.hidden_size], config.tie_word_embeddings
    total = config.vocab_size * config.embedding_size + (0 if tied else config.vocab_size * sizes[-1])
    total += config.embedding_size * sizes[0] * (config.embedding_size != sizes[0])
    return total + (0 if config.residual_sizes and not tied else config.hidden_size)


def bytes_needed(parameters: int, dtype: torch.dtype) -> int:
    """Bytes for the weights and some room to work beside them."""
    return int(parameters * dtype.itemsize * (1 + HEADROOM))


def streamed_bytes(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Bytes, about, that a model takes of which one layer is held at a time, with its statistics and decompositions."""
    c = canonical_config(config)
    largest = max(layer_parameters(c, i) for i in range(c.num_hidden_layers))
    return (outside_parameters(c) + LAYERS_HELD * largest) * dtype.itemsize


def check_fits(config: PreTrainedConfig, dtype: torch.dtype, device: torch.device) -> None:
    """Raise ``RcpuError`` if the weights and some room to work exceed the free memory of the device."""
    need = bytes_needed(parameter_count(config), dtype)
    free = free_memory(device)
    if need > free:
        smaller = " or a narrower dtype" if dtype.itemsize > 2 else ""
        raise RcpuError(
            f"the model does not fit: its weights and working room need {need / 2**30:.1f} GiB, {device} has "
            f"{free / 2**30:.1f} GiB free; take a smaller model{smaller}, or free memory"
        )
