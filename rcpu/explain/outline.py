"""The matrices of one layer, and which of their rows and columns stay: to draw, not to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rcpu.models.families import architecture_of, attention_rows, consumer_of, heads_of, layers_of


@dataclass(frozen=True, eq=False)
class Matrix:
    """One matrix of a layer: its shape, and which of its rows or columns stay (None: all)."""

    name: str
    rows: int
    columns: int
    kept_rows: Tensor | None = None  # (rows,) bool
    kept_columns: Tensor | None = None  # (columns,) bool

    @property
    def left(self) -> tuple[int, int]:
        """Rows and columns after the removal."""
        return (
            self.rows if self.kept_rows is None else int(self.kept_rows.sum()),
            self.columns if self.kept_columns is None else int(self.kept_columns.sum()),
        )


def outline(net: nn.Module, layer: int, kept: Mapping[str, Tensor]) -> dict[str, list[Matrix]]:
    """The producers and, last, the consumer of every site of a layer; ``kept`` has what stays of a site, see Cut.

    Raises:
        RcpuError: an unsupported model.
    """
    found, heads = {}, heads_of(net)
    for site in architecture_of(net).sites:
        module = layers_of(net)[layer]
        block, columns = module.get_submodule(site.block), kept[site.name].cpu()
        if columns.ndim > 1:  # encoders of values: as many channels stay, drawn as the first of each head
            columns = torch.arange(heads.query * heads.dim).view(-1, heads.dim)[:, : columns.shape[1]].flatten()
        rows = attention_rows(columns, heads) if site.attention else {"channel": columns}
        matrices = []
        for kind, names in site.producers.items():
            for name in names:
                d_out, d_in = block.get_submodule(name).weight.shape
                matrices.append(Matrix(name, d_out, d_in, kept_rows=_mask(rows[kind], d_out)))
        d_out, d_in = consumer_of(module, site).weight.shape
        matrices.append(Matrix(site.consumer, d_out, d_in, kept_columns=_mask(columns, d_in)))
        found[site.name] = matrices
    return found


def _mask(kept: Tensor, count: int) -> Tensor:
    mask = torch.zeros(count, dtype=torch.bool)
    mask[kept] = True
    return mask
