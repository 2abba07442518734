"""MINI-LLM (arXiv 2407.11681): channels and heads go by magnitude × activation × gradient, without a backward pass.

The gradient is SPSA's: all weights move by ±εz at once, z of random signs or normal, and (L₊ − L₋)/2ε · z is what a
weight gets. No code of the authors was found. The reading taken: a weight's score is |W_ij| ‖x_j‖ |g_ij| with ‖x_j‖ the
root mean square of its input and g the mean over draws of z; a unit's score is the sum over its weights, or their
largest. The fine-tuning that the paper adds is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from rcpu.base.options import check_options, option
from rcpu.compact.edits import Edits
from rcpu.methods.units import kept_columns, removed_count, resolve_unit, units_of
from rcpu.methods.walk import Outcome, Walk, square_sums
from rcpu.models.compact_llama import CompactLlamaConfig
from rcpu.models.families import Heads, Site, consumer_of, heads_of, layers_of

NOISES = {"normal": "Normal", "signs": "Random signs"}
GROUPINGS = {"sum": "Sum over a unit's weights", "max": "Largest of a unit's weights"}


@dataclass(frozen=True)
class MiniOptions:
    """Options of MINI-LLM."""

    draws: int = option(8, "Draws of z", "Two forwards each; their mean is the gradient.", low=1, high=10_000)
    step: float = option(1e-3, "Step ε", "How far weights move, absolute.", low=1e-8, high=1.0)
    noise: str = option("normal", "Noise z", "What weights are moved by.", choices=NOISES)
    grouping: str = option("sum", "A unit's score", "How its weights' scores come together.", choices=GROUPINGS)
    unit: str = option(
        "auto", "Unit of o_proj", "What leaves as one there.",
        choices={"auto": "As the model allows", "head": "Heads", "kv_group": "KV groups", "channel": "Value channels"},
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_options(self)


def sizes(config: CompactLlamaConfig, recipe) -> CompactLlamaConfig:
    """What the model will measure."""
    heads = Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim)
    count, group, ratio = config.num_hidden_layers, heads.query // heads.kv, recipe.ratio
    unit = resolve_unit(recipe.options.unit, heads)
    if unit == "channel":
        config.value_dims = [heads.dim - removed_count(heads.dim, ratio)] * count
    else:
        kept = heads.kv - removed_count(heads.kv, ratio)
        config.query_heads, config.kv_heads = [kept * group] * count, [kept] * count
    channels = config.intermediate_size
    config.intermediate_sizes = [channels - removed_count(channels, ratio)] * count
    return config


def noises(layer: nn.Module, seed: int, kind: str) -> Iterator[tuple[str, Tensor]]:
    """z of every matrix of a layer, by its name, the same for the same seed; on the CPU, in fp32."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in layer.named_parameters():
        if weight.ndim == 2:
            z = torch.randn(weight.shape, generator=generator)
            yield name, z.sign() if kind == "signs" else z


def spsa(losses: list[tuple[float, float]], step: float) -> list[float]:
    """(L₊ − L₋)/2ε of every draw."""
    return [(plus - minus) / (2 * step) for plus, minus in losses]


def run(net, windows, recipe, *, progress, cancelled, micro_batch=None, checkpoint=None, resume=None) -> Outcome:
    """Losses of the moved weights layer by layer, a pass for activations, then units by their score.

    ``checkpoint(draw, state)`` is told the losses after each draw, ``resume`` is such a state.
    """
    options, layers = recipe.options, layers_of(net)
    steps = {"progress": progress, "cancelled": cancelled, "micro_batch": micro_batch}
    steps["passes"] = (2 * options.draws + 1) * len(layers)
    losses = [] if resume is None else [tuple(pair) for pair in resume["losses"].tolist()]
    fraction = 2 * len(losses) / (2 * options.draws + 1)
    for draw in range(len(losses), options.draws):
        pair = []
        for sign in (1, -1):
            walk = Walk(net, windows, **steps)
            walk.fraction = fraction
            for i, layer in enumerate(layers):
                moved = _moved(layer, seed_of(recipe.seed, draw, i), options, sign)
                for part in walk.parts:
                    walk.step(f"draw {draw + 1} of {options.draws}, layer {i}: forward")
                    walk.hidden[part] = functional_call(layer, moved, (walk.hidden[part],), walk.attention)
            pair.append(_loss(net, walk, windows.calibration))
            fraction = walk.fraction
        losses.append(tuple(pair))
        if checkpoint:
            checkpoint(draw + 1, {"losses": torch.tensor(losses, dtype=torch.float64)})
    slopes = spsa(losses, options.step)
    walk = Walk(net, windows, **steps)
    walk.fraction = fraction
    unit = resolve_unit(options.unit, heads_of(net))
    edits: dict[int, dict[str, Tensor]] = {}
    for i, layer in enumerate(layers):
        squares: dict[str, Tensor] = {}
        for seen in walk.measure(layer, f"layer {i}: measuring", move=True):
            for key, x in ((seen.site.norm, seen.entering), (seen.site.name, seen.inner)):
                squares[key] = squares.get(key, 0) + square_sums(x)
        tokens = walk.hidden[..., 0].numel()
        gradient = mean_gradient(layer, slopes, [seed_of(recipe.seed, n, i) for n in range(len(slopes))], options.noise)
        named = edits.setdefault(i, {})
        for site in walk.sites:
            scores = {}
            for name in (*(n for names in site.producers.values() for n in names), site.consumer):
                path = f"{site.block}.{name}"
                x = (squares[site.name if name == site.consumer else site.norm] / tokens).sqrt()
                weight = layer.get_submodule(path).weight.data
                scores[name] = weight.float().abs() * x.to(weight.device).float() * gradient[f"{path}.weight"].abs()
            layout = units_of(net, site, unit)
            by_unit = unit_scores(scores, site, layout, heads_of(net), options.grouping)
            columns = kept_columns(layout, highest(by_unit, recipe.ratio))
            if len(columns) < consumer_of(layer, site).in_features:
                named[f"{site.block}.{site.consumer}.columns"] = columns
    found = {"losses": torch.tensor(losses), "slopes": torch.tensor(slopes)}
    return Outcome(Edits(edits), ("the fine-tuning that the paper adds is left out",), found)


def unit_scores(scores: dict[str, Tensor], site: Site, layout: Tensor, heads: Heads, grouping: str) -> Tensor:
    """Scores of units (strata, units) from those of the weights that leave with each, matrix by matrix."""
    reduce = torch.amax if grouping == "max" else torch.sum
    strata, units = layout.shape[:2]
    parts = [reduce(scores[site.consumer], 0).cpu()[layout]]
    for role, names in site.producers.items():
        for rows in (reduce(scores[name], 1).cpu() for name in names):
            if role == "channel":
                parts.append(rows[layout])
            elif strata == heads.kv and units == heads.dim:  # value channels: queries and keys stay
                parts += [rows.view(strata, units, 1)] if role == "value" else []
            else:
                parts.append(rows.view(1, units, -1))
    return reduce(torch.cat(parts, 2), 2)


def highest(scores: Tensor, ratio: float) -> Tensor:
    """The mask (strata, units) of those that stay, the same number in every stratum."""
    count = scores.shape[1] - removed_count(scores.shape[1], ratio)
    keep = torch.zeros_like(scores, dtype=torch.bool)
    return keep.scatter_(1, scores.argsort(dim=1, descending=True, stable=True)[:, :count], True)


def mean_gradient(layer: nn.Module, slopes: list[float], seeds: list[int], kind: str) -> dict[str, Tensor]:
    """What SPSA takes for the gradient of each matrix of a layer, the mean over draws of slope · z."""
    found: dict[str, Tensor] = {}
    for slope, seed in zip(slopes, seeds, strict=True):
        for name, z in noises(layer, seed, kind):
            found[name] = found.get(name, 0) + slope / len(slopes) * z
    return {name: g.to(layer.get_parameter(name).device) for name, g in found.items()}


def seed_of(seed: int, draw: int, layer: int) -> int:
    """Of the noise of one layer in one draw."""
    return (seed * 1_000_003 + draw * 10_007 + layer) % 2**63


def _moved(layer: nn.Module, seed: int, options: MiniOptions, sign: int) -> dict[str, Tensor]:
    moved = {}
    for name, z in noises(layer, seed, options.noise):
        weight = layer.get_parameter(name).detach()
        moved[name] = (weight.float() + sign * options.step * z.to(weight.device)).to(weight.dtype)
    return moved


def _loss(net, walk: Walk, ids: Tensor) -> float:
    """Mean loss in nats of the hidden states behind the last layer."""
    total = 0.0
    for part in walk.parts:
        for h, window in zip(net.model.norm(walk.hidden[part]), ids[part].to(walk.device), strict=True):
            total += cross_entropy(net.lm_head(h[:-1]).float(), window[1:], reduction="sum").item()
    return total / ids[:, 1:].numel()
