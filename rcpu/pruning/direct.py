"""Y = W X and Z = W_K X_K themselves, for one set of kept columns, from inputs that are held in memory.

It answers what :class:`rcpu.methods.compensation.Outputs` answers from the Gram matrix G (d_in × d_in). G serves every
set of kept columns; for a single one M = Y Zᵀ (d_out × d_out) summed up directly is cheaper where d_in ≥ 2 d_out, and
the repaired outputs Q Z follow from Z without the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from rcpu.methods.columns import compensation_at
from rcpu.methods.compensation import Compensated, removed
from rcpu.methods.scoring import FROM_GRAM
from rcpu.pruning.recipe import Recipe

#: Compensations that turn or shift Z: they need no Gram matrix.
METHODS = frozenset({"none", "rotation", "bias"})


def serves(weight: Tensor, recipe: Recipe, site: str) -> bool:
    """Whether this is the cheaper way to repair a projection (d_out × d_in) of which nothing else is asked.

    Only in fp32: elsewhere the repaired weight is rounded, and what follows has to see that. Not on mps, which has no
    fp64.
    """
    d_out, d_in = weight.shape
    suited = weight.dtype == torch.float32 and weight.device.type != "mps"
    asked = compensation_at(recipe, site) in METHODS and recipe.scorer not in FROM_GRAM and not recipe.target
    narrower = recipe.unit == "subspace" and site == "o_proj"  # chosen from the Gram matrix, whatever the score
    return asked and suited and not narrower and d_in >= 2 * d_out


class DirectOutputs:
    """The outputs of one projection for one set of kept columns, written over the inputs that they come from.

    Of each row of ``batches``, (tokens, d_in) each, the first d_out entries become Z.
    """

    def __init__(
        self,
        weight: Tensor,  # (d_out, d_in)
        columns: Tensor,  # (kept,)
        batches: Sequence[Tensor],
        step: Callable[[], None] = lambda: None,  # called before each batch
    ):
        order, k = torch.cat([columns, removed(columns, weight.shape[1])]), len(columns)
        weight = weight.index_select(1, order)  # what stays, then what goes
        self.columns, self.d_out, self.tokens = columns, len(weight), sum(map(len, batches))
        self._m, self._total = weight.new_zeros(self.d_out, self.d_out), torch.zeros(self.d_out, dtype=torch.float64)
        self.energy, self._lost = 0.0, 0.0  # ‖Y‖²_F and ‖Y − Z‖²_F
        self._new: Compensated | None = None
        for x in batches:
            step()
            ordered, z = x.gather(1, order.expand(len(x), -1)), x[:, : self.d_out]
            y = linear(ordered[:, k:], weight[:, k:])
            torch.mm(ordered[:, :k], weight[:, :k].mT, out=z)
            self._total += (y.new_ones(len(y)) @ y).cpu()
            self._lost += _energy(y)
            y += z
            self.energy += _energy(y)
            self._m.addmm_(y.mT, z)

    def cross_products(self, columns: Tensor) -> Tensor:
        """M = Y Zᵀ, (d_out, d_out)."""
        self._check(columns)
        return self._m

    cross_products_once = cross_products

    def lost(self, columns: Tensor) -> float:
        """‖Y − Z‖²_F = ‖D‖²_F with D = W_R X_R and R the columns that go."""
        self._check(columns)
        return self._lost

    def squared_error(self, columns: Tensor, new: Compensated) -> float:
        """‖Y − Z − b 1ᵀ‖²_F = ‖D‖² + n‖b‖² − 2 bᵀ D1 for what adds a bias b; for a turn see ``turned_error``."""
        self._check(columns)
        b = new.bias.cpu().double()
        return max(self._lost + (self.tokens * b @ b - 2 * b @ self._total).item(), 0.0)

    def repair(self, new: Compensated) -> None:
        """Have :meth:`put_out` repair Z from now on."""
        self._new = new

    def put_out(self, rows: Tensor) -> Tensor:
        """What the projection puts out, (..., d_out), from rows (..., d_in) of ``batches``, without its own bias."""
        z = rows[..., : self.d_out]
        if self._new is None:
            return z
        z = z if self._new.turn is None else linear(z, self._new.turn)
        return z if self._new.bias is None else z + self._new.bias

    def _check(self, columns: Tensor) -> None:
        if not columns.equal(self.columns):
            raise ValueError("these outputs are of another set of kept columns")


def _energy(x: Tensor) -> float:
    """‖x‖², rows added up in fp64."""
    return torch.linalg.vector_norm(x, dim=1).double().square().sum().item()
