"""How many units each layer and site loses: one function and one line in ALLOCATIONS for each way to share a budget.

Knows no model: a site is a key, its units all cost the same, and numbers come out. ``uniform`` and numbers by hand need
nothing known; the others need a pass over the dense model first (survey.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rcpu.base.errors import RcpuError

Key = Any  # (layer, site) in the layer loop

#: What each is called, and the sentence that says what it does. ``dense pass`` is what it needs to know.
ALLOCATIONS = {
    "uniform": "the same share of units in every layer (RCPU and most others)",
    "flap": "one threshold over standardised scores of all layers (FLAP's AL-AM)",
    "influence": "layers that change the residual stream less lose more (MoDeGPT)",
    "prices": "what a loss costs in nats a token by K-FAC, the cheapest first over all layers and sites",
}


@dataclass(frozen=True)
class Curve:
    """What it costs a site to lose units, known at some counts and interpolated between them."""

    counts: tuple[int, ...]  # ascending from 0: units gone from every stratum
    costs: tuple[float, ...]  # nats a token, 0 at first
    parameters: int  # that leave with one unit of every stratum
    upkeep: int = 0  # parameters that come once anything has gone, as a bias

    def at_each(self) -> Tensor:
        """Costs at 0, 1, … units, (last count + 1,): square roots interpolated linearly, and never falling."""
        knots, roots = torch.tensor(self.counts), torch.tensor(self.costs).double().clamp_min(0).sqrt()
        wanted = torch.arange(self.counts[-1] + 1)
        right = torch.searchsorted(knots, wanted).clamp(1, max(1, len(knots) - 1))
        if len(knots) == 1:
            return roots.square()
        share = (wanted - knots[right - 1]) / (knots[right] - knots[right - 1])
        return (roots[right - 1] + share * (roots[right] - roots[right - 1])).square().cummax(0).values

    def removed(self) -> Tensor:
        """Parameters that leave at 0, 1, … units, (last count + 1,)."""
        gone = torch.arange(self.counts[-1] + 1) * self.parameters
        gone[1:] -= self.upkeep
        return gone


def by_price(curves: Mapping[Key, Curve], parameters: int) -> dict[Key, int]:
    """The cheapest counts that remove at least ``parameters``: each site takes argmin cost − μ · parameters removed.

    μ, the price of a parameter, is found by bisection; what it leaves open is filled by the cheapest single units.

    Raises:
        RcpuError: all curves together do not reach so far.
    """
    costs = {key: curve.at_each() for key, curve in curves.items()}
    gone = {key: curve.removed() for key, curve in curves.items()}
    most = sum(int(g[-1]) for g in gone.values())
    if most < parameters:
        raise RcpuError(f"{parameters:,} parameters are to go, but sites may lose at most {most:,}: lower the ratio")

    def counts(price: float) -> dict[Key, int]:
        return {key: int((costs[key] - price * gone[key]).argmin()) for key in curves}

    def total(chosen: Mapping[Key, int]) -> int:
        return sum(int(gone[key][n]) for key, n in chosen.items())

    low, high = 0.0, 1e-12
    while total(counts(high)) < parameters and high < 1e6:
        low, high = high, high * 8
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if total(counts(middle)) >= parameters else (middle, high)
    chosen = counts(low)
    while (left := parameters - total(chosen)) > 0:
        steps = {k: n + 1 for k, n in chosen.items() if n + 1 < len(gone[k])}
        gains = {k: int(gone[k][n] - gone[k][n - 1]) for k, n in steps.items()}
        prices = {
            k: float(costs[k][n] - costs[k][n - 1]) / min(gains[k], left) for k, n in steps.items() if gains[k] > 0
        }
        key = min(prices, key=prices.get) if prices else next(iter(steps))
        chosen[key] += 1
    return chosen


def shrunk(chosen: Mapping[Key, int], uniform: Mapping[Key, int], share: float) -> dict[Key, int]:
    """``share`` of the way from uniform counts to the chosen ones, rounded to the nearest."""
    return {key: round(uniform[key] + share * (chosen[key] - uniform[key])) for key in chosen}


def standardised(scores: Tensor) -> Tensor:
    """Mean 0 and unbiased standard deviation 1 over the columns of a site, (d_in,)."""
    return (scores - scores.mean()) / scores.std()


def by_threshold(scores: Mapping[Key, Tensor], costs: Mapping[Key, int], ratio: float) -> dict[Key, int]:
    """FLAP's AL-AM: one descending order of the units of all sites; how many of each go.

    The threshold is the score at which the costs of what stays come nearest to (1 − ρ) of all; what stays is strictly
    above. Costs are whole: 1 a neuron and 4 · dim / 3 a head, cut off (85 for heads 64 wide), as the authors' code has
    them. A site has no floor, as there; what would lose all of its units is for the caller to refuse or to hold.
    """
    keys = list(scores)
    every = torch.cat([scores[key].flatten() for key in keys])
    weights = torch.cat([torch.full((scores[key].numel(),), costs[key]) for key in keys])
    order = every.argsort(descending=True, stable=True)
    kept = weights[order].cumsum(0)
    threshold = every[order][(kept.double() - (1 - ratio) * weights.sum()).abs().argmin()]
    return {key: int((scores[key] <= threshold).sum()) for key in keys}


def by_influence(
    cosines: Sequence[float], ratio: float, *, temperature: float = 0.15, most: float = 0.8
) -> list[float]:
    """Ratios of layers, L · ρ · softmax(−(1 − cos)/ε) with the cosine of a layer's input and output (MoDeGPT).

    At most ``most`` in one layer; what is cut off there goes to the others, so that the mean stays.
    """
    weights = torch.softmax((torch.tensor(cosines).double() - 1) / temperature, 0)
    found = len(cosines) * ratio * weights
    for _ in range(len(cosines)):
        over = found > most
        if not over.any() or over.all():
            break
        missing = len(cosines) * ratio - most * int(over.sum())
        found = torch.where(over, most, found * (missing / found[~over].sum()))
    return found.clamp_max(most).tolist()


def ratios_with_heads(ratio: float, heads: int, count: int, head_cost: int, neurons: int, neuron_cost: int) -> float:
    """FLAP's UL-MM: with ``heads`` of ``count`` gone, the share of neurons that makes up the rest of the ratio.

    Costs are parameters.

    Raises:
        RcpuError: the heads alone are more than the ratio, or the neurons are too few.
    """
    left = ratio * (count * head_cost + neurons * neuron_cost) - heads * head_cost
    share = int(left / neuron_cost) / neurons
    if not 0 <= share < 1:
        raise RcpuError(
            f"{heads} of {count} heads leave {share:.0%} of the neurons to remove for a ratio of {ratio:g}: choose "
            "another number of heads"
        )
    return share
