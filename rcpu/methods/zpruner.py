"""Z-Pruner (arXiv 2508.15828): single weights go by standardised magnitudes times activations, layer by layer.

Zeros in place: the model is no smaller and no faster. N:M patterns are what some accelerators run faster; the
structured form sums the scores over columns, which then leave.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rcpu.base.errors import RcpuError
from rcpu.base.options import check_options, option
from rcpu.compact.building import edited_layer
from rcpu.compact.edits import Edits
from rcpu.methods.units import remove, removed_count, resolve_unit, units_of
from rcpu.methods.walk import Outcome, Walk, square_sums
from rcpu.models.compact_llama import CompactLlamaConfig
from rcpu.models.families import heads_of, layers_of

PATTERNS = {
    "unstructured": "Single weights anywhere",
    "2:4": "2 of every 4 along a row",
    "4:8": "4 of every 8 along a row",
    "columns": "Whole columns: the sum of their scores",
}


@dataclass(frozen=True)
class ZOptions:
    """Options of Z-Pruner."""

    pattern: str = option("unstructured", "What goes", "Zeros in place make a model no smaller.", choices=PATTERNS)
    mix: float = option(0.7, "Weight of rows", "α: rows against columns, before small weights lower it.", low=0, high=1)
    small: float = option(0.1, "Small weights below", "Times the mean of |W|.", low=0, high=10)
    discount: float = option(0.3, "Discount", "How far a share of small weights lowers α.", low=0, high=1)
    power: float = option(3.0, "Power of z-scores", "|z| to this power.", low=0.1, high=8)
    activation_power: float = option(1.5, "Power of activations", "‖x‖ to this power.", low=0, high=8)

    def __post_init__(self) -> None:
        check_options(self)


def z_scores(weight: Tensor, norms: Tensor, options: ZOptions) -> Tensor:
    """(α|z_r|³ + (1 − α)|z_c|³) · ‖x_j‖^1.5 of each weight (d_out, d_in), from norms (d_in,) of the inputs."""
    w = weight.float()
    rows = w / w.norm(dim=1, keepdim=True).clamp_min(1e-12)
    columns = w / w.norm(dim=0, keepdim=True).clamp_min(1e-12)
    small = (w.abs() < options.small * w.abs().mean()).float().mean()
    alpha = options.mix * (1 - options.discount * small)
    by_row, by_column = (((m - m.mean()) / m.std()).abs() ** options.power for m in (rows, columns))
    return (alpha * by_row + (1 - alpha) * by_column) * norms.to(w) ** options.activation_power


def keep_weights(scores: Tensor, ratio: float, pattern: str = "unstructured") -> Tensor:
    """Which weights stay, (d_out, d_in) bool: above the threshold over the matrix, or all but N of every M in a row."""
    if pattern == "unstructured":
        flat = scores.flatten()
        gone = int(ratio * len(flat))
        if not ratio:
            return torch.ones_like(scores, dtype=torch.bool)
        return scores > flat.kthvalue(min(gone + 1, len(flat))).values
    n, m = map(int, pattern.split(":"))
    groups = scores.view(len(scores), -1, m)
    keep = torch.ones_like(groups, dtype=torch.bool)
    return keep.scatter_(2, groups.topk(n, dim=2, largest=False).indices, False).view_as(scores)


def notes(_, recipe) -> tuple[str, ...]:
    """A fixed pattern knows no ratio."""
    n, fixed, m = recipe.pattern.partition(":")
    return (f"pattern {n}:{m} takes {n} of every {m} weights, whatever the ratio",) if fixed else ()


def sizes(config: CompactLlamaConfig, recipe) -> CompactLlamaConfig:
    """What the model will measure: as before, unless columns go."""
    if recipe.options.pattern == "columns":
        shared = config.num_attention_heads != config.num_key_value_heads
        dim, channels, count = config.head_dim, config.intermediate_size, config.num_hidden_layers
        config.intermediate_sizes = [channels - removed_count(channels, recipe.ratio)] * count
        if shared:
            config.value_dims = [dim - removed_count(dim, recipe.ratio)] * count
        else:
            kept = config.num_attention_heads - removed_count(config.num_attention_heads, recipe.ratio)
            config.query_heads, config.kv_heads = [kept] * count, [kept] * count
    return config


def zeros(config: CompactLlamaConfig, recipe) -> int:
    """Weights that will be zero in place."""
    pattern, d, dim = recipe.options.pattern, config.hidden_size, config.head_dim
    if pattern == "columns":
        return 0
    q, kv = config.num_attention_heads * dim, config.num_key_value_heads * dim
    matrices = [d * q] * 2 + [d * kv] * 2 + [d * config.intermediate_size] * 3
    if pattern != "unstructured":
        return config.num_hidden_layers * sum(matrices) // 2
    return config.num_hidden_layers * sum(int(recipe.ratio * n) + 1 for n in matrices) if recipe.ratio else 0


def run(net, windows, recipe, *, progress, cancelled, micro_batch=None) -> Outcome:
    """Score every matrix of a layer on what the pruned layers before it give, set the lowest to zero, go on."""
    options, layers = recipe.options, layers_of(net)
    group = int(options.pattern.split(":")[1]) if ":" in options.pattern else 1
    walk = Walk(net, windows, passes=2 * len(layers), progress=progress, cancelled=cancelled, micro_batch=micro_batch)
    unit = resolve_unit("auto", heads_of(net))
    edits: dict[int, dict[str, Tensor]] = {}
    shares = []
    for i, layer in enumerate(layers):
        sums: dict[str, Tensor] = {}
        for seen in walk.measure(layer, f"layer {i}: measuring"):
            for key, x in ((seen.site.norm, seen.entering), (seen.site.name, seen.inner)):
                sums[key] = sums.get(key, 0) + square_sums(x)
        norms = {key: (total / walk.windows).sqrt() for key, total in sums.items()}
        named, by_name = edits.setdefault(i, {}), []
        for site in walk.sites:
            names = {name: site.norm for parts in site.producers.values() for name in parts}
            if options.pattern == "columns":
                names = {}
            for name, key in (names | {site.consumer: site.name}).items():
                path = f"{site.block}.{name}"
                weight = layer.get_submodule(path).weight.data
                if weight.shape[1] % group:
                    raise RcpuError(
                        f"{name} has {weight.shape[1]} inputs, no multiple of {group}: choose another pattern"
                    )
                scores = z_scores(weight, norms[key], options)
                if options.pattern == "columns":
                    layout = units_of(net, site, unit)
                    named[f"{path}.columns"] = remove(scores.sum(0).double().cpu(), layout, recipe.ratio).columns
                else:
                    keep = keep_weights(scores, recipe.ratio, options.pattern)
                    named[f"{path}.keep"] = keep
                    by_name.append(1 - keep.float().mean())
        shares.append(torch.stack(by_name).cpu() if by_name else torch.zeros(0))
        walk.advance(edited_layer(net, i, named), f"layer {i}: running pruned")
    notes = () if options.pattern == "columns" else ("zeros stay in place: the model is no smaller and no faster",)
    return Outcome(Edits(edits), notes, {"zeros": torch.stack(shares)})
