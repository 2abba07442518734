"""What a pruning run was asked to do: scalars and tuples only, so that it hashes, compares and turns into JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from rcpu.base.errors import RcpuError, check_seed, choose
from rcpu.methods.compensation import COMPENSATORS
from rcpu.methods.scoring import SCORERS
from rcpu.methods.units import UNITS
from rcpu.models.families import SITES
from rcpu.pruning.lists import format_ratios

#: ``paper`` captures both sites in one pass of the dense layer; ``site`` repairs o_proj before down_proj is captured.
ORDERS = ("paper", "site")


@dataclass(frozen=True)
class PruneConfig:
    """Settings of one run; the same object is the cache key, the run's record and the export's metadata.

    Raises:
        RcpuError: on construction, if a value is out of range or a method is unknown.
    """

    model: str = "embedded"
    text: str = "embedded"
    samples: int = 128  # calibration windows
    window: int = 128  # tokens a window
    held_out: int = 16  # further windows, disjoint from those, on which errors are reported and λ is chosen
    seed: int = 0
    ratio: float = 0.2  # floor(ratio · units) leave every stratum
    ratios: tuple[tuple[int, float], ...] = ()  # (layer, ratio) where a layer has its own
    scorer: str = "rcpu"
    compensation: str = "rotation"
    sites: tuple[str, ...] = SITES
    layers: tuple[int, ...] | None = None  # None: all
    unit: str = "auto"  # of o_proj; down_proj always loses single channels
    order: str = "paper"
    ridge: float | None = 1e-2  # least squares: λ / mean diag(X_K X_Kᵀ); None chooses on the held-out windows
    proper: bool = False  # rotation: det Q = +1

    def __post_init__(self) -> None:
        choose("scorer", self.scorer, SCORERS)
        choose("compensation", self.compensation, COMPENSATORS)
        choose("unit", self.unit, dict.fromkeys(UNITS))
        choose("order", self.order, dict.fromkeys(ORDERS))
        for ratio in (self.ratio, *(r for _, r in self.ratios)):
            if not 0 <= ratio < 1:
                raise RcpuError(f"ratio must be at least 0 and below 1 (0.2 removes a fifth), got {ratio:g}")
        if any(layer < 0 for layer, _ in self.ratios) or len(dict(self.ratios)) < len(self.ratios):
            raise RcpuError(f"ratios must name each layer once, from 0; got {format_ratios(self.ratios)}")
        if self.samples < 1 or self.window < 2 or self.held_out < 0:
            raise RcpuError(
                f"need at least 1 window of at least 2 tokens and no negative number of held-out windows, got "
                f"{self.samples} × {self.window} and {self.held_out}"
            )
        check_seed(self.seed)
        if self.ridge is not None and not 0 <= self.ridge < float("inf"):
            raise RcpuError(f"ridge must be a finite number of at least 0, or auto; got {self.ridge:g}")
        if self.ridge is None and self.compensation == "least_squares" and not self.held_out:
            raise RcpuError("ridge auto is chosen on held-out windows: ask for at least one, or give a number")
        if not self.sites:
            raise RcpuError(f"no site to prune: choose one or more of {', '.join(SITES)}")
        for site in self.sites:
            choose("site", site, dict.fromkeys(SITES))
        if self.layers is not None and (not self.layers or min(self.layers) < 0):
            raise RcpuError(f"layers must be one or more numbers from 0, or all; got {self.layers}")

    def layer_indices(self, count: int) -> tuple[int, ...]:
        """The chosen layers of a model with ``count``, ascending; raises ``RcpuError`` beyond the last."""
        if self.ratios and (last := max(layer for layer, _ in self.ratios)) >= count:
            raise RcpuError(f"layer {last} has a ratio but does not exist: this model has layers 0 to {count - 1}")
        if self.layers is None:
            return tuple(range(count))
        if max(self.layers) >= count:
            raise RcpuError(f"layer {max(self.layers)} does not exist: this model has layers 0 to {count - 1}")
        return tuple(sorted(set(self.layers)))

    def ratio_of(self, layer: int) -> float:
        """The ratio of one layer: its own, or that of all."""
        return dict(self.ratios).get(layer, self.ratio)

    def layers_by_ratio(self, layers: tuple[int, ...]) -> dict[float, list[int]]:
        """Which of these layers have which ratio."""
        found: dict[float, list[int]] = {}
        for layer in layers:
            found.setdefault(self.ratio_of(layer), []).append(layer)
        return found

    def to_dict(self) -> dict:
        """Plain values for JSON; :meth:`from_dict` takes them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> PruneConfig:
        """The config of a record.

        Raises:
            RcpuError: a key that is not one of its fields, or a value that a field cannot have.
        """
        known = {f.name: f.default for f in fields(cls)}
        if unknown := set(values) - set(known):
            raise RcpuError(f"unknown settings in the record: {', '.join(sorted(unknown))}")
        given = {k: _tuples(v) for k, v in values.items()}
        for name, value in given.items():
            default = known[name]
            fits = isinstance(value, type(default)) and isinstance(value, bool) == isinstance(default, bool)
            if name in ("layers", "ridge"):
                fits = value is None or isinstance(value, tuple if name == "layers" else int | float)
            elif isinstance(default, float):
                fits = isinstance(value, int | float) and not isinstance(value, bool)
            if not fits:
                raise RcpuError(f"the record's {name} cannot be {value!r}; without it, it is {default!r}")
        try:
            return cls(**given)
        except TypeError as error:  # within a list
            raise RcpuError(f"the record holds a value of another kind than its setting: {error}") from error


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
