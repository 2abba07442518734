"""How far the rotation of a run turns: worked out when somebody looks, and kept with the run from then on."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from torch import Tensor

import rcpu
from app.kept import find, opened, store_of
from app.shared import models
from app.story import SiteLook
from rcpu.models import weight_of
from rcpu.runs import sites_of


def turned(run_id: str, site: rcpu.SiteResult | SiteLook | None) -> rcpu.SiteResult | SiteLook | None:
    """The findings at a site with their angles; None where nothing was turned, or what was is not at hand.

    Q is not kept: it is the polar factor of W' W_Kᵀ, of which the run has W' and the dense model W_K.
    """
    if site is None or site.determinant is None:
        return None
    if vars(site).get("angles") is not None or site.before is not None:
        return site
    if getattr(site, "stepped", False):  # what was turned is not the dense model's weight
        return None
    one, run = store_of(run_id), find(run_id)
    if run is None:
        return None
    part = f"angles-{site.layer:03d}-{site.site}"
    with contextlib.suppress(rcpu.RcpuError):
        return _with(site, one.read(run_id, part)["angles"])
    model = models().matching(run.fingerprint, run.about["dtype"])
    if model is None:
        return None
    weight = _weight(run_id, site)
    if weight is None:
        return None
    found = replace(site, weight=weight, before=weight_of(model.net, site.layer, site.site)).angles
    with contextlib.suppress(rcpu.RcpuError):  # a store that cannot be written: it is worked out again
        one.add(run_id, part, {"angles": found})
    return _with(site, found)


def _weight(run_id: str, site: rcpu.SiteResult) -> Tensor | None:
    if run := opened().get(run_id):
        found = (s.weight for s in run.result.sites if (s.layer, s.site) == (site.layer, site.site))
        return next(found, None)
    with contextlib.suppress(rcpu.RcpuError):
        kept = sites_of(store_of(run_id), run_id, weights=True, layer=site.layer)
        return next((s.weight for s in kept if s.site == site.site and s.weight.numel()), None)
    return None


def _with(site: rcpu.SiteResult, angles: Tensor) -> rcpu.SiteResult:
    site.__dict__["angles"] = angles  # where a cached property keeps what it found
    return site
