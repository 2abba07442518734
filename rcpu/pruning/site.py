"""One site from end to end: scores → kept units → new weight → errors, spectrum and angles.

Pure tensors and statistics: no model, no forward pass, so that a page can ask "what if" as often as it likes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from rcpu.compact.assembly import Cut
from rcpu.methods import procrustes
from rcpu.methods.columns import compensation_at
from rcpu.methods.compensation import COMPENSATORS, Outputs, Problem, turned_error
from rcpu.methods.scoring import column_scores
from rcpu.methods.units import remove
from rcpu.pruning.direct import DirectOutputs
from rcpu.pruning.recipe import Recipe
from rcpu.statistics.precision import full_fp32
from rcpu.statistics.sums import Statistics

#: A decomposition of a small matrix keeps one core busy, what else a site needs the others. This thread stays: each new
#: one would leave behind memory of its own.
_beside = ThreadPoolExecutor(1, "decomposition", torch.set_num_threads, (1,))


class _Turned:
    """What is told of a rotation and takes a decomposition of its own: its angles and determinant; Q itself goes."""

    def __init__(self, rotation: procrustes.Rotation):
        self._rotation, self._found, self._lock = rotation, None, threading.Lock()

    def __call__(self) -> tuple[Tensor, int]:
        with self._lock:
            if self._found is None:
                self._found, self._rotation = (self._rotation.angles, self._rotation.determinant), None
            return self._found


@dataclass(frozen=True, eq=False)
class SiteResult:
    """What was decided and found at one projection of one layer. Errors are ‖Y − Ŷ‖_F / ‖Y‖_F; angles in degrees."""

    layer: int
    site: str
    unit: str
    scores: Tensor  # (d_in,) importance of every column, fp64
    unit_scores: Tensor  # (strata, units) their sum over each unit
    keep: Tensor  # (strata, units) bool
    columns: Tensor  # (kept,) kept columns, ascending
    weight: Tensor  # (d_out, kept) new weight
    bias: Tensor | None  # (d_out,) what compensation adds to the output
    tokens: int  # calibration tokens behind it
    error_none: float
    error_compensated: float
    error_none_held_out: float | None
    error_compensated_held_out: float | None
    singular_values: Tensor  # (d_out,) of M = Y Zᵀ
    rank: int
    channel_angles: Tensor  # (d_out,)
    principal_angles: Tensor  # (rank,)
    scale: float | None
    ridge: float | None
    turned: Callable[[], tuple[Tensor, int]]  # works out angles and determinant, unless that has been done

    @property
    def angles(self) -> Tensor:
        """Eigen-angles of Q, (d_out,)."""
        return self.turned()[0]

    @property
    def determinant(self) -> int:
        """det Q: +1 for a rotation, −1 where it also mirrors."""
        return self.turned()[1]

    @property
    def cut(self) -> Cut:
        """What becomes of the projection."""
        return Cut(self.columns, self.weight, self.bias)

    @property
    def kept(self) -> int:
        """Units that stay."""
        return int(self.keep.sum())

    @property
    def units(self) -> int:
        """Units there were."""
        return self.keep.numel()

    def summary(self) -> dict:
        """The scalars, for tables and JSON; ``kept`` and ``units`` count units, ``kept_columns`` input columns."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("bias", "turned")}
        return {
            **{k: v for k, v in values.items() if not isinstance(v, Tensor)},
            "determinant": self.determinant,
            "kept": self.kept,
            "units": self.units,
            "kept_columns": len(self.columns),
            "columns": len(self.scores),
            "mean_angle": self.angles.mean().item(),
        }


class Solving:
    """One site under way: scored and masked when made, then decomposed on a thread of its own until :meth:`finish`.

    A small decomposition keeps only one core busy, so there is time for what else must be done, as a look at held-out
    inputs: :meth:`check` may come before or after :meth:`begin`.
    """

    @full_fp32()
    def __init__(
        self,
        weight: Tensor,  # (d_out, d_in)
        calibration: Statistics,
        layout: Tensor,  # (strata, units, columns), see units.py
        config: Recipe,
        *,
        layer: int,
        site: str,
        unit: str,
        outputs_of: Callable[[Tensor], DirectOutputs] | None = None,  # for kept columns: needs no Gram matrix
    ):
        self._config, self._layer, self._site, self._unit = config, layer, site, unit
        self._home, self._dtype = weight.device, weight.dtype
        if self._home.type == "mps":  # no fp64 there
            weight, calibration = weight.cpu(), calibration.to("cpu")
        self._weight, self._calibration = weight.to(calibration.gram.dtype), calibration
        self._scores = column_scores(self._weight, calibration, config.scorer, layer=layer, site=site, seed=config.seed)
        self._removal = remove(self._scores, layout, config.ratio_of(layer))
        self.columns = self._removal.columns.to(weight.device)
        self.outputs = outputs_of(self.columns) if outputs_of else Outputs(self._weight, calibration)
        self._known: list[Outputs | DirectOutputs] = [self.outputs]  # of calibration, then of held-out inputs
        self._m = [self.outputs.cross_products(self.columns)]
        self._held_out: Statistics | None = None
        self._lost = [self.outputs.lost(self.columns)]
        self._beside: list[Future] = []

    def begin(self, *afterwards: Callable[[], object]) -> None:
        """Start the decomposition, and after it what else its core can do; otherwise :meth:`finish` starts it."""
        rank = min(len(self.columns), self._calibration.tokens, len(self._weight))
        turning = _beside.submit(procrustes.solve, self._m[0], rank=rank, proper=self._config.proper)
        self._beside = [turning, *map(_beside.submit, afterwards)]

    @property
    def busy(self) -> bool:
        """Whether its core is."""
        return not all(future.done() for future in self._beside)

    def wait(self) -> None:
        """Until the decomposition is done."""
        wait(self._beside[:1])

    @full_fp32()
    def check(self, held_out: Statistics, outputs_of: Callable[[Tensor], DirectOutputs] | None = None) -> None:
        """Take in what was held out: for errors, and for λ where it is to be chosen."""
        self._held_out = held_out.to(self._weight.device)
        self._known.append(outputs_of(self.columns) if outputs_of else Outputs(self._weight, self._held_out))
        self._m.append(self._known[-1].cross_products(self.columns))
        self._lost.append(self._known[-1].lost(self.columns))

    @full_fp32()
    def finish(self) -> SiteResult:
        """Compensate as the settings say.

        Raises:
            RcpuError: least squares has no solution at the given λ.
            ValueError: M = Y Zᵀ is not finite.
        """
        if not self._beside:
            self.begin()
        k, known, lost = self.columns, self._known, self._lost
        rotation = self._beside[0].result()
        problem = Problem(
            self._weight, self._calibration, k, rotation, ridge=self._config.ridge, held_out=self._held_out
        )
        compensation = compensation_at(self._config, self._site)
        new = COMPENSATORS[compensation](problem)
        error_none, error_none_held_out = _errors(known, lost)
        for y in known:
            if isinstance(y, DirectOutputs):
                y.repair(new)
        if compensation == "none":
            left = lost
        elif new.turn is not None:
            left = [turned_error(*pair, new.turn) for pair in zip(lost, self._m, strict=True)]
        else:
            left = [y.squared_error(k, new) for y in known]
        error_compensated, error_compensated_held_out = _errors(known, left)
        return SiteResult(
            layer=self._layer,
            site=self._site,
            unit=self._unit,
            scores=self._scores,
            unit_scores=self._removal.unit_scores,
            keep=self._removal.keep,
            columns=self._removal.columns,
            weight=new.weight.to(self._home, self._dtype),
            bias=None if new.bias is None else new.bias.to(self._home, self._dtype),
            tokens=self._calibration.tokens,
            error_none=error_none,
            error_compensated=error_compensated,
            error_none_held_out=error_none_held_out,
            error_compensated_held_out=error_compensated_held_out,
            singular_values=rotation.singular_values,
            rank=rotation.rank,
            channel_angles=rotation.channel_angles,
            principal_angles=rotation.principal_angles,
            scale=new.scale,
            ridge=new.ridge,
            turned=_Turned(rotation),
        )


def _errors(known: Sequence[Outputs | DirectOutputs], squared: Sequence[float]) -> tuple[float, float | None]:
    """Errors over ‖Y‖_F on the calibration windows and on those held out, if any are."""
    found = [(error / (y.energy or 1.0)) ** 0.5 for y, error in zip(known, squared, strict=True)]
    return found[0], found[1] if len(found) > 1 else None
