"""Options together: recipes drawn at random, and all that a run says of them against a naive run in fp64.

The loop runs in fp32 and knows inputs through sums, so what follows agrees as far as fp32 does, and where that says
little (ties, directions in which M or G says next to nothing, λ that do as well) what counts is compared instead.
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

import rcpu
from rcpu.compact import Edits, rebuild
from rcpu.compact.assembly import Cut
from rcpu.methods.allocation import ALLOCATIONS
from rcpu.methods.columns import PATHS, REPAIRED
from rcpu.methods.compensation import CHOICES, PULLS
from rcpu.pruning import walk
from tests import tiny
from tests.pruning import naive
from tests.pruning.naive import FP64, FROM_GRAM, TURNS, Net, Site
from tests.pruning.test_resume import assert_same

CHUNKS, COMPARED, DRAWN = 10, 10, 80  # recipes: compared in each chunk, drawn for them at most; half do not combine
KINDS = {
    **tiny.KINDS,
    "gqa, four layers": {**tiny.KINDS["gqa"], "num_hidden_layers": 4, "intermediate_size": 100},
    "wide": {"head_dim": 16, "intermediate_size": 80},  # both sites twice as wide as the stream: summed up directly
    "wide, biased gqa": {"head_dim": 16, "num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
}
#: What few draws would meet: λ chosen against a target that shrinks where tokens are few, by fewer tokens yet.
CORNER = {"compensation": "least_squares", "ridge": None, "choose": "held_out", "target": 1.0, "path": "pruned"}
CORNER |= {"careful": True, "samples": 16, "held_out": 1}
#: Accuracies, relative: sums and weights are fp32, and a square of what is left cancels where that is little. In 4000
#: other recipes a quarter of each was the worst.
SCORES = 1e-4  # each
LOSSES = 1e-3  # repaired ones, from H⁻¹ of fp32 sums; also of choices between which ties decided
SQUARED, CANCELLED = 2e-5, 2e-7  # of squared errors, and of the squares that they are the difference of
WEIGHTS = 1e-3  # behind a decomposition, or normal equations
CLEAR = 1e-3  # λ, or singular values of the largest, below which only what is left counts
LEFT, LEFT_OVER = 1e-4, 1e-6  # of what a repair leaves, and of all there was
AS_GOOD = 1e-3  # of the criterion for λ
LOGITS = 3e-4  # after some layers


@functools.cache
def net_of(kind: str):
    """The shared model of one of KINDS."""
    return tiny.llama(**KINDS[kind])


@dataclass(frozen=True)
class Case:
    """What is run, and what else is tried with it."""

    kind: str
    settings: dict
    how: dict
    large: bool  # as if matrices were: a site is finished before the next
    resumed: bool

    def __str__(self) -> str:
        how = f"{self.how}{', as if large' * self.large}{', resumed' * self.resumed}"
        return f"net {self.kind!r}, Recipe(**{self.settings}), run with {how}"


def draw(rng: random.Random) -> Case:
    """Any of the options together; half of what comes is refused."""
    pick, kind = rng.choice, rng.choice(list(KINDS))
    allocation, last = pick(["uniform"] * 6 + list(ALLOCATIONS)), net_of(kind).config.num_hidden_layers - 1
    settings = {
        "samples": pick([8, 8, 16]),
        "window": 16,
        "held_out": pick([0, 4, 4]),
        "seed": pick([0, 3]),
        "ratio": pick([0.0, 0.1, 0.3, 0.3, 0.5, 0.5, 0.8]),
        "sites": pick([("o_proj", "down_proj")] * 3 + [("down_proj", "o_proj"), ("o_proj",), ("down_proj",)]),
        "layers": pick([None, None, None, (0,), (1,), (last,), (0, 2), (2, 0), (0, 1), (1, 2, last)]),
        "unit": pick(list(rcpu.UNITS)),
        "order": pick(list(rcpu.ORDERS)),
        "path": pick(["pruned", *PATHS]),
        "compensation": pick(["rotation", "least_squares", *rcpu.COMPENSATORS]),
        "centred": rng.random() < 0.4,
        "target": pick([0.0, 0.0, 0.5, 1.0]),
        "repaired": pick(["both", *REPAIRED]),
        "scorer": pick(["greedy"] * 4 + ["obs"] * 2 + ["rcpu", "wifv"] + list(rcpu.SCORERS)),
        "allocation": allocation,
        "step": pick([0.0, 0.0, 0.0, 0.01]),
        "metric": rng.random() < 0.2,
        "gradient_windows": pick([0, 5, 32]),
        "careful": rng.random() < 0.25,
        "ridge": pick([None, 1e-3, 1e-2, 0.3]),
        "choose": pick(list(CHOICES)),
        "pull": pick(list(PULLS)),
        "proper": rng.random() < 0.3,
        "by_head": rng.random() < 0.25,
        "block": pick([1, 3, 8]),
        "damping": pick([0.01, 0.1]),
        "heads_removed": pick([0, 1, 2]),
        "share": pick([0.5, 1.0]),
        "gradients": rng.random() < 0.5,
    }
    settings |= CORNER if rng.random() < 0.25 else {}
    if allocation == "uniform" and rng.random() < 0.3:
        layers = [i for i in range(last + 1) if rng.random() < 0.6]
        settings["ratios"] = tuple((i, pick([0.0, 0.0, 0.25, 0.5, 0.75])) for i in layers)
    how = {"micro_batch": pick([None, 1, 3, 8]), "batch_bytes": pick([0, 10_000, 40_000, 70_000, walk.BATCH_BYTES])}
    return Case(kind, settings, how, large=rng.random() < 0.3, resumed=rng.random() < 0.2)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_run_is_the_naive_one(chunk):
    rng, compared = random.Random(chunk), 0
    for _ in range(DRAWN):
        compared += is_compared(draw(rng))
        if compared == COMPARED:
            return
    raise AssertionError(f"{compared} of {DRAWN} recipes ran")


def is_compared(case: Case) -> bool:
    """Whether the recipe is one that runs.

    Raises:
        AssertionError: its run is not the naive one; what is said names it.
    """
    try:
        with pytest.MonkeyPatch.context() as patch:
            if case.large:
                patch.setattr(walk, "SMALL", 8)
            return _is_compared(case)
    except Exception as error:
        raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error


def _is_compared(case: Case) -> bool:
    net, points, fractions = net_of(case.kind), [], []
    windows, before = tiny.calibration(case.settings["samples"], case.settings["held_out"]), tiny.snapshot(net)

    def keep(c: rcpu.Checkpoint) -> None:
        copies = {n: None if (t := getattr(c, n)) is None else t.clone() for n in ("hidden", "dense")}
        points.append(replace(c, **copies))

    try:
        recipe = rcpu.Recipe(**case.settings)
        watched = {"progress": lambda p: fractions.append(p.fraction), "checkpoint": keep}
        result = rcpu.prune(net, windows, recipe, **watched, **case.how)
    except rcpu.RcpuError:
        return False
    tiny.assert_unchanged(net, before)
    assert fractions == sorted(fractions), f"progress falls: {fractions}"
    agree("progress", "its end", fractions[-1], 1, 1e-6)
    check_run(net, windows, recipe, result)
    for point in points if case.resumed else []:
        again = rcpu.prune(net, windows, recipe, resume=point, **case.how)
        for a, b in zip(again.sites, result.sites, strict=True):
            agree(f"resumed after layer {point.layer}: layer {a.layer}, {a.site}", "weight", a.weight, b.weight, 0)
        assert_same(again, result)
    return True


def agree(where: object, what: str, got, wanted, accuracy: float, size: float | Tensor | None = None) -> None:
    """Fail unless all differ by at most ``accuracy`` of a size: without one, of the rms of what is wanted."""
    assert (got is None) == (wanted is None), f"{where}: {what}: got {got}, wanted {wanted}"
    if wanted is None:
        return
    got, wanted = (torch.as_tensor(values, dtype=FP64) for values in (got, wanted))
    assert got.shape == wanted.shape, f"{where}: {what}: got {tuple(got.shape)}, wanted {tuple(wanted.shape)}"
    if wanted.numel():
        off = (got - wanted).abs() / (wanted.square().mean().sqrt() if size is None else size)
        most = off.nan_to_num(math.inf).argmax()
        pair = f"got {got.flatten()[most]:.8g}, wanted {wanted.flatten()[most]:.8g}"
        assert (got == wanted).all() or off.max() <= accuracy, f"{where}: {what}: {pair}, {off.max():.2g} off"


def check_run(net, windows: rcpu.Windows, recipe: rcpu.Recipe, result: rcpu.PruneResult) -> None:
    """Everything about one result."""
    dense, found = Net(net), {(s.layer, s.site): s for s in result.sites}
    keys = [key for key in dense.keys if key[1] in recipe.sites and key[0] in (recipe.layers or dict(dense.keys))]
    assert list(found) == keys, f"got sites {list(found)}, wanted {keys}"
    units = {site: naive.layout(dense, site, recipe.unit) for site in recipe.sites}
    check_counts(net, windows.calibration, recipe, result, units)
    curvatures, base = {}, dense
    if recipe.metric or recipe.step:
        curvatures = naive.curvatures(dense, windows.calibration[: recipe.gradient_windows or None])
    if recipe.step:
        base = Net(net, naive.stepped(dense, curvatures, keys, recipe.step))
    met = naive.walk(base, torch.cat([windows.calibration, windows.held_out]), recipe, result.cuts)
    for key, s in found.items():
        site, where = Site(base, recipe, key, met[key], len(windows.calibration)), f"layer {s.layer}, {s.site}"
        agree(where, "tokens", s.tokens, len(site.x), 0)
        check_choice(where, s, site, units[s.site], naive.metric(curvatures[key][1]) if recipe.metric else None)
        check_repair(where, s, site)
        check_errors(where, s, site)
    ids = tiny.ids(2, 20, seed=3)
    agree("net", "logits", tiny.logits(result.net), base.logits(ids, result.cuts), LOGITS)
    plain = {k: Cut(c.columns, dense.narrow(dense.weight(*k), c.columns)) for k, c in result.cuts.items()}
    agree("net", "logits unrepaired", tiny.logits(result.uncompensated(net)), dense.logits(ids, plain), LOGITS)
    rebuilt = rebuild(net, Edits.from_tensors(result.edits.to_tensors()))  # as from a file
    ours, again = (dict(n.named_parameters()) for n in (result.net, rebuilt))
    assert ours.keys() == again.keys()
    assert all(again[name].equal(values) for name, values in ours.items()), "edits rebuild another net"


def check_counts(net, ids: Tensor, recipe: rcpu.Recipe, result: rcpu.PruneResult, units: dict[str, Tensor]) -> None:
    """As many units leave every stratum as the allocation says, and the net is as large as the plan says of that."""
    gone = {}
    for s in result.sites:
        assert s.keep.shape == units[s.site].shape[:2], f"layer {s.layer}, {s.site}: mask {tuple(s.keep.shape)}"
        assert len(set(s.keep.sum(1).tolist())) == 1, f"layer {s.layer}, {s.site}: strata keep {s.keep.sum(1).tolist()}"
        gone[s.layer, s.site] = int((~s.keep[0]).sum())
    planned, parameters = rcpu.plan(net, recipe, gone), sum(p.numel() for p in result.net.parameters())
    agree("net", "parameters", parameters, planned.after.parameters, 0)
    if recipe.allocation == "prices":
        uniform = {key: math.floor(recipe.ratio * units[key[1]].shape[1] + 1e-9) for key in gone}
        most = planned.before.parameters - planned.parameters(uniform)
        assert parameters <= most, f"net: parameters: got {parameters}, wanted {most} at most"
        return
    weights = {site: size.weights for site, size in planned.sizes.items()}
    for key, wanted in naive.counts(Net(net), ids, recipe, list(gone), units, weights).items():
        assert gone[key] in wanted, f"layer {key[0]}, {key[1]}, units gone: got {gone[key]}, wanted one of {wanted}"


def check_choice(where: str, s: rcpu.SiteResult, site: Site, units: Tensor, seen: Tensor | None) -> None:
    """Scores, and what stays by them."""
    recipe, gone, (weight, gram) = site.recipe, int((~s.keep[0]).sum()), site.chosen_by(seen)
    damping = recipe.damping * site.care
    if recipe.scorer in FROM_GRAM:
        scores, accuracy = naive.alone(weight, gram, damping), LOSSES
    else:
        scores, accuracy = naive.score(recipe.scorer, site.weight, site.windows, s.layer, s.site, recipe.seed), SCORES
    agree(where, "score", s.scores, scores, accuracy, scores + 1e-3 * scores.mean())  # those of next to nothing: of all
    if recipe.unit == "subspace" and s.site == "o_proj" and gone:
        return check_subspace(where, s, site, units, weight, gram)
    assert s.columns.equal(units[s.keep].flatten().sort().values), f"{where}, columns: not those of the mask"
    if recipe.scorer != "greedy" or not gone:
        agree(where, "score of a unit", s.unit_scores, s.scores[units].sum(-1), 1e-9)  # both fp64
        stay, go = (s.unit_scores.masked_fill(mask, end) for mask, end in ((~s.keep, math.inf), (s.keep, -math.inf)))
        assert (stay.amin(1) >= go.amax(1)).all(), f"{where}, columns: not those with the highest scores"
        return
    went, losses = sorted(set(range(len(gram))) - set(s.columns.tolist())), []
    for columns in (went, naive.greedy(weight, gram, units, gone, damping, recipe.block)):
        inverse, lost = torch.linalg.inv(naive.damped(gram, damping))[columns][:, columns], weight[:, columns]
        losses.append((torch.linalg.solve(inverse, lost.T) * lost.T).sum().item())  # tr(W_R [(H⁻¹)_RR]⁻¹ W_Rᵀ)
    agree(where, "loss, greedily", *losses, LOSSES)
    agree(where, "sum of costs", s.costs.sum(), losses[0], LOSSES)


def check_subspace(where: str, s: rcpu.SiteResult, site: Site, units: Tensor, weight: Tensor, gram: Tensor) -> None:
    """Orthonormal encoders (kv, rank, dim) that lose less than any at random, and than channels that go one by one."""
    found, rank, (count, dim, _) = s.columns.double(), int(s.keep[0].sum()), units.shape
    h = naive.damped(gram, site.recipe.damping * site.care)
    assert found.shape == (count, rank, dim), f"{where}, encoders: {tuple(found.shape)}"
    agree(where, "encoders' products", found @ found.mT, torch.eye(rank, dtype=FP64).expand(count, -1, -1), 1e-6, 1.0)

    def lost(encoders: Tensor) -> float:
        e = site.net.narrow(torch.eye(len(h), dtype=FP64), encoders)  # (d_in, kept)
        left = weight - weight @ h @ e @ torch.linalg.inv(e.T @ h @ e) @ e.T
        return ((left @ h) * left).sum().item()

    columns = naive.greedy(weight, gram, units, dim - rank, site.recipe.damping * site.care, 1)
    stay = [[c for c in range(dim) if int(units[k, c, 0]) not in columns] for k in range(count)]
    others = [torch.stack([torch.eye(dim, dtype=FP64)[own] for own in stay])]
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        others.append(torch.linalg.qr(torch.randn(count, dim, rank, generator=generator, dtype=FP64))[0].mT)
    least = min(map(lost, others))
    assert lost(found) <= 1.01 * least, f"{where}, subspace: got a loss of {lost(found)}, others have {least}"


def check_errors(where: str, s: rcpu.SiteResult, site: Site) -> None:
    """‖Y − Ŷ‖ / ‖Y‖ of removal alone and with repair, on calibration and on held-out windows."""
    sets = {"": (site.x, site.y), "_held_out": site.held_out[:2]}
    kept, bias = site.net.narrow(site.weight, s.columns), 0 if s.bias is None else s.bias.double()
    for suffix, (x, y) in sets.items():
        outputs = {"none": site.net.narrow(x, s.columns) @ kept.T}
        outputs["compensated"] = site.net.narrow(x, s.columns) @ s.weight.double().T + bias
        wanted = {name: ((y - z).square().sum() / y.square().sum()).item() for name, z in outputs.items()}
        for name, value in wanted.items():
            told = getattr(s, f"error_{name}{suffix}")
            size = SQUARED * value + CANCELLED * max(1.0, wanted["none"])
            agree(where, f"error_{name}{suffix}²", told and told**2, value if len(x) else None, 1.0, size)


def check_repair(where: str, s: rcpu.SiteResult, site: Site) -> None:
    """The weight that stays, the bias, and what is told of both."""
    weight, kept = s.weight.double(), site.net.narrow(site.weight, s.columns)
    turned, moved = site.repair in TURNS, site.recipe.step or site.recipe.target
    if s.keep.all() and (moved or not turned):
        agree(where, "weight where nothing left", weight, site.weight, WEIGHTS)
        told = (s.bias, s.scale, s.ridge, s.rank, s.determinant, s.singular_values)
        assert told == (None,) * len(told), f"{where}, told where nothing left: got {told}, wanted nothing"
        return
    size = 0.01 * site.y.square().mean().sqrt() + (0 if s.bias is None else s.bias.square().mean().sqrt())
    agree(where, "bias", s.bias, site.bias(s.columns, weight), WEIGHTS, size)  # of a bias, or of outputs where it is 0
    if turned:
        check_turn(where, s, site, kept)
    elif site.repair == "least_squares":
        check_ridge(where, s, site)
    elif site.repair == "two_sided":
        left = [site.left(s.columns, w) for w in (weight, kept)]
        assert left[0] <= left[1] * (1 + LEFT), f"{where}, two-sided: left {left[0]}, {left[1]} without"
    else:
        agree(where, "weight", weight, kept, WEIGHTS)


def check_turn(where: str, s: rcpu.SiteResult, site: Site, kept: Tensor) -> None:
    """s Q W_K: orthogonal, and as good as the best, or that one where M is clear enough."""
    m, q, clear, scale = site.turn(s.columns)
    weight, scale = s.weight.double(), scale if site.repair == "rotation_scale" else None
    agree(where, "scale", s.scale, scale, LEFT)
    ours, best = (scale or 1.0) ** 2 * kept.T @ kept, (scale or 1.0) * q @ kept
    agree(where, "W'ᵀW'", weight.T @ weight, ours, WEIGHTS)
    agree_left(where, site, s.columns, weight, best)
    assert not site.recipe.proper or s.determinant == 1, f"{where}, determinant: got {s.determinant}, wanted 1"
    if not site.recipe.by_head:
        values = torch.linalg.svdvals(m)
        agree(where, "singular value", s.singular_values, values, LEFT, values[0])
    if clear > CLEAR:
        agree(where, "weight", weight, best, WEIGHTS)
        agree(where, "determinant", s.determinant, torch.linalg.det(q).round(), 0)


def agree_left(where: str, site: Site, columns: Tensor, weight: Tensor, best: Tensor) -> None:
    """Both leave the same of the target."""
    left = [site.left(columns, w) for w in (weight, best)]
    size = LEFT * left[1] + LEFT_OVER * site.about(site.target).square().sum().item()
    agree(where, "what is left", *left, 1.0, size)


def check_ridge(where: str, s: rcpu.SiteResult, site: Site) -> None:
    """Least squares at λ, and λ as it is given or chosen."""
    recipe, weight = site.recipe, s.weight.double()
    if recipe.ridge is not None:
        agree(where, "λ", s.ridge, recipe.ridge * site.care, 1e-9)  # one product
    else:
        criteria = {strength: site.criterion(s.columns, strength) for strength in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)}
        assert s.ridge in criteria, f"{where}, λ: got {s.ridge}, wanted one of {list(criteria)}"
        good = criteria[s.ridge] <= min(criteria.values()) * (1 + AS_GOOD)
        assert good, f"{where}, λ: got {s.ridge}, wanted the best of {criteria}"
    wanted = site.ridge(s.columns, s.ridge)
    agree_left(where, site, s.columns, weight, wanted)
    if s.ridge >= CLEAR:
        agree(where, "weight", weight, wanted, WEIGHTS)
