"""The method once more, plainly: whole forward passes with hooks, X stored, numpy in fp64, loops over columns.

Written from the paper (arXiv 2510.07782), it shares no code with rcpu beyond the settings object.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np
import torch
from torch import nn

BLOCKS = {"o_proj": "self_attn", "down_proj": "mlp"}


@dataclass
class Solved:
    """What the reference found at one site."""

    columns: list[int]
    weight: np.ndarray  # (d_out, kept)
    bias: np.ndarray | None
    scores: list[float]
    errors: dict[str, float]  # relative, of removal alone and of the repaired projection


def score(name: str, w: np.ndarray, x: np.ndarray, attention: bool) -> list[float]:
    """Importance of each column of w (d_out × d_in) under inputs x (d_in × tokens)."""
    scores = []
    for j in range(w.shape[1]):
        column, inputs = w[:, j].tolist(), x[j].tolist()
        mean = sum(inputs) / len(inputs)
        variance = sum((value - mean) ** 2 for value in inputs) / len(inputs)
        absolute = sum(abs(value) for value in inputs) / len(inputs)
        norm = sum(value**2 for value in column) ** 0.5
        power = 2 if attention else 1
        fluctuation = variance * norm**2
        running = running_fluctuation(inputs)
        length = sum(value**2 for value in inputs) ** 0.5
        inverse = np.linalg.inv(x @ x.T + 0.01 * (x @ x.T).diagonal().mean() * np.eye(len(x)))
        alone = norm**2 / inverse[j, j]
        scores.append(
            {
                "wifv": (running * norm**2) ** power,
                "ifv": running**power,
                "wifn": (sum(abs(value) for value in column) / len(column) * length) ** power,
                "wanda_sp_l2": sum(abs(value) for value in column) * length,
                "obs": alone,
                "greedy": alone,
                "rcpu": norm * absolute * variance,
                "wanda_sp": sum(abs(value) for value in column) * absolute,
                "flap": fluctuation**2 if attention else fluctuation,
                "magnitude": norm,
                "mean_absolute": absolute,
                "variance": variance,
                "norm_mean": norm * absolute,
                "norm_variance": norm * variance,
                "mean_variance": absolute * variance,
            }[name]
        )
    return scores


def running_fluctuation(inputs: list[float], windows: int = 4) -> float:
    """FLAP's statistic of one input, its tokens in so many windows: the mean runs on, the first window never counts."""
    size, mean, found = len(inputs) // windows, 0.0, 0.0
    for n in range(windows):
        own = inputs[n * size : (n + 1) * size]
        mean = mean * n / (n + 1) + sum(own) / size / (n + 1)
        if n:
            found = found * (n - 1) / n + sum((value - mean) ** 2 for value in own) / (n + 1)
    return found


def attention_strata(query: int, kv: int, dim: int, unit: str) -> list[list[list[int]]]:
    """Columns of o_proj by stratum and unit: query head h reads KV head h // (query // kv)."""
    group = query // kv
    if unit == "head":
        return [[[h * dim + c for c in range(dim)] for h in range(query)]]
    if unit == "kv_group":
        return [[[h * dim + c for h in range(g * group, (g + 1) * group) for c in range(dim)] for g in range(kv)]]
    return [[[h * dim + c for h in range(g * group, (g + 1) * group)] for c in range(dim)] for g in range(kv)]


def keep(scores: list[float], strata: list[list[list[int]]], ratio: float) -> list[int]:
    """Columns that stay when floor(ratio · n) units with the smallest sums leave each stratum of n."""
    columns = []
    for units in strata:
        removed = floor(Fraction(str(ratio)) * len(units))
        ranked = sorted(units, key=lambda unit: sum(scores[j] for j in unit))
        columns += [j for unit in ranked[removed:] for j in unit]
    return sorted(columns)


def compensate(
    name: str, w: np.ndarray, x: np.ndarray, columns: list[int], ridge: float
) -> tuple[np.ndarray, np.ndarray | None]:
    """New weight for the kept columns, and a bias."""
    kept, x_kept = w[:, columns], x[columns]
    y, z = w @ x, kept @ x_kept
    if name == "none":
        return kept, None
    if name == "bias":
        return kept, (y - z).mean(1)
    if name == "least_squares":
        gram = x_kept @ x_kept.T
        penalty = ridge * gram.diagonal().mean()
        return np.linalg.solve(gram + penalty * np.eye(len(columns)), (y @ x_kept.T + penalty * kept).T).T, None
    u, s, vt = np.linalg.svd(y @ z.T)
    scale = s.sum() / (z**2).sum() if name == "rotation_scale" else 1
    return scale * (u @ vt @ kept), None


def capture(net: nn.Module, ids: torch.Tensor, layer: int, sites) -> dict[str, np.ndarray]:
    """Inputs (d_in × tokens) of the sites of one layer in a forward pass of the whole model."""
    caught = {}
    handles = []
    for site in sites:
        consumer = consumer_of(net, layer, site)
        handles.append(consumer.register_forward_pre_hook(lambda _, args, site=site: caught.update({site: args[0]})))
    with torch.no_grad():
        net(ids)
    for handle in handles:
        handle.remove()
    return {site: x.flatten(0, 1).T.double().numpy() for site, x in caught.items()}


def consumer_of(net: nn.Module, layer: int, site: str) -> nn.Linear:
    """The projection that loses columns."""
    return net.model.layers[layer].get_submodule(f"{BLOCKS[site]}.{site}")


def mask(net: nn.Module, layer: int, site: str, columns, weight, bias=None) -> None:
    """Zero all columns but these in a model's projection, put the new weight in them, and add the bias."""
    old = consumer_of(net, layer, site)
    new = nn.Linear(old.in_features, old.out_features, bias=old.bias is not None or bias is not None)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, columns] = torch.as_tensor(weight, dtype=new.weight.dtype)
        if new.bias is not None:
            new.bias.zero_()
            for part in (old.bias, bias):
                new.bias += 0 if part is None else torch.as_tensor(part, dtype=new.bias.dtype)
    setattr(net.model.layers[layer].get_submodule(BLOCKS[site]), site, new)


def masked(net: nn.Module, cuts) -> nn.Module:
    """A copy of the dense model with rcpu's cuts put in as zeros."""
    net = copy.deepcopy(net)
    for (layer, site), cut in cuts.items():
        mask(net, layer, site, cut.columns, cut.weight, cut.bias)
    return net


def prune(net: nn.Module, windows, config, unit: str) -> tuple[nn.Module, dict[tuple[int, str], Solved]]:
    """The greedy loop: a whole forward pass of the model, pruned so far, for every layer (or site) in turn."""
    net, c = copy.deepcopy(net), net.config
    found = {}
    stages = [["o_proj", "down_proj"]] if config.order == "paper" else [["o_proj"], ["down_proj"]]
    for layer in range(c.num_hidden_layers):
        for stage in stages:
            calibration = capture(net, windows.calibration, layer, stage)
            held_out = capture(net, windows.held_out, layer, stage)
            for site in stage:
                w, x = consumer_of(net, layer, site).weight.detach().double().numpy(), calibration[site]
                scores = score(config.scorer, w, x, attention=site == "o_proj")
                strata = (
                    attention_strata(c.num_attention_heads, c.num_key_value_heads, c.head_dim, unit)
                    if site == "o_proj"
                    else [[[j] for j in range(len(x))]]
                )
                columns = keep(scores, strata, config.ratio)
                weight, bias = compensate(config.compensation, w, x, columns, config.ridge)
                errors = {}
                for suffix, inputs in (("", x), ("_held_out", held_out[site])):
                    y = w @ inputs
                    repaired = weight @ inputs[columns] + (0 if bias is None else bias[:, None])
                    for kind, output in (("none", w[:, columns] @ inputs[columns]), ("compensated", repaired)):
                        errors[f"error_{kind}{suffix}"] = np.linalg.norm(y - output) / np.linalg.norm(y)
                found[layer, site] = Solved(columns, weight, bias, scores, errors)
            for site in stage:
                mask(net, layer, site, *[getattr(found[layer, site], k) for k in ("columns", "weight", "bias")])
    return net, found
