"""The views of Spectrum and rotation."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go
import streamlit as st

import rcpu
from app.dense import Dense
from app.figures import angles, repairs, space, spectrum
from app.settings import Settings
from app.shared import windows
from rcpu.explain import Errors, Projection, Turning, key_of, numerical_rank, spectra, turning
from rcpu.methods import Rotation, remove
from rcpu.text import token_pieces


@dataclass(frozen=True, eq=False)
class SpectrumAnswer:
    """Singular values at the chosen ratio, then at those laid over it."""

    found: list[spectrum.Spectrum]
    kept: list[int]  # inputs, at each ratio
    values: go.Figure
    energy: go.Figure


@dataclass(frozen=True, eq=False)
class AnglesAnswer:
    """How Q turns the output space."""

    rotation: Rotation
    determinant: int
    circle: go.Figure
    distribution: go.Figure
    channels: go.Figure
    principal: go.Figure


@dataclass(frozen=True, eq=False)
class ErrorsAnswer:
    """What every compensator leaves."""

    found: dict[str, Errors]
    bars: go.Figure


@dataclass(frozen=True, eq=False)
class SpaceAnswer:
    """Outputs on the way from Z to QZ."""

    determinant: int
    errors: list[float]  # of Z, at t, of QZ
    points: go.Figure
    path: go.Figure


def spectrum_answer(dense: Dense, projection: Projection, s: Settings) -> SpectrumAnswer:
    """Singular values of M = Y Zᵀ at several ratios."""
    own = dense.config.ratio_of(projection.layer)
    ratios = [own, *sorted(r for r in map(float, filter(None, s.overlay.split(","))) if r != own)]
    scores, layout = projection.scores(dense.config.scorer, dense.config.seed), dense.layout(projection.site)
    columns = [remove(scores, layout, ratio).columns for ratio in ratios]

    def made() -> SpectrumAnswer:
        kept = [len(k) for k in columns]
        found = [
            spectrum.Spectrum(ratio, values, numerical_rank(values, min(count, projection.x.tokens)))
            for ratio, values, count in zip(ratios, spectra(projection, columns), kept, strict=True)
        ]
        return SpectrumAnswer(found, kept, spectrum.spectrum(found), spectrum.energy(found))

    return projection.remember(("seen: spectrum", *ratios, *(key_of(k) for k in columns)), made)


def angles_answer(dense: Dense, projection: Projection, s: Settings) -> AnglesAnswer:
    """Angles and determinant of Q."""
    columns = dense.removal(projection).columns

    def made() -> AnglesAnswer:
        q = projection.rotation(columns, s.proper)
        return AnglesAnswer(
            rotation=q,
            determinant=q.determinant,
            circle=angles.circle(q),
            distribution=angles.distribution(q),
            channels=angles.channel_angles(q),
            principal=angles.principal_angles(q),
        )

    return projection.remember(("seen: angles", key_of(columns), s.proper), made)


def errors_answer(dense: Dense, projection: Projection, s: Settings) -> ErrorsAnswer:
    """Errors of every compensator; raises ``RcpuError`` for a bad λ, or as ``Projection.errors`` does."""
    columns, ridge = dense.removal(projection).columns, s.recipe("columns").ridge

    def made() -> ErrorsAnswer:
        found = projection.errors(columns, ridge, s.proper)
        return ErrorsAnswer(found, repairs.errors(found))

    return projection.remember(("seen: errors", key_of(columns), ridge, s.proper), made)


def space_answer(dense: Dense, projection: Projection, s: Settings) -> SpaceAnswer:
    """Outputs in their three main directions at t."""
    columns, drawn = dense.removal(projection).columns, windows().get(dense.model, dense.config)

    def made() -> SpaceAnswer:
        path = turning(projection, columns, s.proper)
        return SpaceAnswer(
            determinant=path.rotation.determinant,
            errors=path.errors([0.0, s.t, 1.0]),
            points=space.space(path, s.t, _names(dense.model, drawn, path)),
            path=space.path_error(path, s.t),
        )

    return projection.remember(("seen: space", key_of(columns), s.proper, s.t, drawn is None), made)


#: By the key of the view.
ANSWERS = {"spectrum": spectrum_answer, "angles": angles_answer, "errors": errors_answer, "space": space_answer}


def _names(model: rcpu.Model, drawn: rcpu.Windows | None, path: Turning) -> list[str]:
    """What to call each drawn token: its text, window and place."""
    places = path.directions.tokens.tolist()
    if drawn is None:
        return [f"token {p}" for p in places]
    width = drawn.calibration.shape[1]
    ids = drawn.calibration.flatten()[: max(places) + 1].tolist()
    pieces = _drawn_tokens(model, tuple(ids))
    return [f"{pieces[p]!r}, window {p // width}, place {p % width}" for p in places]


@st.cache_data(show_spinner=False, max_entries=64, hash_funcs={rcpu.Model: lambda m: m.fingerprint})
def _drawn_tokens(model: rcpu.Model, ids: tuple[int, ...]) -> tuple[str, ...]:
    """The texts of the tokens that the 3-D view shows."""
    return token_pieces(model.tokenizer, ids)
