"""A LLaMA whose layers differ in size: heads, RoPE pairs, values, MLP channels, factors, branches, residual widths.

This file depends on torch and transformers alone, because ``save_pretrained`` puts a copy beside the weights.
It knows sizes only, not where they come from nor how the weights were found: every module is made from the
configuration's lists, one number a layer, and a model of the dense sizes is the dense model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaMLP,
    LlamaRMSNorm,
    apply_rotary_pos_emb,
    eager_attention_forward,
    rotate_half,
)
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model


class CompactLlamaConfig(LlamaConfig):
    """LlamaConfig of the dense model plus one number a layer for everything that pruning changes."""

    model_type = "rcpu_compact_llama"

    query_heads: list[int] | None = None  # 0 where the whole attention block went
    kv_heads: list[int] | None = None
    key_dims: list[int] | None = None  # width of q and k in a head: two for each RoPE pair that stays
    value_dims: list[int] | None = None
    intermediate_sizes: list[int] | None = None
    o_bias: list[bool] | None = None
    down_bias: list[bool] | None = None
    ranks: dict[str, list[int]] | None = None  # by projection: rank of its two factors, 0 for a whole matrix
    branch_ranks: list[int] | None = None  # of a linear branch beside the MLP, 0 for none
    residual_sizes: list[int] | None = None  # before each block and after the last, 2 · layers + 1; None: hidden_size
    embedding_size: int | None = None  # width of the embedding's rows
    family: str = "llama"  # model_type of the dense model; what it has beside a LLaMA's parts follows
    base: dict | None = None  # its configuration, for the way back
    qk_norm: bool = False  # norms of each query and key head
    sliding_window: int | None = None  # how many tokens back the layers look that layer_types names so
    layer_types: list[str] | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        dense = {
            "query_heads": self.num_attention_heads,
            "kv_heads": self.num_key_value_heads,
            "key_dims": self.head_dim,
            "value_dims": self.head_dim,
            "intermediate_sizes": self.intermediate_size,
            "o_bias": self.attention_bias,
            "down_bias": self.mlp_bias,
            "branch_ranks": 0,
        }
        for name, value in dense.items():
            if getattr(self, name) is None:
                setattr(self, name, [value] * self.num_hidden_layers)
        self.ranks = self.ranks or {}
        self.embedding_size = self.embedding_size or self.hidden_size

    def validate_architecture(self) -> None:
        """No rule of a LLaMA's: its width need not be a multiple of its heads."""

    @property
    def dense(self) -> bool:
        """Whether every layer has the sizes that the model had before anything was pruned."""
        uniform = (
            (self.query_heads, self.num_attention_heads),
            (self.kv_heads, self.num_key_value_heads),
            (self.key_dims, self.head_dim),
            (self.value_dims, self.head_dim),
            (self.intermediate_sizes, self.intermediate_size),
            (self.branch_ranks, 0),
        )
        plain = not self.residual_sizes and not any(any(ranks) for ranks in self.ranks.values())
        return plain and all(set(sizes) == {size} for sizes, size in uniform)

    def rank(self, projection: str, layer: int) -> int:
        """Rank of the factors of this projection, 0 where it is one matrix."""
        return self.ranks[projection][layer] if projection in self.ranks else 0

    def widths(self, layer: int) -> list[int]:
        """Width of the residual stream before attention, before the MLP, and after it."""
        sizes = self.residual_sizes or [self.hidden_size] * (2 * self.num_hidden_layers + 1)
        return sizes[2 * layer : 2 * layer + 3]


def projection(d_in: int, d_out: int, bias: bool, rank: int = 0) -> nn.Module:
    """A linear map: one matrix, or two with ``rank`` numbers between them."""
    if not rank:
        return nn.Linear(d_in, d_out, bias=bias)
    return nn.Sequential(nn.Linear(d_in, rank, bias=False), nn.Linear(rank, d_out, bias=bias))


def widened(x: Tensor, width: int) -> Tensor:
    """The same with zeros behind its last dimension."""
    return x if x.shape[-1] == width else pad(x, (0, width - x.shape[-1]))


class CompactNorm(nn.Module):
    """RMSNorm of a sliced residual stream: divides by the RMS over the width it had; the gain is in the weights."""

    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.hidden_size, self.eps = hidden_size, eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).sum(-1, keepdim=True) / self.hidden_size + self.eps)).to(x.dtype)


class CompactAttention(LlamaAttention):
    """Attention with its own number of heads, and with keys and values of any width.

    Where RoPE pairs went, ``pairs`` (kv_heads, key_dim / 2) says which stay: row j and row j + key_dim / 2 of a head
    turn by the frequency of pair ``pairs[head, j]``; query heads have the pairs of their KV head.
    """

    def __init__(self, config: CompactLlamaConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        heads, kv = config.query_heads[layer_idx], config.kv_heads[layer_idx]
        d, d_out, _ = config.widths(layer_idx)
        self.key_dim, self.value_dim = config.key_dims[layer_idx], config.value_dims[layer_idx]
        self.num_key_value_groups = heads // kv

        def part(name: str, d_in: int, d_out: int, bias: bool) -> nn.Module:
            return projection(d_in, d_out, bias, config.rank(name, layer_idx))

        self.q_proj = part("q_proj", d, heads * self.key_dim, config.attention_bias)
        self.k_proj = part("k_proj", d, kv * self.key_dim, config.attention_bias)
        self.v_proj = part("v_proj", d, kv * self.value_dim, config.attention_bias)
        self.o_proj = part("o_proj", heads * self.value_dim, d_out, config.o_bias[layer_idx])
        self.q_norm = LlamaRMSNorm(self.head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = LlamaRMSNorm(self.head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.layer_type = config.layer_types[layer_idx] if config.layer_types else "full_attention"
        self.sliding_window = config.sliding_window if self.layer_type == "sliding_attention" else None
        if self.key_dim != self.head_dim:
            self.register_buffer("pairs", torch.arange(self.key_dim // 2).repeat(kv, 1))

    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, past_key_values=None, **kwargs):
        if isinstance(attention_mask, dict):  # of layers that look back differently far
            attention_mask = attention_mask[self.layer_type]
        shape = hidden_states.shape[:-1]
        query = self.q_proj(hidden_states).view(*shape, -1, self.key_dim)
        key = self.k_proj(hidden_states).view(*shape, -1, self.key_dim)
        if self.q_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = query.transpose(1, 2), key.transpose(1, 2)
        value = self.v_proj(hidden_states).view(*shape, -1, self.value_dim).transpose(1, 2)
        query, key = self.turn(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get(self.config._attn_implementation, eager_attention_forward)
        # The fast kernels want values as wide as queries: zeros are added here, never in the cache.
        width = max(self.key_dim, self.value_dim)
        output, weights = attend(
            self,
            widened(query, width),
            widened(key, width),
            widened(value, width),
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        output = output[..., : self.value_dim].reshape(*shape, -1)
        return self.o_proj(output), weights

    def turn(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary positions for queries (batch, heads, tokens, key_dim) and keys, from angles of all pairs."""
        if self.key_dim == self.head_dim:
            if (turned := cos.shape[-1]) == self.head_dim:
                return apply_rotary_pos_emb(query, key, cos, sin)
            front = apply_rotary_pos_emb(query[..., :turned], key[..., :turned], cos, sin)
            return tuple(torch.cat([a, x[..., turned:]], -1) for a, x in zip(front, (query, key), strict=True))
        columns = torch.cat([self.pairs, self.pairs + self.head_dim // 2], 1)  # (kv_heads, key_dim)
        cos, sin = (x[..., columns].transpose(1, 2) for x in (cos, sin))  # (batch, kv_heads, tokens, key_dim)
        key = key * cos + rotate_half(key) * sin
        cos, sin = (x.repeat_interleave(self.num_key_value_groups, 1) for x in (cos, sin))
        return query * cos + rotate_half(query) * sin, key


class NoAttention(nn.Module):
    """In the place of an attention block that went: adds nothing, and keeps the count of tokens in a cache."""

    def __init__(self, layer_idx: int):
        super().__init__()
        self.layer_idx = layer_idx

    def forward(self, hidden_states, past_key_values=None, **kwargs):
        if past_key_values is not None:
            nothing = hidden_states.new_zeros(len(hidden_states), 1, hidden_states.shape[1], 1)
            past_key_values.update(nothing, nothing, self.layer_idx)
        return hidden_states.new_zeros(()), None


class CompactMLP(LlamaMLP):
    """MLP with its own number of channels, and maybe a linear branch of low rank beside it."""

    def __init__(self, config: CompactLlamaConfig, layer_idx: int):
        super().__init__(config)
        size, bias = config.intermediate_sizes[layer_idx], config.mlp_bias
        _, d, d_out = config.widths(layer_idx)
        self.intermediate_size = size
        self.gate_proj = projection(d, size, bias, config.rank("gate_proj", layer_idx))
        self.up_proj = projection(d, size, bias, config.rank("up_proj", layer_idx))
        self.down_proj = projection(size, d_out, config.down_bias[layer_idx], config.rank("down_proj", layer_idx))
        self.branch = None
        if rank := config.branch_ranks[layer_idx]:
            self.branch = projection(d, d_out, False, rank)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if self.branch is None else y + self.branch(x)


class CompactLayer(LlamaDecoderLayer):
    """A decoder layer; where the residual stream is sliced, a matrix turns it from each block's axes to the next's."""

    def __init__(self, config: CompactLlamaConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.self_attn = (
            CompactAttention(config, layer_idx) if config.query_heads[layer_idx] else NoAttention(layer_idx)
        )
        self.mlp = CompactMLP(config, layer_idx)
        self.attention_type = config.layer_types[layer_idx] if config.layer_types else "full_attention"
        self.attn_turn = self.mlp_turn = None
        if config.residual_sizes:
            before, between, after = config.widths(layer_idx)
            self.input_layernorm = CompactNorm(config.hidden_size, config.rms_norm_eps)
            self.post_attention_layernorm = CompactNorm(config.hidden_size, config.rms_norm_eps)
            self.attn_turn = nn.Linear(before, between, bias=False)
            self.mlp_turn = nn.Linear(between, after, bias=False)

    def forward(self, hidden_states, **kwargs):
        if self.attn_turn is None:
            return super().forward(hidden_states, **kwargs)
        added, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        hidden_states = self.attn_turn(hidden_states) + added
        return self.mlp_turn(hidden_states) + self.mlp(self.post_attention_layernorm(hidden_states))


class TurnedEmbedding(nn.Embedding):
    """An embedding whose rows are turned to the axes of a sliced residual stream."""

    def __init__(self, count: int, width: int, padding_idx: int | None, d_out: int):
        super().__init__(count, width, padding_idx)
        self.turn = nn.Linear(width, d_out, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.turn(super().forward(input_ids))


class CompactLlamaForCausalLM(LlamaForCausalLM):
    """A causal LLaMA of :class:`CompactLlamaConfig`'s sizes; generate(), caches and save_pretrained as usual."""

    config_class = CompactLlamaConfig

    def __init__(self, config: CompactLlamaConfig):
        super().__init__(config)
        if config.layer_types:  # masks by layer; the rest of it is a LLaMA's
            self.model = Qwen2Model(config)
        if (config.rope_parameters or {}).get("partial_rotary_factor", 1.0) != 1.0:
            self.model.rotary_emb = Phi3RotaryEmbedding(config)
        self.model.layers = nn.ModuleList(CompactLayer(config, i) for i in range(config.num_hidden_layers))
        if sizes := config.residual_sizes:
            count, width, padding = config.vocab_size, config.embedding_size, self.model.padding_idx
            if width == sizes[0]:
                self.model.embed_tokens = nn.Embedding(count, width, padding)
            else:
                self.model.embed_tokens = TurnedEmbedding(count, width, padding, sizes[0])
            self.lm_head = nn.Linear(sizes[-1], count, bias=False)
            norm = LlamaRMSNorm if config.tie_word_embeddings else CompactNorm  # a tied head cannot hold the gain
            self.model.norm = norm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, **kwargs):
        """As usual; of a text that outgrows LongRoPE's short factors nothing cached serves again: all turns anew."""
        rope = self.config.rope_parameters or {}
        most = rope.get("original_max_position_embeddings") if rope.get("rope_type") == "longrope" else None
        if most and past_key_values and past_key_values.get_seq_length() <= most < input_ids.shape[1]:
            past_key_values = None
            if "next_sequence_length" in kwargs:
                kwargs["next_sequence_length"] = None
        return super().prepare_inputs_for_generation(input_ids, past_key_values=past_key_values, **kwargs)


CompactLlamaConfig.register_for_auto_class()
CompactLlamaForCausalLM.register_for_auto_class("AutoModelForCausalLM")
