"""How sure a mean is: bootstrap intervals over windows or items, and paired differences of two models.

Windows are what is drawn again, not tokens: the losses of one window depend on one another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 9_999
DRAWS = 5_000_000  # numbers that exist at once while resampling: 40 MB


@dataclass(frozen=True)
class Interval:
    """The ends of a 95 % interval."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def mean_interval(values: Sequence[float]) -> Interval | None:
    """95 % percentile bootstrap interval of the mean of independent values, None for fewer than two.

    The same values give the same interval: the generator has a fixed seed.
    """
    from scipy.stats import bootstrap  # half a second that not every command needs

    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2:
        return None
    if not np.isfinite(sample).all() or np.ptp(sample) == 0:
        mean = float(sample.mean())
        return Interval(mean, mean)
    found = bootstrap(
        (sample,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, DRAWS // len(sample)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def crossed_interval(strata: Sequence[Sequence[Sequence[float]]]) -> Interval | None:
    """95 % interval of a mean that was found with several seeds on the same units: both are drawn again.

    A stratum (a task, or all windows of a text) is a table (seeds, units); strata weigh the same. With one seed only
    units are drawn; None where a stratum has fewer than two of them.

    Raises:
        ValueError: strata of different numbers of seeds.
    """
    tables = [np.asarray(table, dtype=np.float64) for table in strata]
    seeds = {len(table) for table in tables}
    if len(seeds) != 1:
        raise ValueError("every stratum needs the same seeds")
    if any(table.shape[1] < 2 for table in tables):
        return None
    if not all(np.isfinite(table).all() for table in tables):
        mean = float(np.mean([table.mean() for table in tables]))
        return Interval(mean, mean)
    rng, count = np.random.default_rng(0), seeds.pop()
    drawn = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count  # (resamples, seeds)
    means = np.zeros(RESAMPLES)
    for table in tables:
        units, n = drawn @ table, table.shape[1]
        for start in range(0, RESAMPLES, step := max(1, DRAWS // n)):
            part = slice(start, start + step)
            weights = rng.multinomial(n, np.full(n, 1 / n), len(units[part])) / n
            means[part] += (units[part] * weights).sum(1) / len(tables)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class Difference:
    """How much one model's value exceeds another's on the same windows or items, with a paired 95 % interval."""

    value: float
    unit: str  # "%" of the first, or "points"
    low: float | None  # None: too few windows for an interval
    high: float | None
    count: int  # windows or items

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and not self.low <= 0 <= self.high

    def __str__(self) -> str:
        unit = self.unit if self.unit == "%" else f" {self.unit}"
        between = "" if self.low is None else f" [{self.low:+.2f}, {self.high:+.2f}]"
        return f"{self.value:+.2f}{between}{unit}"

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return {**asdict(self), "decided": self.decided}


def percent(mean: float) -> float:
    """A difference of mean losses in nats as what it adds to the perplexity, in percent."""
    return 100 * math.expm1(mean) if mean < 700 else math.inf
