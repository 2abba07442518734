"""The views of Importance."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go
from torch import Tensor

from app.dense import Dense
from app.figures import importance as figures
from app.figures import paths as figures_of_paths
from app.figures.ranking import cut
from app.settings import Settings
from rcpu.explain import (
    FACTORS,
    Errors,
    Paths,
    Projection,
    ValueSpectrum,
    factors,
    overlap,
    paths,
    rank_correlations,
    shares,
    value_spectra,
    without,
)
from rcpu.methods import AT_ONCE, UNIT_NAMES, Removal, keep_units, remove, removed_count
from rcpu.models import heads_of


@dataclass(frozen=True, eq=False)
class CutAnswer:
    """What goes, and what that costs while nothing is repaired."""

    removal: Removal
    shown: int  # the unit that is marked, −1: none
    error: Errors
    scores: go.Figure


@dataclass(frozen=True, eq=False)
class FactorsAnswer:
    """The parts of the RCPU score, and the choice without each of them."""

    shares: dict[str, float]  # of the order, by factor
    parts: go.Figure
    swaps: go.Figure
    rows: dict[str, list]


@dataclass(frozen=True, eq=False)
class ScorersAnswer:
    """How far scorers agree."""

    gone: int
    overlap: go.Figure
    correlation: go.Figure
    rows: dict[str, list]


@dataclass(frozen=True, eq=False)
class LayersAnswer:
    """Scores of all layers."""

    units: go.Figure
    heads: go.Figure | None  # where units are not heads already


@dataclass(frozen=True, eq=False)
class GreedyAnswer:
    """Errors at the chosen ratio by order of removal."""

    plain: float
    scored: float
    greedy: float
    paths: go.Figure


@dataclass(frozen=True, eq=False)
class ValuesAnswer:
    """What is lost of the output with values of this width, by the best directions and the best channels."""

    kept: int
    dim: int
    subspace: float
    channels: float
    spectra: go.Figure


def cut_answer(dense: Dense, projection: Projection, s: Settings) -> CutAnswer:
    """Sorted scores with the cut."""
    config, kind = dense.config, dense.unit(projection.site)

    def made() -> CutAnswer:
        removal = dense.removal(projection)
        shown = s.shown_unit if s.shown_unit < removal.keep.numel() else -1
        return CutAnswer(
            removal,
            shown,
            projection.plain_error(removal.columns),
            cut(removal.unit_scores, removal.keep, kind, _where(projection), shown),
        )

    return projection.remember(("seen: cut", config.scorer, *_key(dense, projection), s.shown_unit), made)


def factors_answer(dense: Dense, projection: Projection, s: Settings) -> FactorsAnswer:
    """The three factors; the chosen scorer has no part in it."""
    layout, ratio = dense.layout(projection.site), dense.config.ratio_of(projection.layer)

    def made() -> FactorsAnswer:
        parts = factors(projection.weight, projection.x)
        found = {name: remove(without(parts, name), layout, ratio) for name in (None, *FACTORS)}
        labels = {None: "all three"} | {name: f"without {FACTORS[name][0]}" for name in FACTORS}
        full, removals = found[None], list(found.values())
        rows = {
            "score": list(labels.values()),
            "same units go (%)": [round(100 * overlap(full.keep, r.keep), 1) for r in removals],
            "other units": [int((full.keep & ~r.keep).sum()) for r in removals],
            "rank correlation": [round(v, 3) for v in _correlations(removals)[0].tolist()],
            **_errors(projection, removals),
        }
        return FactorsAnswer(
            shares(parts),
            figures.factors(parts, _where(projection)),
            figures.swaps({labels[k]: r.keep for k, r in found.items()}, full.unit_scores, dense.unit(projection.site)),
            rows,
        )

    return projection.remember(("seen: factors", *_key(dense, projection)), made)


def scorers_answer(dense: Dense, projection: Projection, s: Settings) -> ScorersAnswer:
    """All scorers, two by two."""
    layout, ratio = dense.layout(projection.site), dense.config.ratio_of(projection.layer)

    def made() -> ScorersAnswer:
        removals = [remove(projection.scores(name, dense.config.seed), layout, ratio) for name in AT_ONCE]
        labels = [figures.SCORERS[name] for name in AT_ONCE]
        common = [[overlap(a.keep, b.keep) for b in removals] for a in removals]
        return ScorersAnswer(
            int((~removals[0].keep).sum()),
            figures.matrix(labels, common, "Removed units in common", "overlap", 0.0),
            figures.matrix(labels, _correlations(removals).tolist(), "Rank correlation", "Spearman's ρ", -1.0),
            {"score": labels, **_errors(projection, removals)},
        )

    return projection.remember(("seen: scorers", *_key(dense, projection)), made)


def layers_answer(dense: Dense, site: str, s: Settings) -> LayersAnswer:
    """Scores of one site in all layers."""
    layout, kind, config = dense.layout(site), dense.unit(site), dense.config
    columns = dense.scores(site)
    ratios = [config.ratio_of(i) for i in columns]

    def made() -> LayersAnswer:
        units = figures.layers(
            {i: keep_units(v, layout, 0.0)[0] for i, v in columns.items()},
            kind,
            site,
            config.scorer,
            gone={i: removed_count(layout.shape[1], ratio) for i, ratio in zip(columns, ratios, strict=True)},
            to_median=s.relative,
        )
        by_head = site == "o_proj" and kind != "head"
        return LayersAnswer(
            units, figures.heads(columns, heads_of(dense.model.net).dim, config.scorer) if by_head else None
        )

    return dense.remember(("seen: layers", site, kind, config.scorer, config.seed, s.relative, *ratios), made)


def greedy_answer(dense: Dense, projection: Projection, s: Settings) -> GreedyAnswer:
    """Greedy removal beside orders that are fixed at the start."""
    config, kind, layout = dense.config, dense.unit(projection.site), dense.layout(projection.site)
    ratio = config.ratio_of(projection.layer)

    def found() -> Paths:
        return paths(projection, layout, projection.scores(config.scorer, config.seed))

    def made() -> GreedyAnswer:
        curves = projection.remember(("paths", config.scorer, config.seed, kind), found)
        gone = min(int(ratio * layout.shape[1] + 1e-9), len(curves.greedy) - 1)
        drawn = figures_of_paths.greedy_path(curves, layout.shape[1], ratio, UNIT_NAMES[kind], _where(projection))
        return GreedyAnswer(*(float(v[gone]) for v in (curves.plain, curves.scored, curves.greedy)), drawn)

    return projection.remember(("seen: greedy", config.scorer, *_key(dense, projection)), made)


def values_answer(dense: Dense, projection: Projection, s: Settings) -> ValuesAnswer:
    """Spectra of the values of every KV head of this layer's o_proj, whatever projection is looked at."""
    attention, ratio = dense.projection(projection.layer, "o_proj"), dense.config.ratio_of(projection.layer)

    def found() -> list[ValueSpectrum]:
        return value_spectra(attention.weight, attention.x.gram, heads_of(dense.model.net))

    def made() -> ValuesAnswer:
        spectra = attention.remember(("value spectra",), found)
        dim = len(spectra[0].subspace) - 1
        kept = dim - int(ratio * dim + 1e-9)
        lost = (
            1 - sum(float(getattr(v, how)[kept]) for v in spectra) / len(spectra) for how in ("subspace", "channels")
        )
        return ValuesAnswer(kept, dim, *lost, figures_of_paths.value_spectra(spectra, ratio, _where(attention)))

    return attention.remember(("seen: values", ratio), made)


def unit_answer(dense: Dense, projection: Projection, s: Settings) -> Removal:
    """What goes: the rest is of one unit, and which one comes next is not known."""
    return dense.removal(projection)


#: Of one projection, by the key of the view.
ANSWERS = {
    "cut": cut_answer,
    "factors": factors_answer,
    "scorers": scorers_answer,
    "greedy": greedy_answer,
    "values": values_answer,
    "unit": unit_answer,
}


def _key(dense: Dense, projection: Projection) -> tuple:
    """What a choice of units depends on beside the scorer."""
    return dense.config.seed, dense.config.ratio_of(projection.layer), dense.unit(projection.site)


def _where(projection: Projection) -> str:
    return f"layer {projection.layer}, {projection.site}"


def _correlations(removals: list[Removal]) -> Tensor:
    return rank_correlations([r.unit_scores for r in removals])


def _errors(projection: Projection, removals: list[Removal]) -> dict[str, list[float]]:
    """Columns of a table: errors of these removals with nothing repaired, in percent."""
    errors = [projection.plain_error(r.columns) for r in removals]
    rows = {"error, calibration (%)": [round(100 * e.calibration, 2) for e in errors]}
    if projection.held_out:
        rows["error, held-out (%)"] = [round(100 * e.held_out, 2) for e in errors]
    return rows
