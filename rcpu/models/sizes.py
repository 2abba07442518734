"""What a model takes up: parameters, bytes, FLOPs a token, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig

from rcpu.base.errors import RcpuError
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
    """Parameters by what they do, shared ones once: embeddings, attention in and out, MLP in and out, the rest."""
    groups = {
        "embeddings": ("embed_tokens",),
        "q, k, v": ("q_proj", "k_proj", "v_proj"),
        "o_proj": ("o_proj",),
        "gate, up": ("gate_proj", "up_proj"),
        "down_proj": ("down_proj",),
        "output head": ("lm_head",),
    }
    found = dict.fromkeys([*groups, "norms"], 0)
    for name, p in net.named_parameters():
        owner = next((g for g, modules in groups.items() if any(f"{m}." in name for m in modules)), "norms")
        found[owner] += p.numel()
    return {name: n for name, n in found.items() if n}


#: Room beside the weights for hidden states, statistics and one decomposition, as a share of the weights.
HEADROOM = 0.15


def parameter_count(config: PreTrainedConfig) -> int:
    """Parameters of the model that ``config`` describes, dense or compact; nothing is built."""
    if not isinstance(config, CompactLlamaConfig):
        config = CompactLlamaConfig.from_dict({**config.to_dict(), "model_type": CompactLlamaConfig.model_type})
    d, width = config.hidden_size, config.head_dim
    total = config.vocab_size * d * (1 if config.tie_word_embeddings else 2) + d
    for heads, kv, value, size, o_bias, down_bias in zip(
        config.query_heads,
        config.kv_heads,
        config.value_dims,
        config.intermediate_sizes,
        config.o_bias,
        config.down_bias,
        strict=True,
    ):
        rows = (heads + kv) * width + kv * value
        total += d * (rows + heads * value + 3 * size + 2)
        total += rows * config.attention_bias + 2 * size * config.mlp_bias + d * (o_bias + down_bias)
    return total


def bytes_needed(parameters: int, dtype: torch.dtype) -> int:
    """Bytes for the weights and some room to work beside them."""
    return int(parameters * dtype.itemsize * (1 + HEADROOM))


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
