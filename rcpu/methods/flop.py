"""FLOP (Wang, Wohlwend & Lei, EMNLP 2020, arXiv 1910.04732): gates learn what goes, an augmented Lagrangian how much.

W = P diag(z) Q with P and Q from the singular value decomposition, or z on a consumer's inputs; z is a hard-concrete
gate that can be exactly 0. The paper trains weights and gates together; here weights are frozen and the gates alone
learn on the calibration text, which takes a backward pass through the model, a layer's activations at a time. Without
training a factored model is lost: full rank has up to twice the parameters, so half of the ranks have to go for 20 %.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint as recomputed

from rcpu.base.options import check_options, option
from rcpu.compact.edits import Edits
from rcpu.methods.svdllm import matrices, rank_of
from rcpu.methods.units import kept_columns, resolve_unit, units_of
from rcpu.methods.walk import Outcome, Walk
from rcpu.models.compact_llama import CompactLlamaConfig
from rcpu.models.families import architecture_of, consumer_of, heads_of, layers_of
from rcpu.statistics.decompose import svd

LOW, HIGH = -0.1, 1.1  # the stretched interval
FORMS = {"columns": "Inputs of o_proj and down_proj", "factors": "Ranks of every matrix's factors"}


@dataclass(frozen=True)
class FlopOptions:
    """Options of FLOP with frozen weights."""

    form: str = option(
        "columns",
        "Gates on",
        "What a gate switches off; ranks, the paper's main form, need weights that are trained along.",
        choices=FORMS,
    )
    steps: int = option(64, "Steps", "Of the gates' optimiser, each with one batch.", low=1, high=100_000)
    batch: int = option(8, "Windows a step", "Calibration windows of a step.", low=1, high=4096)
    rate: float = option(0.1, "Learning rate", "Of the gates (Adam).", low=1e-6, high=10)
    pressure: float = option(1.0, "Rate of the multipliers", "How fast the size is insisted on.", low=1e-6, high=1e3)
    begin: float = option(
        0.1, "Closed at the start", "The share that gates expect to drop at first.", low=0.001, high=0.9
    )
    exact: bool = option(True, "Meet the size", "At the end all gates move alike until the parameters are met.")

    def __post_init__(self) -> None:
        check_options(self)


def gate(alpha: Tensor, uniform: Tensor) -> Tensor:
    """Hard-concrete samples in [0, 1] (Louizos et al. 2018), β = 1, from uniform noise in (0, 1)."""
    s = torch.sigmoid(uniform.logit() + alpha)
    return (s * (HIGH - LOW) + LOW).clamp(0, 1)


def expected(alpha: Tensor) -> Tensor:
    """The probability that each gate is not 0: σ(α − ln(0.1/1.1))."""
    return torch.sigmoid(alpha - log(-LOW / HIGH))


def settled(alpha: Tensor) -> Tensor:
    """Gates when nothing is drawn any more: σ(0.8 α), as the authors' code has them."""
    return torch.sigmoid(0.8 * alpha)


def lagrangian(share: Tensor, target: float, first: Tensor, second: Tensor) -> Tensor:
    """λ₁(s − t) + λ₂(s − t)², s the share of parameters that is expected to go."""
    return first * (share - target) + second * (share - target) ** 2


@dataclass(frozen=True, eq=False)
class Gated:
    """One family of gates: where they are, what they multiply, what one costs, and how they come to bear."""

    layer: int
    path: str  # of the projection
    alpha: Tensor  # (gates,)
    cost: int  # parameters a gate
    right: Tensor | None = None  # factors (gates, d_in) and (d_out, gates)
    left: Tensor | None = None
    columns: Tensor | None = None  # or (gates, columns) of the projection's inputs


class _Switch(nn.Module):
    """A projection with gates inside it: z is set before each forward."""

    def __init__(self, dense: nn.Linear, gated: Gated):
        super().__init__()
        self.dense, self.gated, self.z = [dense], gated, None  # in a list: no parameter of ours

    def forward(self, x: Tensor) -> Tensor:
        dense, g, z = self.dense[0], self.gated, self.z.to(x.dtype)
        if g.columns is None:
            y = ((x @ g.right.mT) * z) @ g.left.mT
            return y if dense.bias is None else y + dense.bias
        wide = x.new_ones(x.shape[-1]).scatter(0, g.columns.flatten(), z[:, None].expand_as(g.columns).flatten())
        return dense(x * wide)


def sizes(config: CompactLlamaConfig, recipe) -> CompactLlamaConfig:
    """What the model will measure if all matrices lose alike; gates decide otherwise, for the same sum."""
    count = config.num_hidden_layers
    if recipe.options.form == "factors":
        config.ranks = {k: [rank_of(*s, recipe.ratio)] * count for k, s in matrices(config).items()}
        return config
    shared = config.num_attention_heads != config.num_key_value_heads
    kept = [max(1, round(n * (1 - recipe.ratio))) for n in (config.intermediate_size, config.head_dim)]
    config.intermediate_sizes = [kept[0]] * count
    if shared:
        config.value_dims = [kept[1]] * count
    else:
        heads = max(1, round(config.num_attention_heads * (1 - recipe.ratio)))
        config.query_heads, config.kv_heads = [heads] * count, [heads] * count
    return config


def closed(gates: Sequence[Gated], alphas: Sequence[Tensor], shift: float = 0.0) -> list[int]:
    """How many gates of each family close, round(n − E‖z‖₀) at most n − 1, all moved by ``shift``."""
    return [min(len(a) - 1, round(len(a) - expected(a + shift).sum().item())) for a in alphas]


@dataclass(frozen=True, eq=False)
class Learning:
    """All that the optimiser goes on from after a step; gates of all families in turn."""

    alpha: Tensor  # (gates,)
    moments: Tensor  # (2, gates) Adam's
    multipliers: Tensor  # (2,) λ₁ and λ₂
    curves: Tensor  # (steps, 4) loss, expected share gone, λ₁ and λ₂ of the steps so far
    generator: Tensor  # (bytes,) of batches and noise
    seconds: Tensor  # () that these steps took


def kept_bytes(net: nn.Module, form: str, tokens: int) -> int:
    """Bytes that autograd keeps at once for the backward pass of a step of so many tokens.

    The inputs of all layers, what one layer keeps while it is gone through again, and log-probabilities in fp32.
    """
    heads, d, n, layers = heads_of(net), net.config.hidden_size, net.config.intermediate_size, layers_of(net)
    layer = d + 2 * heads.dim * (heads.query + heads.kv) + heads.query + 3 * n  # between the blocks, attention, SwiGLU
    layer += sum(min(p.shape) for p in layers[0].parameters() if p.ndim == 2) if form == "factors" else n
    return tokens * (((len(layers) + 1) * d + layer) * net.dtype.itemsize + net.config.vocab_size * 4)


def notes(net: nn.Module, recipe) -> tuple[str, ...]:
    """What to know before it runs."""
    options, batch = recipe.options, min(recipe.options.batch, recipe.samples)
    mib = kept_bytes(net, options.form, batch * recipe.window) / 2**20
    return (
        f"{options.steps} steps, each a forward pass of {batch} windows, the same again layer by layer, and a backward "
        f"pass that keeps about {mib:,.0f} MiB beside the model",
    )


def run(net, windows, recipe, *, progress, cancelled, micro_batch=None, checkpoint=None, resume=None) -> Outcome:
    """Learn gates on batches of the calibration windows, then close those that are expected to be closed.

    ``checkpoint(step, state)`` is told all that it takes to go on after each step, ``resume`` is such a state.
    """
    options = recipe.options
    walk = Walk(net, windows, passes=1, progress=progress, cancelled=cancelled, micro_batch=micro_batch)
    count = len(layers_of(net))
    walk.share = 1 / ((options.steps + 1) * count)
    gates = _gates(net, walk, options)
    total = _parameters(net, options)
    wanted = (1 - recipe.ratio) * total
    made = torch.Generator().manual_seed(recipe.seed)
    if resume is None:
        now = _start(gates, options, made, walk.device)
    else:
        now = Learning(**resume)
        made.set_state(now.generator)
        walk.fraction = (len(now.curves) + 1) / (options.steps + 1)
    for step in range(len(now.curves), options.steps):
        now = _learn(net, walk, windows.calibration, recipe, gates, total, now, made, step)
        if checkpoint:
            checkpoint(step + 1, vars(now))
    alphas = now.alpha.to(walk.device).split([len(g.alpha) for g in gates])
    shift = _shift(gates, alphas, wanted) if options.exact else 0.0
    gone = closed(gates, alphas, shift)
    edits = _close(net, gates, alphas, gone, options)
    left = sum(g.cost * (len(a) - n) for g, a, n in zip(gates, alphas, gone, strict=True))
    taken = kept_bytes(net, options.form, min(options.batch, walk.windows) * windows.calibration.shape[1])
    told = [
        f"gates learned {options.steps} steps with weights frozen, {now.seconds.item() / options.steps:.2g} s each; "
        f"gradients took about {taken / 2**20:,.0f} MiB"
    ]
    if abs(left / total - (1 - recipe.ratio)) > 0.01:
        why = "gates of several layers close at once" if options.exact else "allow more steps or pressure"
        told.append(f"{1 - left / total:.1%} went where {recipe.ratio:.1%} was asked for: {why}")
    shares = torch.tensor([n / len(a) for a, n in zip(alphas, gone, strict=True)]).view(count, -1)
    found = {"curves": now.curves, "closed": shares, "shift": torch.tensor(shift), "asked": torch.tensor(recipe.ratio)}
    return Outcome(Edits(edits), tuple(told), found)


def _start(gates: Sequence[Gated], options: FlopOptions, made: torch.Generator, device: torch.device) -> Learning:
    """Before the first step."""
    middle = log((1 - options.begin) / options.begin)
    alpha = torch.cat([torch.randn(len(g.alpha), generator=made) * 0.01 + middle for g in gates]).to(device)
    moments, multipliers = torch.zeros(2, len(alpha), device=device), torch.zeros(2, device=device)
    return Learning(
        alpha, moments, multipliers, torch.empty(0, 4), made.get_state(), torch.zeros((), dtype=torch.float64)
    )


def _learn(net, walk: Walk, windows: Tensor, recipe, gates, total: int, now: Learning, made, step: int) -> Learning:
    """One step of Adam on the gates, and of the multipliers against it."""
    options, started = recipe.options, time.perf_counter()
    lengths = [len(g.alpha) for g in gates]
    alpha, moments, (first, second) = (t.to(walk.device) for t in (now.alpha, now.moments, now.multipliers))
    chosen = torch.randint(walk.windows, (min(options.batch, walk.windows),), generator=made)
    noise = [torch.rand(n, generator=made).clamp(1e-6, 1 - 1e-6).to(walk.device) for n in lengths]
    with torch.enable_grad():
        live = alpha.detach().requires_grad_()
        z = [gate(a, u) for a, u in zip(live.split(lengths), noise, strict=True)]
        loss = _loss(net, walk, windows[chosen], walk.hidden[chosen], gates, z, step)
        kept = sum(g.cost * expected(a).sum() for g, a in zip(gates, live.split(lengths), strict=True))
        share = 1 - kept / total
        (gradient,) = torch.autograd.grad(loss + lagrangian(share, recipe.ratio, first, second), [live])
    gap = (share - recipe.ratio).detach()
    row = torch.stack([loss.detach(), share.detach(), first, second]).cpu()
    moments = torch.stack([0.9 * moments[0] + 0.1 * gradient, 0.999 * moments[1] + 0.001 * gradient**2])
    m, v = moments[0] / (1 - 0.9 ** (step + 1)), moments[1] / (1 - 0.999 ** (step + 1))
    return Learning(
        alpha - options.rate * m / (v.sqrt() + 1e-8),
        moments,
        torch.stack([first + options.pressure * gap, second + options.pressure * gap**2]),
        torch.cat([now.curves, row[None]]),
        made.get_state(),
        now.seconds + time.perf_counter() - started,
    )


def _gates(net, walk: Walk, options: FlopOptions) -> list[Gated]:
    """Open gates for every layer; for factors a decomposition of every matrix."""
    found, unit = [], resolve_unit("auto", heads_of(net))
    for i, layer in enumerate(layers_of(net)):
        walk.step(f"layer {i}: making gates")
        for site in architecture_of(net).sites:
            names = [name for names in site.producers.values() for name in names] + [site.consumer]
            if options.form == "columns":
                layout = units_of(net, site, unit).flatten(0, 1).to(walk.device)
                cost = sum(layer.get_submodule(f"{site.block}.{n}").weight.numel() for n in _touched(site, unit))
                path = f"{site.block}.{site.consumer}"
                found.append(Gated(i, path, layout[:, 0].float(), cost // len(layout), columns=layout))
                continue
            for path in (f"{site.block}.{name}" for name in names):
                weight = layer.get_submodule(path).weight.data
                u, s, vh = svd(weight.double())
                left, right = (u * s).to(weight), vh.to(weight)
                found.append(Gated(i, path, s.float(), sum(weight.shape), right.contiguous(), left.contiguous()))
    return found


def _touched(site, unit: str) -> list[str]:
    """Projections of a site that lose rows or columns with a unit."""
    roles = {"value"} if site.attention and unit == "channel" else set(site.producers)
    return [n for role, names in site.producers.items() if role in roles for n in names] + [site.consumer]


def _parameters(net, options: FlopOptions) -> int:
    """Parameters of everything that gates can close."""
    unit, total = resolve_unit("auto", heads_of(net)), 0
    for layer in layers_of(net):
        for site in architecture_of(net).sites:
            names = _touched(site, unit if options.form == "columns" else "head")
            total += sum(layer.get_submodule(f"{site.block}.{n}").weight.numel() for n in names)
    return total


def _loss(net, walk: Walk, ids: Tensor, hidden: Tensor, gates: Sequence[Gated], z: list[Tensor], step: int) -> Tensor:
    """Mean loss in nats of a batch with these gates, each layer recomputed in the backward pass."""
    h = hidden
    for i, layer in enumerate(layers_of(net)):
        walk.step(f"step {step + 1}, layer {i}")
        h = recomputed(_switched(layer, [(g, v) for g, v in zip(gates, z, strict=True) if g.layer == i]), h,
                       use_reentrant=False, **walk.attention)  # fmt: skip
    ids, h = ids.to(walk.device), net.model.norm(h)
    losses = [cross_entropy(net.lm_head(x[:-1]).float(), window[1:]) for x, window in zip(h, ids, strict=True)]
    return torch.stack(losses).mean()


def _switched(layer: nn.Module, gates: list[tuple[Gated, Tensor]]) -> nn.Module:
    """A shell of the layer with gates inside its projections; the layer itself stays as it is."""
    shell = copy.copy(layer)
    shell._modules = dict(layer._modules)
    for gated, z in gates:
        block, _, name = gated.path.rpartition(".")
        if shell._modules[block] is layer._modules[block]:
            shell._modules[block] = copy.copy(layer._modules[block])
            shell._modules[block]._modules = dict(layer._modules[block]._modules)
        switch = _Switch(layer.get_submodule(gated.path), gated)
        switch.z = z
        shell._modules[block]._modules[name] = switch
    return shell


def _shift(gates: Sequence[Gated], alphas: Sequence[Tensor], wanted: float) -> float:
    """By how much all gates have to move so that what stays open has the wanted parameters, by bisection."""
    low, high = -50.0, 50.0

    def kept(shift: float) -> int:
        return sum(g.cost * (len(a) - n) for g, a, n in zip(gates, alphas, closed(gates, alphas, shift), strict=True))

    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) < wanted else (low, middle)
    return min(low, high, key=lambda shift: abs(kept(shift) - wanted))


def _close(net, gates, alphas, gone: list[int], options: FlopOptions) -> dict[int, dict[str, Tensor]]:
    """The edits: the lowest gates closed, what the others multiply folded into the factors or the consumer."""
    edits: dict[int, dict[str, Tensor]] = {}
    for g, alpha, n in zip(gates, alphas, gone, strict=True):
        named, order, z = edits.setdefault(g.layer, {}), alpha.argsort(descending=True), settled(alpha)
        if g.columns is None:
            kept = order[: len(order) - n].sort().values
            named[f"{g.path}.left"] = (g.left[:, kept] * z[kept]).to(g.left)
            named[f"{g.path}.right"] = g.right[kept].contiguous()
            continue
        site = next(s for s in architecture_of(net).sites if g.path == f"{s.block}.{s.consumer}")
        layout = units_of(net, site, resolve_unit("auto", heads_of(net)))
        strata, units = layout.shape[:2]
        count = max(1, round((len(alpha) - n) / strata))
        keep = torch.zeros(strata, units, dtype=torch.bool)
        keep.scatter_(1, alpha.cpu().view(strata, units).argsort(dim=1, descending=True)[:, :count], True)
        columns = kept_columns(layout, keep)
        weight = consumer_of(layers_of(net)[g.layer], site).weight.data
        wide = torch.zeros(weight.shape[1], device=weight.device)
        wide[g.columns.flatten()] = z[:, None].expand_as(g.columns).flatten()
        at = columns.to(weight.device)
        named |= {f"{g.path}.columns": columns, f"{g.path}.weight": (weight[:, at] * wide[at]).to(weight)}
    return edits
