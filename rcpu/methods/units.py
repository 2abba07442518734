"""From column scores to kept units: what a unit is, how many go, and which.

A unit is the smallest thing that can leave: a head, a KV group, or a channel. Units compete within a stratum (all
heads of a layer; the value channels of one KV head), so a layout is one index tensor (strata, units, columns).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

import torch
from torch import Tensor, nn

from rcpu.base.errors import RcpuError
from rcpu.models.families import Heads, Site, consumer_of, heads_of, layers_of

UNIT_NAMES = {"head": "heads", "kv_group": "KV groups", "channel": "channels", "subspace": "dimensions"}
UNITS = {
    "auto": "Automatic",
    "head": "Whole heads",
    "kv_group": "Whole KV groups",
    "channel": "Value channels per KV head",
    "subspace": "A subspace of values per KV head",
}


def resolve_unit(unit: str, heads: Heads) -> str:
    """The attention unit that ``auto`` stands for, or the given one if this model can have it.

    Raises:
        RcpuError: whole heads on a model whose query heads share KV heads, or an unknown unit.
    """
    if unit not in UNITS:
        raise RcpuError(f"unknown unit {unit!r}: choose one of {', '.join(UNITS)}")
    shared = heads.query != heads.kv
    if unit == "auto":
        return "channel" if shared else "head"
    if unit == "head" and shared:
        raise RcpuError(
            f"unit 'head' needs one KV head for each query head, but this model has {heads.query} query heads on "
            f"{heads.kv} KV heads: choose 'kv_group' (whole groups) or 'channel' (value channels of every KV head)"
        )
    return unit


def attention_units(heads: Heads, unit: str) -> Tensor:
    """Columns of o_proj in each unit: (1, heads, dim), (1, kv, group·dim) or (kv, dim, group).

    A subspace has as many dimensions as there are channels, and no columns of its own: it is counted as they are.
    """
    columns = torch.arange(heads.query * heads.dim).view(heads.kv, heads.query // heads.kv, heads.dim)
    if unit == "head":
        return columns.reshape(1, heads.query, heads.dim)
    if unit == "kv_group":
        return columns.reshape(1, heads.kv, -1)
    return columns.transpose(1, 2)


def channel_units(d_in: int) -> Tensor:
    """Every column its own unit, all in one stratum: (1, d_in, 1)."""
    return torch.arange(d_in).view(1, d_in, 1)


def removed_count(units: int, ratio: float) -> int:
    """floor(ρ·n) units leave a stratum of n; a ratio that is a decimal fraction is taken as it was written."""
    return floor(ratio * units + 1e-9)


def keep_units(scores: Tensor, layout: Tensor, ratio: float = 0.0, gone: int | None = None) -> tuple[Tensor, Tensor]:
    """Unit scores (strata, units), the sum over each unit's columns, and the mask that keeps the highest.

    ``gone`` units leave every stratum, without it those of the ratio.

    Ties go to the unit that comes first, so that the result does not depend on the sorting routine.
    """
    unit_scores = scores[layout].sum(-1)
    order = unit_scores.sort(dim=1, descending=True, stable=True).indices
    keep = torch.zeros_like(unit_scores, dtype=torch.bool)
    gone = removed_count(layout.shape[1], ratio) if gone is None else gone
    keep.scatter_(1, order[:, : layout.shape[1] - gone], True)
    return unit_scores, keep


def kept_columns(layout: Tensor, keep: Tensor) -> Tensor:
    """The columns of all kept units in ascending order, (kept,)."""
    return layout[keep].flatten().sort().values


@dataclass(frozen=True, eq=False)
class Removal:
    """Which units stay at some ratio: scores of units, mask (strata, units), and the kept columns, ascending."""

    unit_scores: Tensor
    keep: Tensor
    columns: Tensor


def remove(scores: Tensor, layout: Tensor, ratio: float) -> Removal:
    """What goes from a projection by these scores of its columns, (d_in,)."""
    unit_scores, keep = keep_units(scores, layout, ratio)
    return Removal(unit_scores, keep, kept_columns(layout, keep))


def units_of(net: nn.Module, site: Site, unit: str) -> Tensor:
    """The input columns of each unit of a site, (strata, units, columns), see units.py; the same in every layer.

    Raises:
        RcpuError: a unit of o_proj that this model cannot have.
    """
    if not site.attention:
        return channel_units(consumer_of(layers_of(net)[0], site).in_features)
    heads = heads_of(net)
    return attention_units(heads, resolve_unit(unit, heads))
