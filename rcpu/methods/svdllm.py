"""SVD-LLM (Wang et al., ICLR 2025, arXiv 2403.07378): every matrix becomes two factors, whitened by its inputs.

With XXᵀ = LLᵀ, cutting the singular values of W L loses exactly their squares in ‖WX − W'X‖². Its second step, an
update by training, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rcpu.base.options import check_options, option
from rcpu.compact.building import edited_layer
from rcpu.compact.edits import Edits
from rcpu.methods.modegpt import PATHS
from rcpu.methods.walk import Outcome, Walk, factored
from rcpu.models.compact_llama import CompactLlamaConfig
from rcpu.models.families import layers_of
from rcpu.statistics.decompose import svd
from rcpu.statistics.sums import Accumulator


@dataclass(frozen=True)
class WhitenOptions:
    """Options of SVD-LLM."""

    path: str = option("dense", "Measured on", "Where a layer's inputs come from.", choices=PATHS)
    damping: float = option(
        1e-6, "Damping", "Times the mean second moment; more where that cannot be factored.", low=0, high=1
    )

    def __post_init__(self) -> None:
        check_options(self)


def rank_of(d_out: int, d_in: int, ratio: float) -> int:
    """The largest rank whose factors have at most (1 − ρ) of the parameters, at least 1."""
    return max(1, int(d_out * d_in * (1 - ratio) / (d_out + d_in)))


def matrices(config: CompactLlamaConfig) -> dict[str, tuple[int, int]]:
    """Shapes (d_out, d_in) of the matrices of a dense layer."""
    d, n, dim = config.hidden_size, config.intermediate_size, config.head_dim
    q, kv = config.num_attention_heads * dim, config.num_key_value_heads * dim
    shapes = {"q_proj": (q, d), "k_proj": (kv, d), "v_proj": (kv, d), "o_proj": (d, q)}
    return shapes | {"gate_proj": (n, d), "up_proj": (n, d), "down_proj": (d, n)}


def sizes(config: CompactLlamaConfig, recipe) -> CompactLlamaConfig:
    """What the model will measure."""
    config.ranks = {k: [rank_of(*s, recipe.ratio)] * config.num_hidden_layers for k, s in matrices(config).items()}
    return config


def whitened(weight: Tensor, gram: Tensor, rank: int, damping: float) -> tuple[Tensor, Tensor, Tensor]:
    """Factors (d_out, rank) and (rank, d_in) with the least ‖(W − W')X‖_F, and singular values of W L."""
    lower = factored(gram, damping)
    u, s, vh = svd(weight.double() @ lower)
    root = s[:rank].sqrt()
    right = torch.linalg.solve_triangular(lower, root[:, None] * vh[:rank], upper=False, left=False)
    return (u[:, :rank] * root).to(weight.dtype), right.to(weight.dtype), s


def run(net, windows, recipe, *, progress, cancelled, micro_batch=None) -> Outcome:
    """Measure the inputs of every matrix of a layer, factor it, go on."""
    options, layers = recipe.options, layers_of(net)
    walk = Walk(net, windows, passes=2 * len(layers), progress=progress, cancelled=cancelled, micro_batch=micro_batch)
    edits: dict[int, dict[str, Tensor]] = {}
    left_out = []
    for i, layer in enumerate(layers):
        sums: dict[str, Accumulator] = {}
        for seen in walk.measure(layer, f"layer {i}: measuring"):
            for key, x in ((seen.site.norm, seen.entering), (seen.site.name, seen.inner)):
                if key not in sums:
                    sums[key] = Accumulator(x.shape[-1], walk.device)
                sums[key].add(x)
        named, shares = edits.setdefault(i, {}), []
        for site in walk.sites:
            names = {name: site.norm for parts in site.producers.values() for name in parts} | {
                site.consumer: site.name
            }
            grams = {key: sums[key].result().gram for key in set(names.values())}
            for name, key in names.items():
                walk.step(f"layer {i}: factoring {name}", 0)
                path = f"{site.block}.{name}"
                weight = layer.get_submodule(path).weight.data
                rank = rank_of(*weight.shape, recipe.ratio)
                left, right, s = whitened(weight, grams[key], rank, options.damping)
                named |= {f"{path}.left": left, f"{path}.right": right}
                shares.append(s[rank:].square().sum() / s.square().sum())
        left_out.append(torch.stack(shares).cpu())
        after = layer if options.path == "dense" else edited_layer(net, i, named)
        walk.advance(after, f"layer {i}: running {'as it is' if after is layer else 'factored'}")
    return Outcome(Edits(edits), (), {"left_out": torch.stack(left_out)})
