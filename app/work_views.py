"""Pictures of all layers, every projection of a site solved once and kept for everybody; and turns of both sides."""

from __future__ import annotations

from functools import partial

import streamlit as st

import rcpu
from app.dense import Dense
from app.jobs import Job
from app.shared import jobs
from rcpu.base import Answers
from rcpu.explain import Overview, Projection, TwoSides, key_of, overview, two_sides

KEPT = 1200  # layers


@st.cache_resource(show_spinner=False)
def overviews() -> Answers:
    """The solved layers of this process, by what they answer; they hold vectors only."""
    return Answers(KEPT)


def solved(dense: Dense, site: str) -> list[Overview]:
    """The layers of a site that are solved for these settings, ascending."""
    found = (overviews().known(_key(dense, site, layer)) for layer in dense.layers)
    return [o for o in found if o is not None]


def all_layers_job(dense: Dense, site: str) -> Job:
    """Queue the layers of a site that are not solved yet; ``partial`` grows with all that are."""
    store, config = overviews(), dense.config

    def solve(layer: int) -> Overview:
        projection = dense.projection(layer, site)
        return overview(projection, dense.removal(projection).columns, config.ridge, config.proper)

    def work(job: Job) -> list[Overview]:
        found = {o.layer: o for o in solved(dense, site)}
        job.partial = list(found.values())
        for i, layer in enumerate(dense.layers):
            if job.cancelled():
                raise rcpu.Cancelled
            job.report(i / len(dense.layers), f"layer {layer}")
            if layer not in found:
                found[layer] = store.ask(_key(dense, site, layer), partial(solve, layer))
                job.partial = [found[k] for k in sorted(found)]
        return job.partial

    title = f"Solve {site}, {config.ratio:.0%} by {config.scorer}"
    return jobs().submit("all_layers_job", title, work, asked(dense, site))


def asked(dense: Dense, site: str) -> tuple:
    """What the job for these settings answers."""
    return tuple(_key(dense, site, layer) for layer in dense.layers)


def _key(dense: Dense, site: str, layer: int) -> tuple:
    c = dense.config
    return (dense.found.folder, site, layer, dense.unit(site), c.scorer, c.seed, c.ratio_of(layer), c.ridge, c.proper)


def two_sides_job(dense: Dense, projection: Projection) -> Job:
    """Queue the two-sided turn of one projection."""
    columns = dense.removal(projection).columns

    def work(job: Job) -> TwoSides:
        job.report(0.1, "turning both sides")
        return projection.remember(
            ("two sides", key_of(columns)), lambda: two_sides(projection, columns, job.cancelled)
        )

    title = f"Turn both sides of layer {projection.layer} {projection.site}"
    return jobs().submit("sides", title, work, sides_asked(dense, projection))


def sides_asked(dense: Dense, projection: Projection) -> tuple:
    """What a two-sided turn depends on."""
    columns = dense.removal(projection).columns
    return dense.found.folder, projection.layer, projection.site, key_of(columns)
