"""A model of another family as a LLaMA with something beside it, the same function, and back again.

Nothing is computed: weights are renamed, and those that hold several are taken apart or put together.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from rcpu.models.compact_llama import CompactLlamaConfig, CompactLlamaForCausalLM
from rcpu.models.families import Family, family_of

#: What is not taken over from a configuration: who reads it, and what is said in our own words.
LEFT_OUT = ("model_type", "architectures", "auto_map", "layer_types", "sliding_window", "use_sliding_window")
LEFT_OUT += ("max_window_layers", "transformers_version", "attention_bias", "mlp_bias")


def canonical_config(config: PreTrainedConfig) -> CompactLlamaConfig:
    """The configuration of the compact model that is this dense one."""
    if isinstance(config, CompactLlamaConfig):
        return config
    family, values = family_of(config), config.to_dict()

    def said(switch: str | bool) -> bool:
        return bool(values.get(switch)) if isinstance(switch, str) else switch

    qkv, output, mlp = map(said, family.biases)
    count, window = config.num_hidden_layers, getattr(config, "sliding_window", None)
    types = values.get("layer_types") if family.windowed == "listed" else ["sliding_attention"] * count
    windowed = bool(window) and bool(family.windowed) and "sliding_attention" in (types or [])
    return CompactLlamaConfig(
        **{k: v for k, v in values.items() if k not in LEFT_OUT},
        attention_bias=qkv,
        mlp_bias=mlp,
        o_bias=[output] * count,
        family=config.model_type,
        base=values,
        qk_norm=family.qk_norm,
        sliding_window=window if windowed else None,
        layer_types=types if windowed else None,
    )


def canonical(net: PreTrainedModel) -> PreTrainedModel:
    """The same function as a compact model of the dense sizes; a LLaMA is one already. ``net`` is used up."""
    if net.config.model_type in ("llama", CompactLlamaConfig.model_type):
        return net
    config, family = canonical_config(net.config), family_of(net.config)
    config._attn_implementation = net.config._attn_implementation
    with torch.device("meta"):
        made = CompactLlamaForCausalLM(config)
    made.model.embed_tokens, made.model.norm, made.lm_head = net.model.embed_tokens, net.model.norm, net.lm_head
    made.model.rotary_emb, made.generation_config = net.model.rotary_emb, copy.deepcopy(net.generation_config)
    for i, (ours, theirs) in enumerate(zip(made.model.layers, net.model.layers, strict=True)):
        state = apart(theirs.state_dict(), config, family)
        ours.load_state_dict({k: v.clone() if _fused(k, family) else v for k, v in state.items()}, assign=True)
        net.model.layers[i] = nn.Identity()  # what was taken apart is let go at once
    return made.eval().requires_grad_(False)


def apart(layer: Mapping[str, Tensor], config: CompactLlamaConfig, family: Family) -> dict[str, Tensor]:
    """The weights of one dense layer by the names of a LLaMA's; several in one are views of it."""
    found = {}
    for name, tensor in layer.items():
        path, _, kind = name.rpartition(".")
        names = family.fused.get(path)
        if names is None:
            found[name] = tensor
            continue
        sizes = [rows_of(config, part.rpartition(".")[2]) for part in names]
        for part, rows in zip(names, tensor.split(sizes), strict=True):
            found[f"{part}.{kind}"] = rows
    return found


def together(layer: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """The way back of :func:`apart`, whatever the sizes."""
    found = dict(layer)
    for whole, names in family.fused.items():
        for kind in ("weight", "bias"):
            parts = [found.pop(f"{name}.{kind}", None) for name in names]
            if parts[0] is not None:
                found[f"{whole}.{kind}"] = torch.cat(parts)
    return found


def rows_of(config: CompactLlamaConfig, projection: str) -> int:
    """Output rows of a projection of the dense model."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    heads["v_proj"] = config.num_key_value_heads
    return heads[projection] * config.head_dim if projection in heads else config.intermediate_size


def _fused(name: str, family: Family) -> bool:
    return any(name.startswith(f"{part}.") for parts in family.fused.values() for part in parts)
