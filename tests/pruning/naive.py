"""The layer loop once more with all of its options, naively: a LLaMA in fp64, every activation in memory, no sums.

Written from definitions, it shares no code with rcpu. What a run decided it takes from the run and says what that
costs, so that rounding leads nowhere else. Rows are tokens here: X is (tokens, d_in), and Y = X Wᵀ.
"""

from __future__ import annotations

from math import floor, sqrt

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, silu

FP64 = torch.float64
EMBEDDING, CONSUMERS = "model.embed_tokens.weight", {"o_proj": "self_attn.o_proj", "down_proj": "mlp.down_proj"}
TURNS = ("rotation", "rotation_scale")
CENTRED = (*TURNS, "least_squares", "two_sided")  # repairs that can have centred moments and a bias
FROM_GRAM = ("obs", "greedy")
ROUNDING = 1e-3  # of a number of units
MOST = 0.8  # of a layer, by influence
SWAP = 1e-4  # standardised scores as near as this may swap places
Key = tuple[int, str]  # layer and site


class Net:
    """A LLaMA in fp64, with other weights where ``weights`` has some."""

    def __init__(self, net, weights: dict[Key, Tensor] | None = None):
        c = self.config = net.config
        self.query, self.kv, self.dim = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        self.keys = [(layer, site) for layer in range(c.num_hidden_layers) for site in CONSUMERS]
        self.parts = {name: values.double() for name, values in net.state_dict().items()}
        self.parts |= {f"{self.name(*key)}.weight": weight for key, weight in (weights or {}).items()}

    def name(self, layer: int, site: str) -> str:
        return f"model.layers.{layer}.{CONSUMERS[site]}"

    def weight(self, layer: int, site: str) -> Tensor:  # (d_out, d_in)
        return self.parts[f"{self.name(layer, site)}.weight"]

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.parts[f"{name}.weight"].T + self.parts.get(f"{name}.bias", 0)

    def norm(self, name: str, h: Tensor) -> Tensor:
        return h / (h.square().mean(-1, keepdim=True) + self.config.rms_norm_eps).sqrt() * self.parts[f"{name}.weight"]

    def turned(self, x: Tensor) -> Tensor:  # (windows, heads, tokens, dim)
        """RoPE: at token n channels i and i + dim/2 turn by n · θ^(−2i/dim)."""
        half = self.dim // 2
        speeds = self.config.rope_parameters["rope_theta"] ** (-torch.arange(half, dtype=FP64) / half)
        angles = torch.outer(torch.arange(x.shape[2], dtype=FP64), speeds)
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)

    def inputs(self, layer: int, site: str, h: Tensor) -> Tensor:
        """What a projection reads where the residual stream is h, (windows, tokens, d_in)."""
        name = f"model.layers.{layer}"
        if site == "down_proj":
            x = self.norm(f"{name}.post_attention_layernorm", h)
            return silu(self.linear(f"{name}.mlp.gate_proj", x)) * self.linear(f"{name}.mlp.up_proj", x)
        x = self.norm(f"{name}.input_layernorm", h)
        parts = (self.linear(f"{name}.self_attn.{part}_proj", x) for part in "qkv")
        q, k, v = (part.unflatten(-1, (-1, self.dim)).transpose(1, 2) for part in parts)
        k, v = (part.repeat_interleave(self.query // self.kv, 1) for part in (self.turned(k), v))
        scores = self.turned(q) @ k.mT / sqrt(self.dim)
        ahead = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        return (scores.masked_fill(ahead, -torch.inf).softmax(-1) @ v).transpose(1, 2).flatten(2)

    def outputs(self, layer: int, site: str, x: Tensor, cut=None) -> Tensor:
        """What a projection, or what is left of it, puts out, (windows, tokens, d_out)."""
        if cut is None:
            return self.linear(self.name(layer, site), x)
        own = self.parts.get(f"{self.name(layer, site)}.bias", 0)
        return self.narrow(x, cut.columns) @ cut.weight.double().T + own + (0 if cut.bias is None else cut.bias)

    def after(self, layer: int, site: str, h: Tensor, cut=None) -> Tensor:
        """The residual stream behind one block."""
        return h + self.outputs(layer, site, self.inputs(layer, site, h), cut)

    def logits(self, ids: Tensor, cuts: dict) -> Tensor:
        h = self.parts[EMBEDDING][ids]
        for key in self.keys:
            h = self.after(*key, h, cuts.get(key))
        return self.head(h)

    def head(self, h: Tensor) -> Tensor:
        return self.linear("lm_head", self.norm("model.norm", h))

    def narrow(self, x: Tensor, columns: Tensor) -> Tensor:
        """Kept columns of x, or the values of every query head in the subspace of its KV head."""
        if columns.ndim == 1:
            return x[..., columns]
        of_query = columns.double().repeat_interleave(self.query // self.kv, 0)  # (query, rank, dim)
        return torch.einsum("...hd,hrd->...hr", x.unflatten(-1, (self.query, self.dim)), of_query).flatten(-2)


def walk(net: Net, ids: Tensor, recipe, cuts: dict) -> dict[Key, tuple[Tensor, Tensor]]:
    """Inputs of every projection (windows, tokens, d_in), and what the stream lacks there against the dense model's."""
    found, pruned = {}, net.parts[EMBEDDING][ids]
    dense = pruned
    for i in range(net.config.num_hidden_layers):
        middle = net.after(i, "o_proj", dense)
        if recipe.path == "dense":
            for site, h in (("o_proj", dense), ("down_proj", middle)):
                found[i, site] = net.inputs(i, site, h), torch.zeros_like(h)
            dense = net.after(i, "down_proj", middle)
            continue
        found[i, "o_proj"] = net.inputs(i, "o_proj", pruned), dense - pruned
        repaired = net.after(i, "o_proj", pruned, cuts.get((i, "o_proj")))
        met = net.after(i, "o_proj", pruned) if recipe.order == "paper" else repaired
        found[i, "down_proj"] = net.inputs(i, "down_proj", met), middle - met
        pruned = net.after(i, "down_proj", repaired, cuts.get((i, "down_proj")))
        dense = net.after(i, "down_proj", middle)
    return found


def damped(m: Tensor, share: float) -> Tensor:
    """M + share · mean diag M · I."""
    return m + share * m.diagonal().mean() * torch.eye(len(m), dtype=FP64)


def layout(net: Net, site: str, unit: str) -> Tensor:
    """Columns by stratum and unit, (strata, units, columns): query head h reads KV head h // group."""
    if site == "down_proj":
        return torch.arange(net.config.intermediate_size).view(1, -1, 1)
    group = net.query // net.kv
    unit = ("channel" if group > 1 else "head") if unit == "auto" else unit
    heads = [[k * group + j for j in range(group)] for k in range(net.kv)]  # of each KV head
    if unit == "head":
        return torch.tensor([[[h * net.dim + c for c in range(net.dim)] for h in range(net.query)]])
    if unit == "kv_group":
        return torch.tensor([[[h * net.dim + c for h in own for c in range(net.dim)] for own in heads]])
    return torch.tensor([[[h * net.dim + c for h in own] for c in range(net.dim)] for own in heads])


def curvatures(net: Net, ids: Tensor) -> dict[Key, tuple[Tensor, Tensor, Tensor]]:
    """K-FAC from one backward: C = Σ‖g‖² x xᵀ / Σ‖g‖², Γ = mean g gᵀ and mean g xᵀ, g the gradients by outputs."""
    met, h = {}, net.parts[EMBEDDING][ids].requires_grad_()
    with torch.enable_grad():
        for key in net.keys:
            x = net.inputs(*key, h)
            met[key] = x, net.outputs(*key, x)
            h = h + met[key][1]
        loss = cross_entropy(net.head(h)[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
        gradients = torch.autograd.grad(loss, [y for _, y in met.values()])
    found = {}
    for (key, (x, _)), g in zip(met.items(), gradients, strict=True):
        x, g = x.detach().flatten(0, 1), g.flatten(0, 1)
        found[key] = (x.T * g.square().sum(1)) @ x / g.square().sum(), g.T @ g / len(x), g.T @ x / len(x)
    return found


def stepped(net: Net, curvatures: dict, keys: list[Key], nats: float) -> dict[Key, Tensor]:
    """Weights after the natural gradient's step of so many nats, all of these sites together."""
    moves, price = {}, 0.0
    for key in keys:
        inputs, outputs, slope = curvatures[key]
        moves[key] = -torch.linalg.inv(damped(outputs, 10)) @ slope @ torch.linalg.inv(damped(inputs, 10))
        price += ((outputs @ moves[key] @ inputs) * moves[key]).sum().item() / 2
    return {key: net.weight(*key) + sqrt(nats / price) * move for key, move in moves.items()}


def metric(outputs: Tensor) -> Tensor:
    """F with FᵀF = (Γ / mean diag Γ + 0.1 I) / 1.1, upper triangular."""
    return torch.linalg.cholesky(damped(outputs / outputs.diagonal().mean(), 0.1) / 1.1).mT


def alone(weight: Tensor, gram: Tensor, damping: float) -> Tensor:
    """‖W_j‖² / [H⁻¹]_jj, (d_in,): what each column would cost if all others made up for it."""
    return weight.square().sum(0) / torch.linalg.inv(damped(gram, damping)).diagonal()


def fluctuation(x: Tensor) -> Tensor:  # (windows, tokens, d_in)
    """Σ_{k≥2} (k − 1)/k · Σ_tokens (x_k − mean of windows 1 to k)² / (n − 1), (d_in,)."""
    parts = [(k / (k + 1)) * (x[k] - x[: k + 1].mean((0, 1))).square().sum(0) for k in range(len(x))]
    return sum(parts) / max(1, len(x) - 1)


def score(name: str, weight: Tensor, x: Tensor, layer: int, site: str, seed: int) -> Tensor:
    """Importance of every column by what is no repaired loss, (d_in,), from inputs (windows, tokens, d_in)."""
    rows, power = x.flatten(0, 1), 2 if site == "o_proj" else 1
    norm, mean, variance = weight.norm(dim=0), rows.abs().mean(0), rows.var(0, correction=0)
    absolute, length = weight.abs().sum(0), rows.square().sum(0).sqrt()
    generator = torch.Generator().manual_seed(((seed * 10_007 + layer) * 2 + (site == "down_proj")) % 2**63)
    return {
        "rcpu": norm * mean * variance,
        "wanda_sp": absolute * mean,
        "flap": (variance * norm**2) ** power,
        "wifv": (fluctuation(x) * norm**2) ** power,
        "ifv": fluctuation(x) ** power,
        "wifn": (absolute / len(weight) * length) ** power,
        "wanda_sp_l2": absolute * length,
        "magnitude": norm,
        "random": torch.rand(weight.shape[1], generator=generator, dtype=FP64),
        "mean_absolute": mean,
        "variance": variance,
        "norm_mean": norm * mean,
        "norm_variance": norm * variance,
        "mean_variance": mean * variance,
    }[name]


def greedy(weight: Tensor, gram: Tensor, units: Tensor, gone: int, damping: float, block: int) -> list[int]:
    """Columns that go when the cheapest ``block`` units of a round do, with what stays repaired in between."""
    inverse, (strata, count, _) = torch.linalg.inv(damped(gram, damping)), units.shape
    left, columns, out = [gone] * strata, [], set()
    while any(left):
        p, w = inverse, weight
        if columns:
            solved = torch.linalg.solve(p[columns][:, columns], p[columns])
            p, w = p - p[:, columns] @ solved, w - w[:, columns] @ solved
        able = [u for u in range(strata * count) if u not in out and left[u // count]]
        own = units.flatten(0, 1)[able]  # (units, columns)
        theirs = w.T[own]  # (units, columns, d_out)
        costs = (torch.linalg.solve(p[own[:, :, None], own[:, None]], theirs) * theirs).sum((1, 2))
        for u in (able[j] for j in costs.argsort()[:block].tolist()):
            if left[u // count]:
                left[u // count] -= 1
                out.add(u)
                columns += units[u // count, u % count].tolist()
    return sorted(columns)


def polar(m: Tensor, rank: int, proper: bool) -> tuple[Tensor, float]:
    """The orthogonal Q with the largest tr(Qᵀ M), nearest to 1 where M says nothing, and how clearly it is that one."""
    u, s, vh = torch.linalg.svd(m)
    r, sure = min(rank, int((s > 1e-7 * s[0]).sum())), s / s[0]
    left, right = u[:, r:], vh[r:].T
    q, least, clear = u[:, :r] @ vh[:r], (u[:, -1:], vh[-1:]), sure[min(rank, len(m)) - 1].item()
    if r < len(m):
        a, sure, b = torch.linalg.svd(left.T @ right)
        q, least, clear = q + left @ a @ b @ right.T, (left @ a[:, -1:], b[-1:] @ right.T), min(clear, sure[-1].item())
    if not proper or torch.linalg.det(q) > 0:
        return q, clear
    return q - 2 * least[0] @ least[1], min([clear, *(sure[-2:-1] - sure[-1]).tolist()])  # which one mirrors


def counts(net: Net, ids: Tensor, recipe, keys: list[Key], units: dict, weights: dict) -> dict[Key, set[int]]:
    """Units that leave every stratum of a site, or what rounding might make of that; ``weights`` leave with one."""
    levels, heads = {site: layout.shape[1] for site, layout in units.items()}, recipe.heads_removed
    if recipe.allocation in ("uniform", "influence"):
        shares, near = dict.fromkeys(dict(keys), recipe.ratio) | dict(recipe.ratios), (1e-9,)
        if recipe.allocation == "influence":
            shares, near = by_influence(net, ids, sorted(dict(keys)), recipe), (-ROUNDING, 0.0, ROUNDING)
        found = {key: shares[key[0]] * levels[key[1]] for key in keys}
        return {key: {min(floor(n + e), levels[key[1]] - 1) for e in near} for key, n in found.items()}
    if recipe.allocation == "heads":
        left = recipe.ratio * sum(levels[s] * weights[s] for s in levels) - heads * weights["o_proj"]
        return {key: {heads if key[1] == "o_proj" else int(left / weights["down_proj"])} for key in keys}
    met = walk(net, ids, recipe, {})
    scores = {key: unit_scores(net.weight(*key), met[key][0], key, recipe, units[key[1]]) for key in keys}
    if recipe.allocation == "flap":
        per = {site: count // weights["down_proj"] for site, count in weights.items()}  # whole, as FLAP's code has them
        every = sorted(((v, per[key[1]]) for key in keys for v in scores[key].tolist()), reverse=True)
        stays = torch.tensor([cost for _, cost in every]).cumsum(0)
        first = int((stays - (1 - recipe.ratio) * stays[-1].double()).abs().argmin())  # of those that go
        limits = dict.fromkeys(levels, (every[first][0], every[first - 1][0]))
    else:
        pooled = {site: torch.cat([scores[key] for key in keys if key[1] == site]).sort().values for site in levels}
        left = recipe.ratio * sum(len(pooled[s]) * weights[s] for s in levels) - heads * weights["o_proj"]
        gone = {"o_proj": heads, "down_proj": int(left / weights["down_proj"])}
        limits = {site: (v[gone[site] - 1] if gone[site] else v[0] - 1, v[gone[site]]) for site, v in pooled.items()}
    return {key: {min(n, levels[key[1]] - 1) for n in below(scores[key], *limits[key[1]])} for key in keys}


def below(scores: Tensor, goes: float, stays: float) -> set[int]:
    """How many go when the highest that goes and the lowest that stays are these, which swap places where they tie."""
    count, either = int((scores < (goes + stays) / 2).sum()), int(stays - goes < SWAP)
    return {count - either, count, count + either}


def unit_scores(weight: Tensor, x: Tensor, key: Key, recipe, units: Tensor) -> Tensor:
    """Standardised scores, a mean over each unit, the lowest of all strata, the second of each, and so on, (units,)."""
    rows, known = x.flatten(0, 1), recipe.scorer not in FROM_GRAM
    columns = score(recipe.scorer, weight, x, *key, recipe.seed) if known else alone(weight, rows.T @ rows, 0.01)
    return ((columns - columns.mean()) / columns.std())[units].mean(-1).sort(1).values.mean(0)


def by_influence(net: Net, ids: Tensor, layers: list[int], recipe) -> dict[int, float]:
    """L · ρ · softmax((cos − 1)/ε), four fifths at most: what is cut off there goes to the others."""
    h, cosines, whole = net.parts[EMBEDDING][ids], [], len(layers) * recipe.ratio
    for i in range(net.config.num_hidden_layers):
        before, h = h, net.after(i, "down_proj", net.after(i, "o_proj", h))
        cosines.append(cosine_similarity(before, h, dim=-1).mean())
    found = whole * torch.softmax((torch.stack(cosines)[layers] - 1) / recipe.temperature, 0)
    while (found > MOST + 1e-12).any() and not (full := found >= MOST).all():
        found = torch.where(full, MOST, found * (whole - MOST * full.sum()) / found[~full].sum())
    return dict(zip(layers, found.clamp_max(MOST).tolist(), strict=True))


class Site:
    """One projection with all that it met, and what its repair must be."""

    def __init__(self, net: Net, recipe, key: Key, met: tuple[Tensor, Tensor], calibration: int):
        self.net, self.recipe, self.weight, (inputs, lack) = net, recipe, net.weight(*key), met
        self.repair = recipe.compensation if recipe.repaired in ("both", key[1]) else "none"
        self.centred = recipe.centred and self.repair in CENTRED
        self.windows = inputs[:calibration]
        self.care = max(1.0, 10 * inputs.shape[2] / self.windows[..., 0].numel()) if recipe.careful else 1.0
        outputs = inputs @ self.weight.T
        parts = inputs, outputs, outputs + recipe.target / self.care * lack
        self.x, self.y, self.target = (part[:calibration].flatten(0, 1) for part in parts)  # (tokens, …)
        self.held_out = tuple(part[calibration:].flatten(0, 1) for part in parts)

    def chosen_by(self, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        """The weight whose repaired loss says what goes, as the metric F sees it, and G, both about the mean or not."""
        x = self.x - self.x.mean(0) if self.recipe.centred else self.x
        gram = x.T @ x
        aim = self.weight + (self.target - self.y).T @ x @ torch.linalg.inv(damped(gram, 0.3 * self.care))
        return aim if seen is None else seen @ aim, gram

    def about(self, rows: Tensor) -> Tensor:
        return rows - rows.mean(0) if self.centred else rows

    def left(self, columns: Tensor, weight: Tensor) -> float:
        """‖target − X̂ W'ᵀ‖², with the best bias where there is one."""
        return self.about(self.target - self.net.narrow(self.x, columns) @ weight.T).square().sum().item()

    def bias(self, columns: Tensor, weight: Tensor) -> Tensor | None:  # (d_out,)
        off = (self.target - self.net.narrow(self.x, columns) @ weight.T).mean(0)
        return off if self.centred or self.repair == "bias" else None

    def ridge(self, columns: Tensor, strength: float) -> Tensor:
        """argmin ‖target − X̂ Vᵀ‖² + λ‖V − start‖², (d_out, kept)."""
        x, kept = self.about(self.net.narrow(self.x, columns)), self.net.narrow(self.weight, columns)
        start = kept if self.recipe.pull == "weight" else torch.zeros_like(kept)
        return start + (self.about(self.target) - x @ start.T).T @ x @ torch.linalg.inv(damped(x.T @ x, strength))

    def criterion(self, columns: Tensor, strength: float) -> float:
        """What λ is chosen by: what is left of held-out targets, or generalised cross-validation."""
        weight, (x, _, target) = self.ridge(columns, strength), self.held_out
        if self.recipe.choose == "held_out":
            left = target - self.net.narrow(x, columns) @ weight.T - (self.bias(columns, weight) if self.centred else 0)
            return left.square().sum().item()
        x = self.about(self.net.narrow(self.x, columns))
        values = torch.linalg.eigvalsh(x.T @ x)
        freedom = (values / (values + strength * values.mean())).sum().item() / len(x)
        return self.left(columns, weight) / (1 - freedom) ** 2 if freedom < 1 else torch.inf

    def turn(self, columns: Tensor) -> tuple[Tensor, Tensor, float, float]:
        """M = target Ẑᵀ, the best Q of the kind that is asked for, how clearly, and the best scale for it."""
        x, kept = self.net.narrow(self.x, columns), self.net.narrow(self.weight, columns)
        z = self.about(x) @ kept.T
        m = self.about(self.target).T @ z
        rank, width = min(kept.shape[1], len(x) - self.centred, len(m)), self.net.dim if self.recipe.by_head else len(m)
        blocks = (m[i : i + width, i : i + width] for i in range(0, len(m), width))
        turns, clear = zip(*(polar(block, rank, self.recipe.proper) for block in blocks), strict=True)
        q = torch.block_diag(*turns)
        return m, q, min(clear), ((q * m).sum() / z.square().sum()).item()
