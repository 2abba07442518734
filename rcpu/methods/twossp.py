"""2SSP (Sandri et al., 2025, arXiv 2501.17771): MLP neurons by the size of what they give, then whole attention blocks.

Neurons go by ‖h_j‖₂ on the dense model, the same number in every layer; attention blocks go one at a time, always the
one without which the perplexity on a few calibration windows is lowest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from rcpu.base.errors import RcpuError
from rcpu.base.options import check_options, option
from rcpu.compact.building import edited_layer
from rcpu.compact.edits import Edits
from rcpu.methods.walk import Outcome, Walk, square_sums
from rcpu.models.compact_llama import CompactLlamaConfig
from rcpu.models.families import layers_of, run_block
from rcpu.text.windows import Windows


@dataclass(frozen=True)
class TwoStageOptions:
    """Options of 2SSP."""

    balance: float = option(1.5, "Balance", "The larger, the more attention blocks go.", low=0.1, high=100)
    checks: int = option(8, "Windows to choose blocks on", "Of the calibration windows.", low=1, high=4096)

    def __post_init__(self) -> None:
        check_options(self)


def shares(config: CompactLlamaConfig, ratio: float, balance: float) -> tuple[int, int]:
    """Attention blocks that go, round(L · ρ^((mlp/attention)/balance)), and MLP channels of every layer for the rest.

    Raises:
        RcpuError: the MLPs would have to lose all of their channels.
    """
    d, dim, count = config.hidden_size, config.head_dim, config.num_hidden_layers
    attention = 2 * d * dim * (config.num_attention_heads + config.num_key_value_heads)
    mlp = 3 * d * config.intermediate_size
    blocks = min(count - 1, round(count * ratio ** (mlp / attention / balance))) if ratio else 0
    channels = round((ratio * (attention + mlp) * count - blocks * attention) / (3 * d * count))
    if channels >= config.intermediate_size:
        raise RcpuError(f"ratio {ratio:g} leaves no channel of the MLPs: choose a smaller one, or another balance")
    return blocks, max(0, channels)


def sizes(config: CompactLlamaConfig, recipe) -> CompactLlamaConfig:
    """What the model will measure, whichever blocks go."""
    blocks, channels = shares(config, recipe.ratio, recipe.options.balance)
    count = config.num_hidden_layers
    config.intermediate_sizes = [config.intermediate_size - channels] * count
    for i in range(blocks):
        config.query_heads[i] = config.kv_heads[i] = 0
    return config


def run(net, windows, recipe, *, progress, cancelled, micro_batch=None) -> Outcome:
    """A dense pass for the neurons, then one pass over a few windows for each attention block that may go."""
    options, layers = recipe.options, layers_of(net)
    blocks, channels = shares(net.config, recipe.ratio, options.balance)
    count = len(layers)
    tries = sum(count - n for n in range(blocks))
    few = min(options.checks, len(windows.calibration))
    whole = 1 / (1 + tries * few / len(windows.calibration))  # of the work
    walk = Walk(net, windows, passes=count / whole, progress=progress, cancelled=cancelled, micro_batch=micro_batch)
    edits: dict[int, dict[str, Tensor]] = {}
    for i, layer in enumerate(layers):
        squares = 0
        for seen in walk.measure(layer, f"layer {i}: measuring", move=True):
            if not seen.site.attention:
                squares = squares + square_sums(seen.inner)
        kept = squares.argsort(descending=True, stable=True)[: len(squares) - channels].sort().values
        edits[i] = {"mlp.down_proj.columns": kept}
    fraction, walk = walk.fraction, None
    short = Windows(windows.calibration[:few], windows.held_out[:0], windows.text)
    gone: list[int] = []
    losses = torch.full((blocks, count), torch.nan)
    thin = [edited_layer(net, i, edits[i]) for i in range(count)] if blocks else []
    for n in range(blocks):
        for i in (i for i in range(count) if i not in gone):
            walk = Walk(net, short, passes=1, progress=progress, cancelled=cancelled, micro_batch=micro_batch)
            walk.share, walk.fraction = (1 - whole) / (tries * count * len(walk.parts)), fraction
            losses[n, i] = _loss(net, walk, thin, {*gone, i}, short.calibration, f"attention block {n + 1} of {blocks}")
            fraction = walk.fraction
        gone.append(int(losses[n].nan_to_num(torch.inf).argmin()))
    for i in gone:
        edits[i]["self_attn.gone"] = torch.ones(1)
    return Outcome(Edits(edits), (), {"losses": losses, "gone": torch.tensor(gone)})


def _loss(net, walk: Walk, layers, gone: set[int], ids: Tensor, message: str) -> float:
    """Mean loss in nats without these attention blocks."""
    for i, layer in enumerate(layers):
        for part in walk.parts:
            walk.step(f"{message}, layer {i}")
            h = walk.hidden[part]
            for site in walk.sites:
                if not (site.attention and i in gone):
                    norm = layer.get_submodule(site.norm)
                    h += run_block(layer.get_submodule(site.block), norm, site, h, walk.attention)
    total = 0.0
    for h, window in zip(net.model.norm(walk.hidden), ids.to(walk.device), strict=True):
        total += cross_entropy(net.lm_head(h[:-1]).float(), window[1:], reduction="sum").item()
    return total / ids[:, 1:].numel()
