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
from rcpu.base.options import Part, option
from rcpu.methods.units import removed_count

Key = Any  # (layer, site) in the layer loop


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
    return filled(counts(low), curves, parameters)


def filled(chosen: Mapping[Key, int], curves: Mapping[Key, Curve], parameters: int) -> dict[Key, int]:
    """These counts and as many single units more, the cheapest first, as it takes to remove ``parameters``."""
    chosen = dict(chosen)
    costs = {key: curve.at_each() for key, curve in curves.items()}
    gone = {key: curve.removed() for key, curve in curves.items()}
    while (left := parameters - sum(int(gone[key][n]) for key, n in chosen.items())) > 0:
        steps = {k: n + 1 for k, n in chosen.items() if n + 1 < len(gone[k])}
        gains = {k: int(gone[k][n] - gone[k][n - 1]) for k, n in steps.items()}
        rises = {k: float(costs[k][n] - costs[k][n - 1]) for k, n in steps.items()}
        prices = {k: rises[k] / min(gain, left) for k, gain in gains.items() if gain > 0}
        chosen[min(prices, key=prices.get) if prices else next(iter(steps))] += 1
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


def lowest(scores: Mapping[Key, Tensor], count: int) -> dict[Key, int]:
    """How many units of each site are among the ``count`` with the lowest scores of all: FLAP's AL-MM.

    Raises:
        RcpuError: there are not so many, or fewer than none are asked for.
    """
    every = torch.cat([s.flatten() for s in scores.values()])
    if not 0 <= count < len(every):
        raise RcpuError(f"{count:,} of {len(every):,} units are to go: choose another number of heads or ratio")
    gone = torch.zeros(len(every), dtype=torch.bool)
    gone[every.argsort(stable=True)[:count]] = True
    parts = gone.split([s.numel() for s in scores.values()])
    return {key: int(part.sum()) for key, part in zip(scores, parts, strict=True)}


def by_influence(
    cosines: Sequence[float], ratio: float, *, temperature: float = 0.15, most: float = 0.8
) -> list[float]:
    """Ratios of layers, L · ρ · softmax(−(1 − cos)/ε) with the cosine of a layer's input and output (MoDeGPT).

    At most ``most`` in one layer; what is cut off there goes to the others, so that the mean stays.
    """
    weights = torch.softmax((torch.tensor(cosines).double() - 1) / temperature, 0)
    found = len(cosines) * ratio * weights
    full = found > most  # stays so: what others take over may fill them, too
    while full.any() and not full.all():
        missing = len(cosines) * ratio - most * int(full.sum())
        found = torch.where(full, most, found * (missing / found[~full].sum()))
        if not (found > most).any():
            break
        full |= found > most
    return found.clamp_max(most).tolist()


def ratios_with_heads(ratio: float, heads: int, count: int, head_cost: int, neurons: int, neuron_cost: int) -> float:
    """FLAP's UL-MM: with ``heads`` of ``count`` gone, the share of neurons that makes up the rest of the ratio.

    Costs are parameters.

    Raises:
        RcpuError: the heads alone are more than the ratio, the neurons are too few, or no head would stay.
    """
    if heads >= count:
        raise RcpuError(f"{heads} of {count} heads cannot go from a layer: one has to stay, choose fewer heads")
    left = ratio * (count * head_cost + neurons * neuron_cost) - heads * head_cost
    share = int(left / neuron_cost) / neurons
    if not 0 <= share < 1:
        how = "more than" if share < 0 else "too few for what"
        raise RcpuError(
            f"{heads} of {count} heads are {how} a ratio of {ratio:g} removes: choose another number of heads"
        )
    return share


@dataclass(frozen=True)
class ByHand:
    """Options where the number of heads is given."""

    heads_removed: int = option(
        0,
        "Heads removed",
        "In the whole model (flap_heads) or in every layer (heads); neurons make up the rest",
        low=0,
    )


@dataclass(frozen=True)
class Temperature:
    """Options of block influence."""

    temperature: float = option(
        0.15, "Temperature ε", "The lower, the more layers differ from one another.", low=1e-3, high=1e6
    )


@dataclass(frozen=True)
class Prices:
    """Options of prices."""

    gradients: bool = option(
        True, "Prices from gradients", "Without: relative errors of outputs, no backward, and clearly worse choices."
    )
    share: float = option(1.0, "How far from uniform", "1 is as prices say, 0 the same in every layer.", low=0, high=1)


#: How each is known to people; the functions above do the work, survey.py looks at the model.
ALLOCATIONS = {
    "uniform": Part(removed_count, "The same share in every layer"),
    "heads": Part(ratios_with_heads, "Heads by hand, the same in every layer (UL-MM)", ByHand, "An et al., AAAI 2024"),
    "flap": Part(by_threshold, "One threshold over all layers (AL-AM)", source="An et al., AAAI 2024"),
    "flap_heads": Part(by_threshold, "Heads by hand, a threshold each (AL-MM)", ByHand, "An et al., AAAI 2024"),
    "influence": Part(by_influence, "By block influence", Temperature, "MoDeGPT, Lin et al., ICLR 2025"),
    "prices": Part(by_price, "By prices in nats (K-FAC)", Prices, "ours, with K-FAC of Martens and Grosse 2015"),
}
