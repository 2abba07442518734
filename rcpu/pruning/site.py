"""One site from end to end: scores → kept units → new weight → errors, spectrum and angles.

Pure tensors and statistics: no model, no forward pass, so that a page can ask "what if" as often as it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, fields
from functools import cached_property, partial

import torch
from torch import Tensor

from rcpu.compact.assembly import Cut
from rcpu.methods import obs, procrustes
from rcpu.methods.columns import care, compensation_at
from rcpu.methods.compensation import COMPENSATORS, Compensated, Outputs, Problem, Shift, turned_error
from rcpu.methods.scoring import FROM_GRAM, column_scores
from rcpu.methods.subspace import narrow, spectrum, value_subspace, widen
from rcpu.methods.units import keep_units, kept_columns
from rcpu.models.families import Heads
from rcpu.pruning.direct import DirectOutputs
from rcpu.pruning.recipe import Recipe
from rcpu.statistics.decompose import few_threads, keep_to_one_core
from rcpu.statistics.fluctuation import Fluctuation
from rcpu.statistics.precision import full_fp32
from rcpu.statistics.sums import Statistics

#: Where cores are many a small decomposition keeps one busy, what else a site needs the others. This thread stays: each
#: new one would leave behind memory of its own.
_beside = ThreadPoolExecutor(1, "decomposition", keep_to_one_core)
TURNS = ("rotation", "rotation_scale")
TARGET_RIDGE = 0.3  # damps the target's part that inputs explain while units are chosen and λ is not known yet


@dataclass(frozen=True, eq=False)
class SiteResult:
    """What was decided and found at one projection of one layer. Errors are ‖Y − Ŷ‖_F / ‖Y‖_F; angles in degrees.

    Where a recipe asks for a step along the gradient, W and Y are those after it.
    """

    layer: int
    site: str
    unit: str
    scores: Tensor  # (d_in,) importance of every column, fp64
    unit_scores: Tensor  # (strata, units) their sum over each unit; of a subspace what each dimension carries
    keep: Tensor  # (strata, units) bool; of a subspace as many as it has dimensions
    columns: Tensor  # (kept,) kept columns, ascending; or encoders of values (kv, rank, dim)
    weight: Tensor  # (d_out, kept) new weight
    bias: Tensor | None  # (d_out,) what compensation adds to the output
    tokens: int  # calibration tokens behind it
    error_none: float
    error_compensated: float
    error_none_held_out: float | None
    error_compensated_held_out: float | None
    scale: float | None
    ridge: float | None
    # Where the repair is a rotation Q; spectrum and principal angles are None where products alone found it, on a GPU:
    singular_values: Tensor | None = None  # (d_out,) of M = Y Zᵀ
    rank: int | None = None  # of M
    determinant: int | None = None  # of Q: +1 for a rotation, −1 where it also mirrors
    channel_angles: Tensor | None = None  # (d_out,)
    principal_angles: Tensor | None = None  # (rank,)
    before: Tensor | None = None  # (d_out, d_in) W, the dense model's own, or that after a step
    # Where units went one after another:
    order: Tensor | None = None  # (removed,) stratum · units + unit
    costs: Tensor | None = None  # (removed,) what each added to the error
    stepped: bool = False  # whether W is that after a step along the gradient

    @cached_property
    def angles(self) -> Tensor | None:
        """Eigen-angles of Q, (d_out,), for whoever looks: Q is not kept, but it is the polar factor of W' W_Kᵀ."""
        if self.before is None:
            return None
        kept = narrow(self.before, self.columns.to(self.before.device))
        new, kept = (w.cpu().double() for w in (self.weight, kept))
        return procrustes.solve(new @ kept.mT).angles

    @property
    def changed(self) -> bool:
        """Whether anything left here, or moved."""
        return self.stepped or not self.keep.all()

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
        tensors = ("bias", "singular_values", "channel_angles", "principal_angles", "before", "order", "costs")
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in tensors}
        return {
            **{k: v for k, v in values.items() if not isinstance(v, Tensor)},
            "mean_channel_angle": None if self.channel_angles is None else self.channel_angles.mean().item(),
            "kept": self.kept,
            "units": self.units,
            "kept_columns": self.weight.shape[1],
            "columns": len(self.scores),
        }


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of the inputs of one projection on one set of windows."""

    x: Statistics
    windows: Fluctuation | None = None  # for scores that need the order of windows
    shift: Shift | None = None  # for a target between the pruned and the dense path

    def to(self, device: torch.device | str) -> Measured:
        """The same on another device."""
        shift = self.shift and Shift(self.shift.cross.to(device), self.shift.total)
        return Measured(self.x.to(device), self.windows, shift)


class Solving:
    """One site under way: its units are chosen when made, then it may turn on a thread of its own until :meth:`finish`.

    Begun beside, a decomposition keeps only one core busy, so there is time for what else must be done, as a look at
    held-out inputs: :meth:`check` may come before or after :meth:`begin`.
    """

    @full_fp32()
    def __init__(
        self,
        weight: Tensor,  # (d_out, d_in)
        seen: Measured,
        layout: Tensor,  # (strata, units, columns), see units.py
        recipe: Recipe,
        gone: int,  # units that leave every stratum
        *,
        layer: int,
        site: str,
        unit: str,
        heads: Heads,
        metric: Tensor | None = None,  # F (d_out, d_out), where errors count as ‖F e‖
        outputs_of: Callable[[Tensor], DirectOutputs] | None = None,  # for kept columns: needs no Gram matrix
    ):
        self._recipe, self._layer, self._site, self._unit, self._heads = recipe, layer, site, unit, heads
        self._compensation = compensation_at(recipe, site)
        self._home, self._dtype, self._dense = weight.device, weight.dtype, weight
        if self._home.type == "mps":  # no fp64 there
            weight, seen = weight.cpu(), seen.to("cpu")
        self._weight, self._seen = weight.to(seen.x.gram.dtype), seen
        self._care = care(recipe, seen.x.tokens, weight.shape[1])
        with few_threads(weight.shape[1]):
            self._choose(layout, gone, metric)
        self.outputs = outputs_of(self.columns) if outputs_of else Outputs(self._weight, seen.x)
        self._known: list[Outputs | DirectOutputs] = [self.outputs]  # of calibration, then of held-out inputs
        self._held_out: Measured | None = None
        self._lost = [self.outputs.lost(self.columns)]
        self._turns = self._compensation in TURNS
        self._m = [self.outputs.cross_products_once(self.columns)] if self._turns else []
        self._turning: Future | procrustes.Rotation | None = None

    def _choose(self, layout: Tensor, gone: int, metric: Tensor | None) -> None:
        """What stays: a subspace of values, what a greedy path leaves, or the units with the highest scores."""
        recipe, x, self._path = self._recipe, self._seen.x, None
        narrower = self._unit == "subspace" and self._site == "o_proj"
        if narrower or recipe.scorer in FROM_GRAM:
            gram = x.gram
            if recipe.centred:
                mean = x.mean.to(gram)
                gram = torch.addr(gram, mean, mean, alpha=-x.tokens)
            seen = self._aim(gram)
            seen = seen if metric is None else metric.to(seen) @ seen
            ridge = recipe.damping * self._care
        greedily = recipe.scorer == "greedy" and gone and not narrower
        if greedily:
            self._path = obs.greedy(seen, gram, layout, gone, ridge=ridge, block=recipe.block)
            self._scores = self._path.scores
        elif recipe.scorer in FROM_GRAM:
            self._scores = obs.one_shot(seen, gram, ridge).cpu().double()
        else:
            self._scores = column_scores(
                self._weight,
                x,
                recipe.scorer,
                layer=self._layer,
                site=self._site,
                seed=recipe.seed,
                windows=self._seen.windows,
            )
        self._unit_scores, self._keep = keep_units(self._scores, layout, gone=gone)
        if narrower and gone:
            heads = self._heads
            self._keep = (torch.arange(heads.dim) < heads.dim - gone).expand(heads.kv, heads.dim)
            h = obs.damped(gram, ridge)
            self._unit_scores = spectrum(seen, h, heads).cpu().double()
            self.columns = value_subspace(seen, h, heads, heads.dim - gone).to(self._weight)
            return
        if greedily:
            self._keep = self._path.keep
        self.columns = kept_columns(layout, self._keep).to(self._weight.device)

    def _aim(self, gram: Tensor) -> Tensor:
        """W, or the weight that would meet the target if nothing left: W + α Σδxᵀ (G + λI)⁻¹."""
        shift = self._seen.shift
        if shift is None:
            return self._weight
        cross, x = shift.cross, self._seen.x
        if self._recipe.centred:
            cross = torch.addr(cross, shift.total.to(cross), x.mean.to(cross), alpha=-1)
        lower = obs.factor(obs.damped(gram, TARGET_RIDGE * self._care))
        return self._weight + torch.cholesky_solve(cross.mT.to(lower), lower).mT.to(self._weight)

    def begin(self, beside: bool = False) -> None:
        """Decompose where the repair is a turn, or start to on a core beside; unless called, :meth:`finish` does it."""
        if self._turns:
            m, recipe = self._problem(None).turned_products(self._m[0]), self._recipe
            rank = min(self._problem(None).kept.shape[1], self.tokens - recipe.centred, len(self._weight))
            turn = partial(procrustes.solve, m, rank=rank, proper=recipe.proper, spectrum=False)
            if recipe.by_head:
                turn = partial(procrustes.by_blocks, m, self._heads.dim, rank, recipe.proper)
            self._turning = _beside.submit(turn) if beside else turn()

    @property
    def tokens(self) -> int:
        """Calibration tokens."""
        return self._seen.x.tokens

    @property
    def busy(self) -> bool:
        """Whether its core is."""
        return isinstance(self._turning, Future) and not self._turning.done()

    def wait(self) -> None:
        """Until the decomposition is done."""
        wait([self._turning] if self.busy else [])

    @full_fp32()
    def check(self, held_out: Measured, outputs_of: Callable[[Tensor], DirectOutputs] | None = None) -> None:
        """Take in what was held out: for errors, and for λ where it is to be chosen."""
        self._held_out = held_out.to(self._weight.device)
        self._known.append(outputs_of(self.columns) if outputs_of else Outputs(self._weight, self._held_out.x))
        self._lost.append(self._known[-1].lost(self.columns))
        if self._turns:
            self._m.append(self._known[-1].cross_products_once(self.columns))

    def _problem(self, rotation: procrustes.Rotation | None) -> Problem:
        recipe, held = self._recipe, self._held_out
        return Problem(
            self._weight,
            self._seen.x,
            self.columns,
            rotation,
            ridge=recipe.ridge and recipe.ridge * self._care,
            held_out=held and held.x,
            pull=recipe.pull,
            choose=recipe.choose,
            centred=recipe.centred,
            shift=self._seen.shift,
            held_out_shift=held and held.shift,
        )

    @full_fp32()
    def finish(self) -> SiteResult:
        """Compensate as the settings say.

        Raises:
            RcpuError: least squares has no solution at the given λ.
            ValueError: M = Y Zᵀ is not finite.
        """
        if self._turns and self._turning is None:
            self.begin()
        known, lost = self._known, self._lost
        rotation = self._turning.result() if isinstance(self._turning, Future) else self._turning
        problem = self._problem(rotation)
        moved = self._recipe.step > 0 or self._seen.shift is not None  # without, a turn of what lost nothing is I
        whole = bool(self._keep.all()) and (moved or not self._turns)  # nothing to make up for
        with few_threads(self._weight.shape[1]):
            new = Compensated(self._weight) if whole else COMPENSATORS[self._compensation](problem)
        for y in known:
            if isinstance(y, DirectOutputs):
                y.repair(new)
        error_none, error_none_held_out = _errors(known, lost)
        error_compensated, error_compensated_held_out = _errors(known, lost if whole else self._left(new))
        weight = new.weight.to(self._home, self._dtype)
        return SiteResult(
            layer=self._layer,
            site=self._site,
            unit=self._unit,
            scores=self._scores,
            unit_scores=self._unit_scores,
            keep=self._keep,
            columns=self.columns.cpu() if self.columns.ndim == 1 else self.columns.to(self._home),
            weight=weight,
            bias=None if new.bias is None else new.bias.to(self._home, self._dtype),
            tokens=self._seen.x.tokens,
            error_none=error_none,
            error_compensated=error_compensated,
            error_none_held_out=error_none_held_out,
            error_compensated_held_out=error_compensated_held_out,
            scale=new.scale,
            ridge=new.ridge,
            stepped=self._recipe.step > 0,
            **(_told(rotation, self._dense) if rotation and not whole else {}),
            **({"order": self._path.order, "costs": self._path.costs} if self._path else {}),
        )

    def _left(self, new: Compensated) -> list[float]:
        """‖Y − Ŷ‖² on each set of windows."""
        k, lost = self.columns, self._lost
        if self._compensation == "none":
            return lost
        if new.turn is None:
            return [y.squared_error(k, new) for y in self._known]
        found = [turned_error(*pair, new.turn) for pair in zip(lost, self._m, strict=True)]
        if new.bias is None:
            return found
        # ‖Y − QZ − b‖² = ‖Y − QZ‖² − 2 bᵀ Σ(Y − QZ) + n‖b‖²
        b, weight = new.bias.cpu().double(), self._weight.cpu().double()
        lacking = weight - widen(new.weight.cpu().double(), k.cpu(), weight.shape[1])
        sets = [self._seen, *([self._held_out] if self._held_out else [])]
        return [
            max(left + (seen.x.tokens * b @ b - 2 * b @ (lacking @ seen.x.total)).item(), 0.0)
            for left, seen in zip(found, sets, strict=True)
        ]


def _told(rotation: procrustes.Rotation, dense: Tensor) -> dict:
    """What is told of a rotation that costs no further decomposition."""
    return {
        "singular_values": rotation.singular_values,
        "rank": rotation.rank,
        "determinant": 1 if torch.linalg.slogdet(rotation.q.float()).sign > 0 else -1,
        "channel_angles": rotation.channel_angles,
        "principal_angles": rotation.principal_angles,
        "before": dense,
    }


def _errors(known: Sequence[Outputs | DirectOutputs], squared: Sequence[float]) -> tuple[float, float | None]:
    """Errors over ‖Y‖_F on the calibration windows and on those held out, if any are."""
    found = [(error / (y.energy or 1.0)) ** 0.5 for y, error in zip(known, squared, strict=True)]
    return found[0], found[1] if len(found) > 1 else None
