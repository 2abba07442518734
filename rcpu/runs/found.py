"""Findings at sites as tensors and plain values, and back; what edits hold, or nobody changed, is not written again.

A later version may know more or less of a site: what a file lacks is None there, what it has beyond is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import torch
from torch import Tensor

from rcpu.compact import Edits
from rcpu.pruning.site import SiteResult

SITES = "sites."
CUT = ("columns", "weight", "bias")


def site_part(sites: tuple[SiteResult, ...], edits: Edits, paths: Mapping[str, str]) -> tuple[dict[str, Tensor], list]:
    """What to write of these sites, edits included; ``paths`` says where in a layer a site's projection is."""
    tensors, notes = edits.to_tensors(), []
    for site in sites:
        plain = {"path": paths[site.site]}
        for name, value in ((f.name, getattr(site, f.name)) for f in fields(site) if f.name != "before"):
            if not isinstance(value, Tensor):
                plain[name] = value
            elif name not in CUT or (site.changed and _edit(site.layer, plain["path"], name) not in tensors):
                tensors[_own(site.layer, site.site, name)] = value
        notes.append(plain)
    return tensors, notes


def read_site(plain: dict, tensors: Mapping[str, Tensor]) -> SiteResult:
    """The findings at one site; weights that were not read, or not changed, are empty."""
    layer, site = plain["layer"], plain["site"]
    values = {}
    for name in (f.name for f in fields(SiteResult) if f.name != "before"):
        found = tensors.get(_own(layer, site, name))
        if found is None and name in CUT:
            found = tensors.get(_edit(layer, plain["path"], name))
        values[name] = plain.get(name) if found is None else found
    if values["columns"] is None:  # all stay
        values["columns"] = torch.arange(len(values["scores"]))
    if values["weight"] is None:
        values["weight"] = torch.empty(0, len(values["columns"]))
    return SiteResult(**values)


def _own(layer: int, site: str, name: str) -> str:
    return f"{SITES}{layer}.{site}.{name}"


def _edit(layer: int, path: str, name: str) -> str:
    return f"layers.{layer}.{path}.{name}"
