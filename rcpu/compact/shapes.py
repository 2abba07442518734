"""Shapes of an export: compact as it is, stock where all layers have one size, padded with zeros to the dense sizes.

A stock or padded model is one of its family's own class, which any loader takes; it is made of the compact one alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM, PreTrainedConfig, PreTrainedModel

from rcpu.base.errors import RcpuError, choose
from rcpu.models.canonical import canonical_config, together
from rcpu.models.compact_llama import CompactLlamaConfig
from rcpu.models.families import FAMILIES, Family

SHAPES = {
    "compact": "compact: truly smaller, brings its own modelling file",
    "stock": "stock: truly smaller and a plain configuration of its family",
    "padded": "padded: the dense sizes, with zeros where units went",
}
MULTIPLES = (1, 64, 128)  # of MLP channels, as kernels like them
BLOCKS = {"o": ("o_proj",), "mlp": ("gate_proj", "up_proj", "down_proj")}


def shape_problem(config: PreTrainedConfig, shape: str) -> str:
    """Why a compact model of this configuration cannot be exported in a shape; an empty string where it can."""
    choose("shape", shape, SHAPES)
    if shape == "compact":
        return ""
    c = canonical_config(config)
    family = FAMILIES[c.family]
    if c.residual_sizes:
        return "its residual stream was sliced, and no family has widths that differ from block to block"
    if branched := [i for i, rank in enumerate(c.branch_ranks) if rank]:
        return f"layer {branched[0]} has a linear branch beside its MLP, which no family has"
    if problem := _bias_problem(c, family):
        return problem
    if shape == "padded":
        return ""
    if factored := [name for name, ranks in c.ranks.items() if any(ranks)]:
        return f"{factored[0]} is a product of two factors: padded multiplies them out"
    if narrow := [i for i, size in enumerate(c.value_dims) if size != c.head_dim]:
        return (
            f"layer {narrow[0]} has values {c.value_dims[narrow[0]]} wide beside heads of {c.head_dim}: a stock "
            "attention loses whole heads or KV groups, or nothing (unit kv_group or head, or down_proj alone)"
        )
    if narrow := [i for i, size in enumerate(c.key_dims) if size != c.head_dim]:
        return f"layer {narrow[0]} has fewer RoPE pairs than its heads had, which no family has"
    for name, sizes in (("KV heads", c.kv_heads), ("query heads", c.query_heads), ("channels", c.intermediate_sizes)):
        if len(set(sizes)) > 1:
            other = next(i for i, size in enumerate(sizes) if size != sizes[0])
            return (
                f"layer 0 has {sizes[0]:,} {name} and layer {other} has {sizes[other]:,}: a stock model has as many in "
                "every layer (all layers at one ratio)"
            )
    long = (c.rope_parameters or {}).get("rope_type") == "longrope"
    if c.family == "phi3" and long and c.query_heads[0] != c.num_attention_heads:
        return (
            "transformers takes LongRoPE's factors of a Phi-3 for as many heads as divide its width (down_proj alone)"
        )
    biased = c.attention_bias or c.mlp_bias or any(c.o_bias) or any(c.down_bias)
    if c.family == "llama" and c.hidden_size % c.query_heads[0] and biased:
        return f"{c.query_heads[0]} heads do not divide a LLaMA's width, and Mistral, which may, has no biases"
    if c.dense:
        return "nothing in it is smaller than the dense model"
    return ""


def check_multiple(multiple: int) -> None:
    """Raise ``RcpuError`` for a multiple that no kernel likes."""
    if multiple not in MULTIPLES:
        raise RcpuError(f"sizes can be rounded up to a multiple of {' or '.join(map(str, MULTIPLES[1:]))}: {multiple}")


def check_shape(config: PreTrainedConfig, shape: str, multiple: int = 1) -> None:
    """Raise ``RcpuError`` where this shape is none that the model can have."""
    check_multiple(multiple)
    if multiple > 1 and shape != "stock":
        raise RcpuError(f"a multiple is for the stock shape alone: leave it out, or choose --export stock, not {shape}")
    if problem := shape_problem(config, shape):
        possible = [name for name in SHAPES if not shape_problem(config, name)]
        raise RcpuError(f"this model cannot be exported as {shape}: {problem}; possible is {' or '.join(possible)}")


@torch.no_grad()
def shaped(net: PreTrainedModel, shape: str, multiple: int = 1) -> PreTrainedModel:
    """The compact model in this shape: the same function. Rounded sizes are filled with zeros.

    Raises:
        RcpuError: the model cannot have this shape.
    """
    config = shape_config(net.config, shape, multiple)
    if shape == "compact":
        return net
    c = canonical_config(net.config)
    sizes = config.num_attention_heads, config.num_key_value_heads, config.intermediate_size
    biases = {part: any(getattr(c, f"{part}_bias")) for part in ("o", "down")}
    family = FAMILIES[config.model_type]
    with torch.device("meta"):
        made = family.model(config)
    state = {k: v for k, v in net.state_dict().items() if not k.startswith("model.layers.")}
    for i, layer in enumerate(net.model.layers):
        full = _widened(layer, c, i, sizes, biases)
        state |= {f"model.layers.{i}.{k}": v for k, v in together(full, family).items()}
    made.load_state_dict(state, assign=True)
    made.tie_weights()
    made.model.rotary_emb = net.model.rotary_emb
    made.generation_config = net.generation_config
    return made.eval().requires_grad_(False)


def shape_config(config: PreTrainedConfig, shape: str, multiple: int = 1) -> PreTrainedConfig:
    """The configuration that the model has in this shape; raises ``RcpuError`` where it cannot have it."""
    check_shape(config, shape, multiple)
    if shape == "compact":
        return config
    c = canonical_config(config)
    if shape == "padded":
        query, kv, channels = c.num_attention_heads, c.num_key_value_heads, c.intermediate_size
    else:
        query, kv = c.query_heads[0], c.kv_heads[0]
        channels = -(-c.intermediate_sizes[0] // multiple) * multiple
    return stock_config(c, query, kv, channels, o_bias=any(c.o_bias), mlp_bias=any(c.down_bias))


def stock_config(
    c: CompactLlamaConfig, query: int, kv: int, channels: int, *, o_bias: bool = False, mlp_bias: bool = False
) -> PreTrainedConfig:
    """The family's own configuration with these sizes; of Mistral where a LLaMA's cannot have as many heads."""
    kind, values = FAMILIES[c.family].config, dict(c.base or c.to_dict())
    values = {k: v for k, v in values.items() if k in _fields(kind) or k in ("torch_dtype", "dtype")}
    values |= {"num_attention_heads": query, "num_key_value_heads": kv, "intermediate_size": channels}
    values |= {"rope_parameters": c.rope_parameters, "architectures": [FAMILIES[c.family].model.__name__]}
    _, output, mlp = FAMILIES[c.family].biases
    values |= {output: c.attention_bias or o_bias} if isinstance(output, str) else {}
    values |= {mlp: c.mlp_bias or mlp_bias} if isinstance(mlp, str) else {}
    if c.family == "llama" and c.hidden_size % query:
        values = {k: v for k, v in values.items() if k in _fields(MistralConfig)}
        values |= {"sliding_window": None, "architectures": [MistralForCausalLM.__name__]}
        kind = MistralConfig
    if "head_dim" in _fields(kind) or c.head_dim * query != c.hidden_size:
        values["head_dim"] = c.head_dim
    config = kind(**values)
    config._attn_implementation = c._attn_implementation
    return config


def _fields(kind: type[PreTrainedConfig]) -> set[str]:
    return set(kind.__dataclass_fields__) - {"model_type", "auto_map"}


def _bias_problem(c: CompactLlamaConfig, family: Family) -> str:
    """Biases that the pruning added, and that this family has no place for."""
    _, output, mlp = family.biases
    for name, added, switch in (("o_proj", any(c.o_bias), output), ("down_proj", any(c.down_bias), mlp)):
        if added and not switch:
            return f"a bias was added to {name}, and {family.label} has none there"
    return ""


def _widened(
    layer: torch.nn.Module, c: CompactLlamaConfig, i: int, sizes: tuple[int, int, int], biases: dict[str, bool]
) -> dict[str, Tensor]:
    """The weights of one layer by their names, every projection whole and of these sizes, with zeros for what went."""
    (query, kv, channels), dim = sizes, c.head_dim
    state = _whole(layer) | _nothing(layer, c, i)
    attention, mlp = "self_attn.", "mlp."
    rows = _key_rows(layer.self_attn, c, i)
    values, old, old_kv = torch.arange(c.value_dims[i]), c.query_heads[i] or query, c.kv_heads[i] or kv
    group, heads_kv = old // old_kv, torch.arange(old_kv)
    heads_q = (heads_kv[:, None] * (query // kv) + torch.arange(group)).flatten()  # each beside its KV head
    for name, heads, at, columns in (
        ("q_proj", query, heads_q, rows.repeat_interleave(group, 0)),
        ("k_proj", kv, heads_kv, rows),
        ("v_proj", kv, heads_kv, values.repeat(old_kv, 1)),
        ("o_proj", query, heads_q, values.repeat(old, 1)),
    ):
        places = (at[:, None] * dim + columns).flatten()
        _place(state, attention + name, places, heads * dim, rows=name != "o_proj")
    for name in ("gate_proj", "up_proj", "down_proj"):
        _place(state, mlp + name, torch.arange(c.intermediate_sizes[i]), channels, rows=name != "down_proj")
    for part, names in (("o", ("q_proj", "k_proj", "v_proj", "o_proj")), ("down", BLOCKS["mlp"])):
        prefix = attention if part == "o" else mlp
        for name in names if biases[part] else ():
            weight = state[f"{prefix}{name}.weight"]
            state.setdefault(f"{prefix}{name}.bias", weight.new_zeros(len(weight)))
    return state


def _whole(layer: torch.nn.Module) -> dict[str, Tensor]:
    """The layer's weights with factors multiplied out: <name>.0 reads, <name>.1 writes."""
    state = {k: v for k, v in layer.state_dict().items() if not k.endswith(".pairs")}
    for name in [k.removesuffix(".0.weight") for k in state if k.endswith(".0.weight")]:
        first, last = state.pop(f"{name}.0.weight"), state.pop(f"{name}.1.weight")
        state[f"{name}.weight"] = (last.float() @ first.float()).to(last.dtype)
        if (bias := state.pop(f"{name}.1.bias", None)) is not None:
            state[f"{name}.bias"] = bias
    return state


def _nothing(layer: torch.nn.Module, c: CompactLlamaConfig, i: int) -> dict[str, Tensor]:
    """Zeros for an attention block that went, of the dense sizes; norms of its heads, which see nothing else."""
    if c.query_heads[i]:
        return {}
    like, d = layer.mlp.down_proj.weight, c.hidden_size
    rows = {"q_proj": c.num_attention_heads, "k_proj": c.num_key_value_heads, "v_proj": c.num_key_value_heads}
    found = {f"self_attn.{name}.weight": like.new_zeros(n * c.head_dim, d) for name, n in rows.items()}
    found["self_attn.o_proj.weight"] = like.new_zeros(d, c.num_attention_heads * c.head_dim)
    if c.attention_bias:
        found |= {f"self_attn.{name}.bias": like.new_zeros(n * c.head_dim) for name, n in rows.items()}
    norms = ("q_norm", "k_norm") if c.qk_norm else ()
    return found | {f"self_attn.{name}.weight": like.new_ones(c.head_dim) for name in norms}


def _key_rows(attention: torch.nn.Module, c: CompactLlamaConfig, i: int) -> Tensor:
    """Where the rows of a key head lie in one of full width, (kv_heads, key_dim)."""
    if c.key_dims[i] == c.head_dim:
        return torch.arange(c.head_dim).repeat(c.kv_heads[i] or c.num_key_value_heads, 1)
    pairs = attention.pairs.cpu()
    return torch.cat([pairs, pairs + c.head_dim // 2], 1)


def _place(state: dict[str, Tensor], name: str, places: Tensor, size: int, rows: bool) -> None:
    """Put rows (else columns) of a projection at these places of a larger one that is zero elsewhere."""
    weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
    if places.equal(torch.arange(size)):
        return
    places = places.to(weight.device)
    full = weight.new_zeros((size, weight.shape[1]) if rows else (weight.shape[0], size))
    if rows:
        full[places] = weight
        if bias is not None:
            state[f"{name}.bias"] = bias.new_zeros(size).index_copy_(0, places, bias)
    else:
        full[:, places] = weight
    state[f"{name}.weight"] = full
