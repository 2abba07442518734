"""A look at the dense model before the loop, where one is asked for: how much leaves where, metrics, a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from rcpu.methods import allocation, prices, step
from rcpu.methods.allocation import Curve
from rcpu.methods.columns import care, has_bias
from rcpu.methods.scoring import FROM_GRAM, FROM_WINDOWS, column_scores
from rcpu.methods.units import removed_count
from rcpu.models.families import heads_of, layers_of, weight_of
from rcpu.pruning.plan import LOOKING, Plan, plan
from rcpu.pruning.recipe import Recipe
from rcpu.statistics.curvature import Curvature, curvatures
from rcpu.statistics.decompose import few_threads
from rcpu.statistics.fluctuation import Fluctuation
from rcpu.statistics.passes import Pass, Progress
from rcpu.statistics.sums import Accumulator, Statistics
from rcpu.text.windows import Windows

Site = tuple[int, str]

METRIC_DAMPING = 0.1  # of the identity in the output metric, relative to the mean of the diagonal
PRICE_RIDGE = 0.3  # of the repair that is priced, where λ is not given
SHARE = 0.4  # of a run's progress
#: Options that come into play after a look at single sites.
AFTERWARDS = ("order", "path", "target", "block", "proper", "by_head", "choose", "pull", "share", "temperature")


@dataclass(frozen=True, eq=False)
class Survey:
    """What a look at the dense model decided."""

    plan: Plan
    metrics: Mapping[Site, Tensor] = field(default_factory=dict)  # F of each site, errors count as ‖F e‖
    curves: Mapping[Site, Curve] = field(default_factory=dict)
    weights: Mapping[Site, Tensor] = field(default_factory=dict)  # of a step along the gradient, (d_out, d_in)
    notes: tuple[str, ...] = ()
    took: float = 0.0  # share of the run's progress

    @property
    def found(self) -> dict[str, Tensor]:
        """Prices to look at: ``price.<layer>.<site>``, (2, levels) units gone from every stratum, and nats a token."""
        return {
            f"price.{i}.{name}": torch.tensor([curve.counts, curve.costs], dtype=torch.float64)
            for (i, name), curve in self.curves.items()
        }

    def rest(self, progress: Callable[[Progress], None]) -> Callable[[Progress], None]:
        """Progress of what comes after."""
        if not self.took:
            return progress
        return lambda p: progress(replace(p, fraction=self.took + (1 - self.took) * p.fraction))


@dataclass(frozen=True, eq=False)
class Look:
    """What was measured of the dense model, whatever ratio is shared by it."""

    metrics: Mapping[Site, Tensor] = field(default_factory=dict)
    curves: Mapping[Site, Curve] = field(default_factory=dict)
    steps: Mapping[Site, tuple[Tensor, float]] = field(default_factory=dict)  # directions with their prices
    cosines: Sequence[float] = ()
    scores: Mapping[Site, Tensor] = field(default_factory=dict)


class Looks:
    """The last look, for runs of one study: those that ask for the same share it, whatever their ratio and repair.

    Kept is what a run holds anyway: metrics, 4 d_out² bytes a site, and steps, as many as a weight. On the embedded
    model a look is 38 % of a run of recipe flap and 56 % of one of recipe best-repair (8 windows); three ratios of flap
    with one look take 0.77 of the processor time that they take alone (16 windows).
    """

    def __init__(self) -> None:
        self._last: tuple[tuple, Look | None] = ((), None)

    def of(self, asked: tuple, made: Callable[[], Look]) -> tuple[Look, bool]:
        """The look of these that were asked, and whether it was made now."""
        known, look = self._last
        if look is not None and known == asked:
            return look, False
        self._last = (), None  # before the next one is there
        self._last = asked, made()
        return self._last[1], True


def looked_at(recipe: Recipe) -> Recipe | None:
    """The recipe with all that its look at the dense model does not hang on set to one value; None without a look."""
    if recipe.whole or not (recipe.allocation in LOOKING or recipe.metric or recipe.step):
        return None
    of_sites = recipe.metric or recipe.step or recipe.allocation == "prices"
    same = {name: getattr(recipe, name) for name in ("model", "text", "samples", "window", "held_out", "seed")}
    if not of_sites and recipe.allocation == "influence":
        return Recipe(**same, allocation="influence")
    same |= {name: getattr(recipe, name) for name in ("sites", "layers", "unit")}
    if not of_sites:
        return Recipe(**same, scorer=recipe.scorer, allocation="flap")
    biased = [site for site in recipe.sites if has_bias(recipe, site)]
    scored = recipe.allocation in ("flap", "flap_heads")
    return replace(
        recipe,
        ratio=0.0,
        ratios=(),
        scorer=recipe.scorer if scored else "obs",
        compensation="bias" if biased else "none",
        repaired=biased[0] if len(biased) == 1 else "both",
        step=float(recipe.step > 0),
        **{name: getattr(Recipe().options, name) for name in AFTERWARDS},
    )


def survey(
    net: nn.Module,
    windows: Windows,
    recipe: Recipe,
    todo: Plan,
    *,
    looks: Looks | None = None,
    progress: Callable[[Progress], None],
    **options,  # of a pass
) -> Survey:
    """Share what the ratio removes between layers and sites as the recipe says; what it needs to know it measures.

    Raises:
        RcpuError: sites cannot lose as much.
        Cancelled: as of any pass.
    """
    asked = looked_at(recipe)
    if asked is None:
        return Survey(todo, notes=todo.notes)
    asked = (net, windows.digest, asked, options.get("micro_batch"))
    options["progress"] = lambda p: progress(replace(p, fraction=SHARE * p.fraction))
    look, fresh = (looks or Looks()).of(asked, lambda: _look(net, windows, recipe, todo, options))
    took, curves, notes = SHARE * fresh, look.curves, []
    weights = stepped(net, look.steps, recipe.step)
    if recipe.allocation == "prices":
        uniform = dict(todo.gone)
        budget = todo.parameters(uniform)
        gone = allocation.by_price(curves, budget)
        widest = max(weight_of(net, i, name).shape[1] for i, name in todo.gone)
        share = recipe.share / care(recipe, windows.calibration.numel(), widest)
        if share < 1:
            gone = allocation.filled(allocation.shrunk(gone, uniform, share), curves, budget)
        if not _gradients(recipe):
            notes.append("prices are relative errors of outputs: without gradients they say less of the loss")
    elif recipe.allocation == "influence":
        cosines = [c for i, c in enumerate(look.cosines) if i in todo.layers]
        ratios = allocation.by_influence(cosines, recipe.ratio, temperature=recipe.temperature)
        of_layer = dict(zip(todo.layers, ratios, strict=True))
        gone = {(i, name): removed_count(todo.layouts[name].shape[1], of_layer[i]) for i, name in todo.gone}
    elif recipe.allocation in LOOKING:
        gone = by_scores(look.scores, recipe, todo)
    else:
        return Survey(todo, look.metrics, weights=weights, notes=todo.notes, took=took)
    gone = {key: min(n, todo.layouts[key[1]].shape[1] - 1) for key, n in gone.items()}  # a site keeps at least one
    found = plan(net, recipe, gone)
    return Survey(found, look.metrics, curves, weights, (*todo.notes, *notes), took)


def _gradients(recipe: Recipe) -> bool:
    return recipe.metric or recipe.step > 0 or (recipe.allocation == "prices" and recipe.gradients)


def _look(net: nn.Module, windows: Windows, recipe: Recipe, todo: Plan, options: dict) -> Look:
    metrics, curves, steps = {}, {}, {}
    of_sites = _gradients(recipe) or recipe.allocation == "prices"
    if of_sites and recipe.allocation in LOOKING and recipe.allocation != "prices":  # two looks
        whole = options["progress"]
        options = options | {"progress": lambda p: whole(replace(p, fraction=p.fraction / 2))}
        then = options | {"progress": lambda p: whole(replace(p, fraction=(1 + p.fraction) / 2))}
    else:
        then = options
    if of_sites:
        count = recipe.gradient_windows if _gradients(recipe) else 0
        for i, name, seen in _seen(net, first(windows, count), recipe, options):
            if (i, name) not in todo.gone:
                continue
            weight = weight_of(net, i, name)
            with few_threads(weight.shape[1]):
                if recipe.metric:
                    metrics[i, name] = metric(seen.output)
                if recipe.step:
                    direction, price = step.direction(seen)
                    steps[i, name] = direction.to(torch.bfloat16 if weight.itemsize == 2 else direction.dtype), price
                if recipe.allocation == "prices":
                    curves[i, name] = curve(weight, seen, recipe, todo, name, heads_of(net))
    if recipe.allocation == "influence":
        return Look(metrics, steps=steps, cosines=influence(net, windows, then))
    if recipe.allocation in LOOKING and recipe.allocation != "prices":
        return Look(metrics, steps=steps, scores=scores(net, windows, recipe, todo, then))
    return Look(metrics, curves, steps)


def stepped(net: nn.Module, steps: Mapping[Site, tuple[Tensor, float]], nats: float) -> dict[Site, Tensor]:
    """The weights after a step that is priced at so much."""
    eta, found = step.length((price for _, price in steps.values()), nats), {}
    for (i, name), (direction, _) in steps.items():
        weight = weight_of(net, i, name)
        found[i, name] = weight.float().add(direction, alpha=eta).to(weight.dtype)
    return found


def metric(output: Tensor) -> Tensor:
    """F (d_out, d_out) with FᵀF the metric Γ, damped: (Γ / mean diag Γ + 0.1 I) / 1.1."""
    g = output.double() if output.device.type == "cpu" else output.clone()
    g = g / g.diagonal().mean().clamp_min(torch.finfo(g.dtype).tiny)
    g.diagonal().add_(METRIC_DAMPING)
    return torch.linalg.cholesky(g / (1 + METRIC_DAMPING)).mT.to(output.dtype).contiguous()


def _seen(net: nn.Module, windows: Windows, recipe: Recipe, options: dict):
    """Every site of the dense model with what is known of it, a layer at a time."""
    if _gradients(recipe):
        for i, found in curvatures(net, windows, slopes=recipe.step > 0, **options):
            for name, seen in found.items():
                yield i, name, seen
        return
    run = _dense(net, windows, options)
    for i in range(len(layers_of(net))):
        sums: dict[str, Accumulator] = {}
        for seen in run.layer(net, i, f"layer {i}: measured for prices"):
            sums.setdefault(seen.site.name, Accumulator(seen.x.shape[-1], run.device)).add(seen.x)
        for name, found in sums.items():
            x = found.result()
            yield i, name, Curvature(x, x.gram / x.tokens, x.mean.to(x.gram), None)


def _dense(net: nn.Module, windows: Windows, options: dict) -> Pass:
    return Pass(net, first(windows), passes=len(layers_of(net)), **options)


def first(windows: Windows, count: int = 0) -> Windows:
    """So many calibration windows, or all, and none held out."""
    return Windows(windows.calibration[: count or None], windows.held_out[:0], windows.text)


def curve(weight: Tensor, seen: Curvature, recipe: Recipe, todo: Plan, name: str, heads) -> Curve:
    """What the site costs at several removal levels: nats a token, or without gradients its relative error."""
    layout, size = todo.layouts[name], todo.sizes[name]
    weight, gram = weight.float(), seen.x.gram
    if recipe.centred:
        mean = seen.x.mean.to(gram)
        gram = torch.addr(gram, mean, mean, alpha=-seen.x.tokens)
    inputs = seen.centred if has_bias(recipe, name) else seen.gram
    cost = partial(prices.price, c=inputs, output=seen.output)
    if seen.output is None:
        whole = prices.price(weight, seen.gram) or 1.0
        cost = lambda e: prices.price(e, inputs) / whole  # noqa: E731
    counts = prices.counts(layout.shape[1])
    few = care(recipe, seen.x.tokens, weight.shape[1])
    damping, ridge = recipe.damping * few, (recipe.ridge or PRICE_RIDGE) * few
    if todo.unit == "subspace" and name == "o_proj":
        sight = weight if seen.output is None else metric(seen.output).to(weight) @ weight
        costs = prices.of_subspace(weight, gram, heads, counts, cost, damping=damping, ridge=ridge, seen=sight)
    else:
        costs = prices.of_columns(weight, gram, layout, counts, cost, damping=damping, ridge=ridge)
    return Curve(counts, tuple(costs), size.parameters, size.upkeep)


def influence(net: nn.Module, windows: Windows, options: dict) -> list[float]:
    """Cosine of each layer's input and output, a mean over tokens."""
    run, found = _dense(net, windows, options), []
    for i in range(len(layers_of(net))):
        before = run.hidden.clone()
        for _ in run.layer(net, i, f"layer {i}: how much it changes"):
            pass
        cosines = [cosine_similarity(before[p].float(), run.hidden[p].float(), dim=-1) for p, _ in run.micro_batches]
        found.append(torch.cat(cosines).double().mean().item())
    return found


def scores(net: nn.Module, windows: Windows, recipe: Recipe, todo: Plan, options: dict) -> dict[Site, Tensor]:
    """Scores of units that are comparable between layers: standardised over columns, then the mean of each unit's.

    Units that leave together, one of every stratum, count as one: the lowest of each, the second of each, and so on.
    """
    run, found = _dense(net, windows, options), {}
    for i in range(len(layers_of(net))):
        sums: dict[str, tuple[Accumulator, Fluctuation | None]] = {}
        for seen in run.layer(net, i, f"layer {i}: scores"):
            name, d_in = seen.site.name, seen.x.shape[-1]
            if name not in sums:
                order = Fluctuation(d_in) if recipe.scorer in FROM_WINDOWS else None
                sums[name] = Accumulator(d_in, run.device, gram=recipe.scorer in FROM_GRAM), order
            sums[name][0].add(seen.x)
            if sums[name][1] is not None:
                sums[name][1].add(seen.x)
        for name, (inputs, order) in sums.items():
            if (i, name) in todo.gone:
                x: Statistics = inputs.result()
                columns = column_scores(
                    weight_of(net, i, name), x, recipe.scorer, layer=i, site=name, seed=recipe.seed, windows=order
                )
                units = allocation.standardised(columns)[todo.layouts[name]].mean(-1)
                found[i, name] = units.sort(dim=1).values.mean(0)
    return found


def by_scores(found: Mapping[Site, Tensor], recipe: Recipe, todo: Plan) -> dict[Site, int]:
    """FLAP's AL-AM, one threshold over heads and neurons, or AL-MM, one for each with heads by hand."""
    neuron = todo.sizes["down_proj"].weights
    costs = {key: int(todo.sizes[key[1]].weights / neuron) for key in found}
    if recipe.allocation == "flap":
        return allocation.by_threshold(found, costs, recipe.ratio)
    attention = {key: s for key, s in found.items() if key[1] == "o_proj"}
    mlp = {key: s for key, s in found.items() if key[1] == "down_proj"}
    whole = sum(s.numel() * todo.sizes[name].weights for (_, name), s in found.items())
    neurons = int((recipe.ratio * whole - recipe.heads_removed * todo.sizes["o_proj"].weights) / neuron)
    return allocation.lowest(attention, recipe.heads_removed) | allocation.lowest(mlp, neurons)
