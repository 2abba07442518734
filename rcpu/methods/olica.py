"""Olica (He & Lin, ICML 2025, arXiv 2506.08436): orthogonal values and outputs, low-rank queries and keys, branches.

Values and outputs of a head are turned to where the outputs' energy falls off fastest, which changes nothing, and lose
the same number of channels in every head. Queries and keys, which RoPE keeps apart, become two factors each. The MLP
loses channels by their norms; in a few layers a linear branch of low rank makes up for what went. Where query heads
share a KV head, one turn serves them all, which is ours: the authors' code has one KV head a query head.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from rcpu.base.errors import RcpuError
from rcpu.base.options import check_options, option
from rcpu.compact.building import compact_config, edited_layer
from rcpu.compact.edits import Edits
from rcpu.methods.compensation import removed
from rcpu.methods.units import attention_units
from rcpu.methods.walk import Outcome, Walk, square_sums
from rcpu.models.compact_llama import CompactLlamaConfig
from rcpu.models.families import Heads, attention_rows, heads_of, layers_of
from rcpu.models.sizes import parameter_count
from rcpu.statistics.decompose import svd

TINY = 1e-12


@dataclass(frozen=True)
class OlicaOptions:
    """Options of Olica."""

    balance: float = option(
        3.0, "Queries and keys against values", "k: values and outputs lose 2ρ/(1 + k).", low=0.01, high=100
    )
    branches: int = option(
        6, "Layers with a branch", "Those whose MLP is most linear, the last left out.", low=0, high=1000
    )
    rank: float = option(0.03, "Rank of a branch", "As a share of the model's width.", low=0.001, high=1)
    damping: float = option(0.5, "Damping", "Times the mean diagonal, less with more text.", low=1e-6, high=1e3)
    spared: float = option(
        0.01, "Lowest channels that stay", "This share by score, as in the authors' code.", low=0, high=0.5
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Shares:
    """What leaves a layer: shares of values, of queries and keys, and of MLP channels; and ranks of q and k."""

    values: float
    queries: float
    channels: float
    q_rank: int
    k_rank: int


def shares(config: CompactLlamaConfig, ratio: float, balance: float) -> Shares:
    """How a budget of ``ratio`` of all parameters, embeddings included, is shared within every layer.

    Raises:
        RcpuError: the MLP would have to lose more than all of its channels, or less than none.
    """
    d, dim = config.hidden_size, config.head_dim
    q, kv = config.num_attention_heads * dim, config.num_key_value_heads * dim
    values = 2 * ratio / (1 + balance)
    queries = 2 * ratio if ratio <= 0.4 else balance * values
    budget = ratio * parameter_count(config) / config.num_hidden_layers
    attention = ratio * 2 * d * (q + kv) + (values * d * (q + kv) if ratio <= 0.4 else 0)
    channels = (budget - attention) / (3 * d * config.intermediate_size)
    if not 0 <= channels < 0.99 or queries >= 1:
        raise RcpuError(
            f"ratio {ratio:g} of all parameters, the embedding included, leaves {1 - channels:.0%} of MLP channels "
            f"and {1 - queries:.0%} of queries and keys here: choose a smaller ratio or another balance"
        )
    ranks = (max(1, ceil((1 - queries) * d * out / (d + out) - 1e-9)) for out in (q, kv))
    return Shares(values, queries, channels, *ranks)


def sizes(config: CompactLlamaConfig, recipe) -> CompactLlamaConfig:
    """What the model will measure; which layers get a branch is not known yet, but how many are."""
    options, count = recipe.options, config.num_hidden_layers
    if not recipe.ratio:
        return config
    found = shares(config, recipe.ratio, options.balance)
    config.value_dims = [config.head_dim - int(found.values * config.head_dim)] * count
    config.intermediate_sizes = [config.intermediate_size - int(found.channels * config.intermediate_size)] * count
    config.ranks = {"q_proj": [found.q_rank] * count, "k_proj": [found.k_rank] * count}
    branches = min(options.branches, count - 1)
    config.branch_ranks = [max(1, int(options.rank * config.hidden_size))] * branches + [0] * (count - branches)
    return config


def value_turns(o_weight: Tensor, norms: Tensor, heads: Heads) -> Tensor:
    """An orthogonal U for each KV head (kv, dim, dim): left vectors of its o_proj columns, outputs scaled by norms."""
    w = (o_weight.double() * norms.to(o_weight.device)[:, None]).view(-1, heads.kv, heads.query // heads.kv, heads.dim)
    return torch.stack([svd(block.permute(2, 0, 1).flatten(1))[0] for block in w.unbind(1)])


def turned(v: Tensor, o: Tensor, turns: Tensor, heads: Heads) -> tuple[Tensor, Tensor]:
    """Rows of v_proj (or its bias as one column) and columns of o_proj in other axes: the same function."""
    turns = turns.to(v)
    rows = torch.einsum("kdr,kdi->kri", turns, v.view(heads.kv, heads.dim, -1)).reshape(len(v), -1)
    columns = torch.einsum("okgd,kdr->okgr", o.view(len(o), heads.kv, -1, heads.dim), turns).reshape(len(o), -1)
    return rows, columns


def low_rank(weight: Tensor, norms: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors (out, rank) and (rank, in) of a weight, nearest where inputs are scaled by their norms."""
    norms = norms.to(weight.device).clamp_min(TINY)
    u, s, vh = svd(weight.double() * norms)
    return u[:, :rank] * s[:rank], vh[:rank] / norms


class Regression:
    """Sums for a ridge regression Y ≈ X A of rows X (tokens, d_in) and Y (tokens, d_out), and how well it does."""

    def __init__(self, d_in: int, d_out: int, device: torch.device):
        self.xx = torch.zeros(d_in, d_in, device=device)
        self.xy = torch.zeros(d_in, d_out, device=device)
        self.x, self.y, self.yy = torch.zeros(d_in).double(), torch.zeros(d_out).double(), torch.zeros(d_out).double()
        self.tokens = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in one batch, (…, d_in) and (…, d_out)."""
        x, y = x.flatten(0, -2).float(), y.flatten(0, -2).float()
        self.xx.addmm_(x.mT, x)
        self.xy.addmm_(x.mT, y)
        self.x += x.sum(0).cpu().double()
        self.y += y.sum(0).cpu().double()
        self.yy += square_sums(y)
        self.tokens += len(x)

    def solve(self, damping: float) -> tuple[Tensor, Tensor]:
        """A (d_in, d_out) with λ = damping · mean diag XᵀX, and how X A correlates with Y in each output (d_out,)."""
        xx, xy, n = self.xx.cpu().double(), self.xy.cpu().double(), self.tokens
        damped = xx + damping * xx.diagonal().mean() * torch.eye(len(xx), dtype=xx.dtype)
        a = torch.cholesky_solve(xy, torch.linalg.cholesky(damped))
        mean, y = a.mT @ (self.x / n), self.y / n
        shared = (a * xy).sum(0) / n - mean * y
        spread = ((a * (xx @ a)).sum(0) / n - mean**2).clamp_min(0).sqrt()
        spread *= (self.yy / n - y**2).clamp_min(0).sqrt()
        return a, torch.where(spread > 0, shared / spread.clamp_min(TINY), 0.0)


def branch(a: Tensor, correlation: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors (d_out, rank) and (rank, d_in) of A, nearest where outputs that correlate count more."""
    weights = torch.sigmoid((correlation - correlation.mean()) / 0.05)
    u, s, vh = svd(a * weights)
    return (vh[:rank] / weights).mT, (u[:, :rank] * s[:rank]).mT


def run(net, windows, recipe, *, progress, cancelled, micro_batch=None) -> Outcome:
    """A dense pass for turns and for how linear each MLP is, then a pruned one, layer by layer."""
    options, layers, heads, d = recipe.options, layers_of(net), heads_of(net), net.config.hidden_size
    if not recipe.ratio:
        return Outcome(Edits({}), ("ratio 0 removes nothing",))
    found = shares(compact_config(net), recipe.ratio, options.balance)
    steps = {"progress": progress, "cancelled": cancelled, "micro_batch": micro_batch, "passes": 3.2 * len(layers)}
    walk = Walk(net, windows, **steps)
    damping = options.damping / (walk.hidden[..., 0].numel() / 128**2)
    turns, linear = [], []
    for i, layer in enumerate(layers):
        norms, fit = 0, Regression(d, d, walk.device)
        for seen in walk.measure(layer, f"layer {i}: turning values", move=True):
            if seen.site.attention:
                norms = norms + square_sums(seen.added)
            else:
                fit.add(seen.entering, seen.added)
        turns.append(value_turns(layer.self_attn.o_proj.weight.data, (norms / walk.windows).sqrt(), heads))
        linear.append(fit.solve(damping)[1].mean())
    linear = torch.stack(linear)
    chosen = set(linear[:-1].argsort(descending=True)[: options.branches].tolist())
    fraction, walk = walk.fraction, None
    walk = Walk(net, windows, **steps)
    walk.fraction = fraction
    edits: dict[int, dict[str, Tensor]] = {}
    brought = torch.zeros(len(layers), dtype=torch.float64)
    for i in range(len(layers)):
        edits[i] = _narrow(walk, net, i, turns[i], found, options)
        if i in chosen:
            left, right, brought[i] = _branch(walk, net, i, edits[i], options, damping)
            edits[i] |= {"mlp.branch.left": left, "mlp.branch.right": right}
        walk.advance(edited_layer(net, i, edits[i]), f"layer {i}: running pruned")
    return Outcome(Edits(edits), (), {"linear": linear, "branched": torch.tensor(sorted(chosen)), "brought": brought})


def _turn_edits(net, index: int, turns: Tensor) -> dict[str, Tensor]:
    """Values and outputs of a dense layer in other axes."""
    attention, heads = layers_of(net)[index].self_attn, heads_of(net)
    rows, columns = turned(attention.v_proj.weight.data, attention.o_proj.weight.data, turns, heads)
    named = {"self_attn.v_proj.weight": rows, "self_attn.o_proj.weight": columns}
    if (bias := attention.v_proj.bias) is not None:
        own = turned(bias.data[:, None], attention.o_proj.weight.data, turns, heads)[0].flatten()
        named["self_attn.v_proj.own_bias"] = own
    return named


def _narrow(walk: Walk, net, index: int, turns: Tensor, found: Shares, options: OlicaOptions) -> dict[str, Tensor]:
    """Edits of one layer without its branch, measured on the turned but still whole layer."""
    heads, named = heads_of(net), _turn_edits(net, index, turns)
    layer = edited_layer(net, index, named)
    sums: dict[str, Tensor] = {}
    for seen in walk.measure(layer, f"layer {index}: measuring"):
        for key, x in ((seen.site.norm, seen.entering), (seen.site.name, seen.inner)):
            sums[key] = sums.get(key, 0) + square_sums(x)
    norms = {key: (total / walk.windows).sqrt().to(walk.device) for key, total in sums.items()}
    x, x_mlp, v, o = (
        norms["input_layernorm"],
        norms["post_attention_layernorm"],
        *(named[f"self_attn.{name}.weight"] for name in ("v_proj", "o_proj")),
    )
    by_column = (o.double() * norms["o_proj"]).norm(dim=0).view(heads.kv, -1, heads.dim)
    scores = (v.double() * x).norm(dim=1).view(heads.kv, heads.dim) + by_column.norm(dim=1)
    kept = scores.sort(dim=1).indices[:, int(found.values * heads.dim) :].sort(1).values.cpu()
    columns = attention_units(heads, "channel").gather(1, kept[..., None].expand(-1, -1, heads.query // heads.kv))
    columns = columns.flatten().sort().values
    rows = attention_rows(columns, heads)["value"]
    named["self_attn.v_proj.weight"] = v[rows.to(v.device)]
    named["self_attn.o_proj.weight"] = o[:, columns.to(o.device)]
    if "self_attn.v_proj.own_bias" in named:
        named["self_attn.v_proj.own_bias"] = named["self_attn.v_proj.own_bias"][rows.to(v.device)]
    for name, rank in (("q_proj", found.q_rank), ("k_proj", found.k_rank)):
        weight = layer.self_attn.get_submodule(name).weight.data
        factors = low_rank(weight, x, rank)
        named |= {f"self_attn.{name}.{side}": f.to(weight) for side, f in zip(("left", "right"), factors, strict=True)}
    mlp = layer.mlp
    channels = (mlp.up_proj.weight.double() * x_mlp).norm(dim=1) + (mlp.gate_proj.weight.double() * x_mlp).norm(dim=1)
    channels += (mlp.down_proj.weight.double() * norms["down_proj"]).norm(dim=0)
    order, spared = channels.sort().indices, int(options.spared * len(channels))
    gone = int(found.channels * len(channels))
    named["mlp.down_proj.columns"] = torch.cat([order[:spared], order[spared + gone :]]).sort().values.cpu()
    return named


def _branch(walk: Walk, net, index: int, named, options: OlicaOptions, damping: float) -> tuple[Tensor, Tensor, Tensor]:
    """Factors of the branch that stands for the MLP's lost channels, and how well a linear map correlates."""
    layer = layers_of(net)[index]
    weight, kept = layer.mlp.down_proj.weight.data, named["mlp.down_proj.columns"].to(walk.device)
    gone = removed(kept, weight.shape[1])
    fit = Regression(weight.shape[0], weight.shape[0], walk.device)
    for seen in walk.measure(layer, f"layer {index}: fitting a branch"):
        if not seen.site.attention:
            fit.add(seen.entering, seen.inner[..., gone] @ weight[:, gone].mT)
    a, correlation = fit.solve(damping)
    left, right = branch(a, correlation, max(1, int(options.rank * len(weight))))
    return left.to(weight), right.to(weight), correlation.mean()
