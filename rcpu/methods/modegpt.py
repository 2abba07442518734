"""MoDeGPT (Lin et al., ICLR 2025): pairs of matrices made narrower by decompositions that suit what is between.

MLP: Nyström, the channels of largest ridge leverage and least squares for the rest. Queries and keys: the RoPE pairs
with the largest products of second moments. Values and outputs: a whitened SVD of their product. Layers that change
the residual stream less lose more. No code of the authors was found: readings taken where the paper leaves one are
options. With grouped KV heads pairs and value axes are chosen for a KV head and all its query heads together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rcpu.base.errors import RcpuError
from rcpu.base.options import check_options, option
from rcpu.compact.building import edited_layer
from rcpu.compact.edits import Edits
from rcpu.methods.allocation import by_influence
from rcpu.methods.walk import Outcome, Walk, factored
from rcpu.models.compact_llama import CompactLlamaConfig
from rcpu.models.families import Heads, heads_of, layers_of
from rcpu.statistics.decompose import eigh, svd
from rcpu.statistics.sums import Accumulator

ALLOCATIONS = {"influence": "Layers that change the stream less lose more", "uniform": "The same in every layer"}
PATHS = {"pruned": "What pruned layers before give", "dense": "What the dense layers before give"}


@dataclass(frozen=True)
class ModeOptions:
    """Options of MoDeGPT."""

    allocation: str = option("influence", "Share between layers", "By block influence, or alike.", choices=ALLOCATIONS)
    temperature: float = option(
        0.15, "Temperature", "ε: the smaller, the more layers differ.", low=0.001, high=100,
        when=("allocation", ("influence",)),
    )  # fmt: skip
    most: float = option(
        0.8, "Most of a layer", "No layer loses a larger share.", low=0.01, high=0.99,
        when=("allocation", ("influence",)),
    )  # fmt: skip
    ridge: float = option(0.01, "Ridge of the leverage", "λ, times the mean second moment.", low=1e-9, high=1e3)
    path: str = option("pruned", "Measured on", "Where a layer's inputs come from.", choices=PATHS)

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Kept:
    """What stays of one layer: MLP channels, RoPE pairs and value axes of a head; at least one each."""

    channels: int
    pairs: int
    values: int


def kept_of(config: CompactLlamaConfig, ratios: Sequence[float]) -> list[Kept]:
    """Counts of every layer; together as many as if all layers lost the mean of these ratios, rounded up."""
    found = []
    for n in (config.intermediate_size, config.head_dim // 2, config.head_dim):
        wanted = [ratio * n for ratio in ratios]
        gone, total = [int(w + 1e-9) for w in wanted], len(ratios) * int(sum(wanted) / len(ratios) + 1e-9)
        for i in sorted(range(len(gone)), key=lambda i: gone[i] - wanted[i])[: max(0, total - sum(gone))]:
            gone[i] += 1
        for i in sorted(range(len(gone)), key=lambda i: (gone[i] == 0, wanted[i] - gone[i]))[
            : max(0, sum(gone) - total)
        ]:
            gone[i] -= 1
        found.append([max(1, n - g) for g in gone])
    return [Kept(*counts) for counts in zip(*found, strict=True)]


def sizes(config: CompactLlamaConfig, recipe) -> CompactLlamaConfig:
    """What the model will measure if every layer loses alike; by influence the sum is the same."""
    count = config.num_hidden_layers
    kept = kept_of(config, [recipe.ratio])[0]
    partial = (config.rope_parameters or {}).get("partial_rotary_factor", 1.0) != 1.0
    if kept.pairs < config.head_dim // 2 and (config.qk_norm or partial):
        what = "norms over whole heads" if config.qk_norm else "channels that RoPE does not turn"
        raise RcpuError(f"method 'modegpt' removes RoPE pairs, but queries and keys of {config.family} have {what}")
    config.intermediate_sizes, config.key_dims = [kept.channels] * count, [2 * kept.pairs] * count
    config.value_dims = [kept.values] * count
    return config


def nystrom(weight: Tensor, moments: Tensor, count: int, ridge: float) -> tuple[Tensor, Tensor]:
    """Columns of largest ridge leverage (count,), ascending, and the least-squares weight (d_out, count) for them.

    Leverage is [C(C + λI)⁻¹]_jj = 1 − λ [(C + λI)⁻¹]_jj, with λ relative to the mean of C's diagonal.
    """
    c = moments.double()
    damped = c + ridge * c.diagonal().mean() * torch.eye(len(c), dtype=c.dtype, device=c.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped)).diagonal()
    kept = inverse.argsort(stable=True)[:count].sort().values
    solved = torch.cholesky_solve(c[kept] @ weight.double().mT, factored(c[kept][:, kept], 1e-8))
    return kept, solved.mT.to(weight.dtype)


def best_pairs(queries: Tensor, keys: Tensor, heads: Heads, count: int) -> Tensor:
    """RoPE pairs of each KV head (kv, count), ascending, from E q² (query heads · dim,) and E k² (kv · dim,).

    The largest Σ over query heads of E q_a² E k_a² + E q_b² E k_b², with a and b the two channels of a pair.
    """
    product = queries.view(heads.kv, -1, heads.dim) * keys.view(heads.kv, 1, heads.dim)
    scores = product.sum(1).view(heads.kv, 2, heads.dim // 2).sum(1)
    return scores.argsort(dim=1, descending=True, stable=True)[:, :count].sort(1).values


def pair_rows(pairs: Tensor, heads: Heads, group: int) -> Tensor:
    """Rows of q_proj (``group`` query heads a KV head) or k_proj (1) that hold these pairs."""
    columns = torch.cat([pairs, pairs + heads.dim // 2], 1).repeat_interleave(group, 0)
    return (torch.arange(len(columns), device=pairs.device)[:, None] * heads.dim + columns).flatten()


def value_axes(v: Tensor, o: Tensor, moments: Tensor, heads: Heads, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Encoders (kv, rank, dim) for values, columns of o_proj (d_out, query heads · rank), singular values (kv, dim).

    With C the inputs' moments, W_vᵀ C W_v = V S² Vᵀ and S Vᵀ W_o = U' S' V'ᵀ: encoder U'ᵀ S⁻¹ Vᵀ, outputs S' V'ᵀ.
    ``v`` is (kv · dim, d), ``o`` (d_out, query heads · dim); query heads of one KV head share its encoder.
    """
    group, found = heads.query // heads.kv, ([], [], [])
    for values, outputs in zip(
        v.double().view(heads.kv, heads.dim, -1), o.double().split(group * heads.dim, 1), strict=True
    ):
        squares, axes = eigh(values @ moments.double() @ values.mT)
        root = squares.clamp_min(squares[-1] * 1e-12).sqrt()
        wide = outputs.view(len(o), group, heads.dim).permute(2, 1, 0).flatten(1)  # (dim, group · d_out)
        u, s, vh = svd(root[:, None] * (axes.mT @ wide))
        found[0].append(u[:, :rank].mT @ (axes / root).mT)
        found[1].append((s[:rank, None] * vh[:rank]).view(rank, group, -1).permute(2, 1, 0).flatten(1))
        found[2].append(s)
    return torch.stack(found[0]), torch.cat(found[1], 1), torch.stack(found[2])


def run(net, windows, recipe, *, progress, cancelled, micro_batch=None) -> Outcome:
    """A dense pass for block influence, then layer by layer: measure, decompose, go on."""
    options, layers = recipe.options, layers_of(net)
    steps = {"progress": progress, "cancelled": cancelled, "micro_batch": micro_batch, "passes": 3 * len(layers)}
    cosines, fraction = [], 0.0
    if options.allocation == "influence":
        first = Walk(net, windows, **steps)
        for i, layer in enumerate(layers):
            before = first.hidden.clone()
            first.advance(layer, f"layer {i}: measuring its influence")
            same = torch.nn.functional.cosine_similarity(before.float(), first.hidden.float(), dim=-1)
            cosines.append(same.mean().item())
        fraction, first = first.fraction, None
        ratios = by_influence(cosines, recipe.ratio, temperature=options.temperature, most=options.most)
    else:
        ratios = [recipe.ratio] * len(layers)
    walk = Walk(net, windows, **steps)
    walk.fraction = fraction
    edits: dict[int, dict[str, Tensor]] = {}
    spectra, kept = [], kept_of(net.config, ratios)
    for i, layer in enumerate(layers):
        edits[i], spectrum = _narrow(walk, net, i, kept[i], options)
        spectra.append(spectrum)
        after = layer if options.path == "dense" else edited_layer(net, i, edits[i])
        walk.advance(after, f"layer {i}: running {'as it is' if after is layer else 'pruned'}")
    found = {"influence": 1 - torch.tensor(cosines), "ratios": torch.tensor(ratios), "values": torch.stack(spectra)}
    return Outcome(Edits(edits), (), found)


def _narrow(walk: Walk, net, index: int, kept: Kept, options: ModeOptions) -> tuple[dict[str, Tensor], Tensor]:
    """Edits of one layer, and the singular values of its value/output products (kv, dim)."""
    layer, heads, d = layers_of(net)[index], heads_of(net), net.config.hidden_size
    attention, mlp = layer.self_attn, layer.mlp
    entering, inner = Accumulator(d, walk.device), Accumulator(mlp.down_proj.in_features, walk.device)
    squares = {"q_proj": 0, "k_proj": 0}
    for seen in walk.measure(layer, f"layer {index}: measuring"):
        if seen.site.attention:
            entering.add(seen.entering)
            for name in squares:
                y = attention.get_submodule(name)(seen.entering).flatten(0, 1).float()
                squares[name] = squares[name] + y.square().sum(0)
        else:
            inner.add(seen.inner)
    walk.step(f"layer {index}: decomposing", 0)
    named = {}
    pairs = best_pairs(*(squares[n].double() / entering.tokens for n in ("q_proj", "k_proj")), heads, kept.pairs)
    if kept.pairs < heads.dim // 2:
        named["self_attn.pairs"] = pairs
        named["self_attn.q_proj.rows"] = pair_rows(pairs, heads, heads.query // heads.kv)
        named["self_attn.k_proj.rows"] = pair_rows(pairs, heads, 1)
    v, o = attention.v_proj.weight.data, attention.o_proj.weight.data
    moments = entering.result().gram / entering.tokens
    encoder, outputs, spectrum = value_axes(v, o, moments, heads, kept.values)
    if kept.values < heads.dim:
        wide = v.double().view(heads.kv, heads.dim, -1)
        named["self_attn.v_proj.weight"] = (encoder @ wide).flatten(0, 1).to(v)
        named["self_attn.o_proj.weight"] = outputs.to(o)
        if attention.v_proj.bias is not None:
            bias = attention.v_proj.bias.data.double().view(heads.kv, heads.dim, 1)
            named["self_attn.v_proj.own_bias"] = (encoder @ bias).flatten().to(v)
    if kept.channels < mlp.down_proj.in_features:
        x = inner.result()
        columns, weight = nystrom(mlp.down_proj.weight.data, x.gram / x.tokens, kept.channels, options.ridge)
        named |= {"mlp.down_proj.columns": columns.cpu(), "mlp.down_proj.weight": weight}
    return named, spectrum.cpu()
