"""A LLaMA whose layers differ in size: fewer heads, narrower values, fewer MLP channels, biases where wanted.

This file depends on torch and transformers alone, because ``save_pretrained`` puts a copy beside the weights.
It knows sizes only, not where they come from (assembly.py) nor how the weights were found.
"""

from __future__ import annotations

from torch import nn
from torch.nn.functional import pad
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaMLP,
    apply_rotary_pos_emb,
    eager_attention_forward,
)


class CompactLlamaConfig(LlamaConfig):
    """LlamaConfig of the dense model plus one number a layer for everything that pruning changes."""

    model_type = "rcpu_compact_llama"

    query_heads: list[int] | None = None
    kv_heads: list[int] | None = None
    value_dims: list[int] | None = None
    intermediate_sizes: list[int] | None = None
    o_bias: list[bool] | None = None
    down_bias: list[bool] | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        dense = {
            "query_heads": self.num_attention_heads,
            "kv_heads": self.num_key_value_heads,
            "value_dims": self.head_dim,
            "intermediate_sizes": self.intermediate_size,
            "o_bias": self.attention_bias,
            "down_bias": self.mlp_bias,
        }
        for name, value in dense.items():
            if getattr(self, name) is None:
                setattr(self, name, [value] * self.num_hidden_layers)


class CompactAttention(LlamaAttention):
    """Attention with its own number of heads and with values narrower than queries and keys."""

    def __init__(self, config: CompactLlamaConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        d, heads, kv = config.hidden_size, config.query_heads[layer_idx], config.kv_heads[layer_idx]
        self.value_dim = config.value_dims[layer_idx]
        self.num_key_value_groups = heads // kv
        self.q_proj = nn.Linear(d, heads * self.head_dim, bias=config.attention_bias)
        self.k_proj = nn.Linear(d, kv * self.head_dim, bias=config.attention_bias)
        self.v_proj = nn.Linear(d, kv * self.value_dim, bias=config.attention_bias)
        self.o_proj = nn.Linear(heads * self.value_dim, d, bias=config.o_bias[layer_idx])

    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, past_key_values=None, **kwargs):
        shape = hidden_states.shape[:-1]
        query = self.q_proj(hidden_states).view(*shape, -1, self.head_dim).transpose(1, 2)
        key = self.k_proj(hidden_states).view(*shape, -1, self.head_dim).transpose(1, 2)
        value = self.v_proj(hidden_states).view(*shape, -1, self.value_dim).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attend(
            self,
            query,
            key,
            # The fast kernels want values as wide as queries: zeros are added here, never in the cache.
            pad(value, (0, self.head_dim - self.value_dim)),
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        output = output[..., : self.value_dim].reshape(*shape, -1)
        return self.o_proj(output), weights


class CompactMLP(LlamaMLP):
    """MLP with its own number of channels."""

    def __init__(self, config: CompactLlamaConfig, layer_idx: int):
        super().__init__(config)
        d, size = config.hidden_size, config.intermediate_sizes[layer_idx]
        self.intermediate_size = size
        self.gate_proj = nn.Linear(d, size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(d, size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(size, d, bias=config.down_bias[layer_idx])


class CompactLlamaForCausalLM(LlamaForCausalLM):
    """A causal LLaMA of :class:`CompactLlamaConfig`'s sizes; generate(), caches and save_pretrained as usual."""

    config_class = CompactLlamaConfig

    def __init__(self, config: CompactLlamaConfig):
        super().__init__(config)
        for i, layer in enumerate(self.model.layers):
            layer.self_attn = CompactAttention(config, i)
            layer.mlp = CompactMLP(config, i)
        self.post_init()


CompactLlamaConfig.register_for_auto_class()
CompactLlamaForCausalLM.register_for_auto_class("AutoModelForCausalLM")
