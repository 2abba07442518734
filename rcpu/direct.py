"""Y = W X and Z = W_K X_K themselves, for one set of kept columns, from inputs that are held in memory.

It answers what :class:`rcpu.compensation.Outputs` answers from the Gram matrix G (d_in × d_in). G serves every set of
kept columns; for a single one M = Y Zᵀ (d_out × d_out) summed up directly is cheaper where d_in ≥ 2 d_out, and the
repaired outputs Q Z follow from Z without the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from rcpu.compensation import Compensated, removed

#: Compensations that turn or shift Z: they need no Gram matrix.
METHODS = frozenset({"none", "rotation", "bias"})


def serves(weight: Tensor, compensation: str) -> bool:
    """Whether this is the cheaper way to repair a projection (d_out × d_in) of which nothing else is asked.

    Only in fp32: elsewhere the repaired weight is rounded, and what follows has to see that.
    """
    d_out, d_in = weight.shape
    return compensation in METHODS and weight.dtype == torch.float32 and d_in >= 2 * d_out


class DirectOutputs:
    """The outputs of one projection for one set of kept columns, written over the inputs that they come from.

    Of each row of ``batches`` the first d_out entries become what the projection puts out from now on: Z, and with
    :meth:`squared_error` the repaired Z. The next d_out entries become Y. So all calls are about the same ``columns``.
    """

    def __init__(self, weight: Tensor, batches: Sequence[Tensor], step: Callable[[], None] = lambda: None):
        self.weight, self.batches, self.step = weight, batches, step  # (d_out, d_in); (tokens, d_in) each
        self._found: tuple[Tensor, float, float] | None = None

    def cross_products(self, columns: Tensor) -> Tensor:
        """M = Y Zᵀ, (d_out, d_out)."""
        return self._run(columns)[0]

    @property
    def energy(self) -> float:
        """‖Y‖²_F; known from the first call of another method on."""
        return self._found[1]

    def lost(self, columns: Tensor) -> float:
        """‖Y − Z‖²_F = ‖W_R X_R‖²_F with R the columns that go."""
        return self._run(columns)[2]

    def squared_error(self, columns: Tensor, new: Compensated) -> float:
        """‖Y − Ŷ‖²_F with Ŷ = A Z + b 1ᵀ, the repaired outputs, which take the place of Z: to be asked once."""
        self._run(columns)
        squared = 0.0
        for z, y in map(self._halves, self.batches):
            self.step()
            repaired = z if new.turn is None else linear(z, new.turn)
            if new.bias is not None:
                repaired = repaired + new.bias
            squared += _energy(y - repaired)
            z.copy_(repaired)
        return squared

    def _halves(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        d = len(self.weight)
        return batch[:, :d], batch[:, d : 2 * d]

    def _run(self, columns: Tensor) -> tuple[Tensor, float, float]:
        """M, ‖Y‖² and ‖Y − Z‖²; from the second call on the inputs are gone, and the answers are those of the first."""
        if self._found is None:
            gone = removed(columns, self.weight.shape[1])
            kept, cut = self.weight[:, columns].contiguous(), self.weight[:, gone].contiguous()
            m, energy, lost = self.weight.new_zeros(len(kept), len(kept)), 0.0, 0.0
            for x in self.batches:
                self.step()
                z, y = linear(x.index_select(1, columns), kept), linear(x.index_select(1, gone), cut)
                lost += _energy(y)
                y += z
                energy += _energy(y)
                m.addmm_(y.mT, z)
                for half, values in zip(self._halves(x), (z, y), strict=True):
                    half.copy_(values)
            self._found = m, energy, lost
        return self._found


def _energy(x: Tensor) -> float:
    """‖x‖², rows added up in fp64."""
    return torch.linalg.vector_norm(x, dim=1).double().square().sum().item()
