"""Spectrum and rotation: what removal does to a projection's outputs, and what the best rotation makes of it."""

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

import rcpu
from app.answers import work_out_neighbours
from app.answers.rotation import ANSWERS, angles_answer, errors_answer, space_answer, spectrum_answer
from app.dense import DENSE_PATH, Dense, need_model, need_statistics, pick_projection, pick_removal
from app.figures.angles import largest_turn
from app.figures.repairs import COMPENSATIONS, errors_table
from app.figures.spectrum import spectrum_table
from app.labels import PAPER
from app.rotation_views import show_layers, show_sides
from app.settings import control, control_list, part, settings
from app.tiles import Tile, difference, percent, tiles
from app.widgets import abreast, figure, numbers, say
from rcpu.explain import Projection, effective_rank, values_for

VIEWS = {
    "spectrum": "Spectrum",
    "angles": "Angles",
    "errors": "Errors",
    "space": "3-D outputs",
    "sides": "Both sides",
    "layers": "All layers",
}
RATIOS = [f"{i / 20:g}" for i in range(19)]
OVERLAID = 4
T_STEP = 0.05
PROPER, REFUSE = "Proper (det Q = +1)", "Refuse a reflection, at a slightly larger error"
RIDGES = ("0.0001", "0.001", "0.01", "0.1", "1", "10", "auto")
PROCRUSTES = "Schönemann, [Psychometrika 31, 1966](https://doi.org/10.1007/BF02289451)"
REFLECTION = (
    "**det Q = −1**: the best fit holds a reflection, and no path of rotations leads from the identity to it. Here the "
    "reflected direction shrinks through zero at t = ½ and comes out mirrored, while all others turn. **Proper "
    "rotation** asks for det Q = +1 instead, at a slightly larger error."
)


def show_spectrum(options: DeltaGenerator, dense: Dense, projection: Projection) -> None:
    """Singular values at the chosen ratio and at others, laid over one another."""
    with options:
        control_list(
            st.multiselect,
            "Other ratios laid over it",
            "overlay",
            RATIOS,
            max_selections=OVERLAID,
            format_func=lambda r: "dense" if r == "0" else f"{float(r):.0%}",
            placeholder="none",
        )
    seen = spectrum_answer(dense, projection, settings())
    first = seen.found[0]
    tiles(
        Tile("Inputs kept", f"{seen.kept[0]:,}", f"of {projection.weight.shape[1]:,}"),
        Tile(
            "Rank of M",
            f"{first.rank:,}",
            f"of {len(first.values):,}",
            help="Singular values above the rounding of fp32 sums, at most as many as inputs are kept or tokens were "
            "read",
        ),
        Tile(
            "Effective rank",
            f"{effective_rank(first.signal):,.1f}",
            help="exp of the entropy of σ ÷ Σσ (Roy and Vetterli 2007): how many directions count, were all equally "
            "strong",
        ),
        Tile(
            "Values for 99% of Σσ",
            f"{values_for(first.signal):,}",
            help="The largest singular values that together carry 99% of the energy",
        ),
    )
    left, right = abreast("spectrum")
    with left:
        figure(
            seen.values,
            "spectrum",
            "With Y = WX before and Z = W_K X_K after removal, M = YZᵀ = W G[:,K] W_Kᵀ = U S Vᵀ and the best rotation "
            "is Q = U Vᵀ. S says how much each direction counts: the steeper the curve, the fewer of them decide, and "
            f"where it ends M says nothing and Q stays nearest to the identity. {PAPER}; {PROCRUSTES}.",
        )
    with right:
        figure(
            seen.energy,
            "energy",
            "Σ of the i largest σ ÷ Σσ; the dot is where 99% is reached. M is quadratic in the outputs, so its "
            "singular values are energies already: the error of the rotation is ‖Y‖² + ‖Z‖² − 2Σσ. "
            "Effective rank: exp(−Σ p ln p) with p = σ ÷ Σσ "
            "([Roy and Vetterli 2007](https://ieeexplore.ieee.org/document/7098875)).",
        )
    numbers(spectrum_table(seen.found, seen.kept), "spectrum-by-ratio")


def show_angles(options: DeltaGenerator, dense: Dense, projection: Projection) -> None:
    """How Q turns the output space."""
    with options:
        control(st.toggle, PROPER, "proper", help=REFUSE)
    seen = angles_answer(dense, projection, settings())
    rotation = seen.rotation
    tiles(
        Tile(
            "det Q",
            f"{seen.determinant:+d}".replace("-", "−"),
            help="+1: a rotation; −1: one direction is reflected as well",
        ),
        Tile("Eigen-angle, mean", f"{rotation.angles.mean():.1f}°"),
        Tile(
            "Eigen-angle, largest", f"{largest_turn(rotation):.1f}°", help="Of a plane of rotation, reflections apart"
        ),
        Tile("Channel angle, mean", f"{rotation.channel_angles.mean():.1f}°"),
        Tile(
            "Principal, largest",
            f"{rotation.principal_angles.max():.1f}°" if rotation.rank else "–",
            help="Between range(Z) and range(QZ); 0° where Z fills the whole output space",
        ),
    )
    left, right = abreast("turning")
    with left:
        figure(
            seen.circle,
            "eigenvalues",
            "The eigenvalues of Q are e^{±iθ}, a stroke each: Q turns each of its planes by θ. Strokes near 1 hardly "
            "move; a cross at −1 is a reflected direction. Phases from the symmetric part: eig((Q + Qᵀ) ÷ 2) = cos θ, "
            f"in fp64. {PAPER}.",
        )
    with right:
        figure(
            seen.distribution,
            "angles",
            "Each bar is the share of directions (θ, from the eigenvalues e^{±iθ}) or of output channels (arccos Q_ii) "
            "with such an angle. Small angles mean that removal hardly turned the outputs, so there is little for a "
            f"rotation to repair. {PAPER}.",
        )
    left, right = abreast("channels")
    with left:
        figure(
            seen.channels,
            "channel-angles",
            "arccos Q_ii: the angle between an output channel's axis and where Q takes it. Channels that stand out "
            f"lost inputs which the others still carry, and borrow from those. {PAPER}.",
        )
    with right:
        figure(
            seen.principal,
            "principal-angles",
            "cos of the angles: singular values of U_rᵀ V_r, with M = U S Vᵀ of rank r. They compare the subspace that "
            "the kept inputs can reach with the one that Q moves it to; with rank d_out both are the whole space. "
            "[Björck and Golub 1973](https://doi.org/10.1090/S0025-5718-1973-0348991-3).",
        )


def show_errors(options: DeltaGenerator, dense: Dense, projection: Projection) -> None:
    """What every compensator leaves, on the windows it was fitted to and on others."""
    with options:
        control(
            st.selectbox,
            "Ridge λ ÷ mean diagonal",
            "ridge",
            options=list(dict.fromkeys([settings().ridge, *RIDGES])),
            help="Of least squares; auto tries five values on the held-out windows",
        )
        control(st.toggle, PROPER, "proper", help=REFUSE)
    try:
        seen = errors_answer(dense, projection, settings())
    except rcpu.RcpuError as error:
        say(error)
        return
    found = seen.found
    new = found["none"].held_out is not None  # a repair is judged where it was not fitted, if there is such text
    errors = {name: e.held_out if new else e.calibration for name, e in found.items()}
    where = "held-out" if new else "calibration"

    def repaired(label: str, name: str) -> Tile:
        after, before = errors[name], errors["none"]
        told = f"Relative error on {where} windows, and how it differs from that of nothing repaired"
        if new:
            told += f"; on calibration windows the error is {percent(found[name].calibration)}"
        return Tile(label, percent(after), difference(after, before), None if after == before else after < before, told)

    best = min(errors, key=errors.get)
    tiles(
        Tile("Not repaired", percent(errors["none"]), where, help=f"Relative error on {where} windows"),
        repaired("Rotation", "rotation"),
        repaired("Least squares", "least_squares"),
        repaired(f"Best: {COMPENSATIONS[best]}", best),
    )
    figure(
        seen.bars,
        "errors",
        "‖Y − Ŷ‖_F ÷ ‖Y‖_F of this projection: Ŷ = Z (none), Z + b (bias, [FLAP](https://arxiv.org/abs/2312.11983)), "
        f"QZ (rotation, {PAPER}), sQZ with s = Σσ ÷ ‖Z‖², and W′X_K with W′ fitted by ridge regression toward W_K. "
        "A gain on the calibration windows that is lost on held-out ones is over-fitting: the more a repair may "
        "change, the more windows it needs.",
    )
    numbers(errors_table(found), "errors")


def show_space(options: DeltaGenerator, dense: Dense, projection: Projection) -> None:
    """Outputs in their three main directions, on the way from Z to QZ."""
    with options:
        t = control(
            st.slider, "t, from Z (0) to QZ (1)", "t", min_value=0.0, max_value=1.0, step=T_STEP, help="exp(t log Q) Z"
        )
        control(st.toggle, PROPER, "proper", help=REFUSE)
    seen = space_answer(dense, projection, settings())
    labels = "Error of Z", f"Error at t = {t:.2f}", "Error of QZ"
    tiles(
        *(
            Tile(label, percent(error), help="Relative error over all calibration tokens")
            for label, error in zip(labels, seen.errors, strict=True)
        ),
        Tile(
            "det Q",
            f"{seen.determinant:+d}".replace("-", "−"),
            help="+1: a rotation; −1: one direction is reflected as well, see below the figures",
        ),
    )
    left, right = abreast("space", wide_left=True)
    with left:
        figure(
            seen.points,
            "outputs",
            "Tokens of the calibration windows in the three main directions of Y, the eigenvectors of YYᵀ = W G Wᵀ. "
            "t log Q turns every plane of Q by tθ, so the green points leave Z at t = 0 and reach QZ at t = 1. Each "
            "axis has its own scale, the same at every t; a click on **what is left to Y** in the legend draws it. "
            f"{PAPER}.",
        )
    with right:
        figure(
            seen.path,
            "path-error",
            "‖Y − exp(t log Q) Z‖ ÷ ‖Y‖ over all calibration tokens and all directions, not only the three shown: "
            "‖Y‖² + ‖Z‖² − 2 tr(exp(t log Q)ᵀ M). Part of the way may already be worth most of it. A reflection makes "
            f"a detour, because its direction is squeezed to nothing in between. {PAPER}.",
        )
    if seen.determinant < 0:  # below: what comes and goes above a figure has it built anew
        st.info(REFLECTION, icon=":material/flip:")


def next_settings(view: str) -> list[dict[str, object]]:
    """Settings that a view alone has, each with one that a person may try next."""
    s = settings()
    proper = {"proper": not s.proper}
    steps = [round(s.t + step, 2) for step in (-T_STEP, T_STEP)]
    return {
        "spectrum": [],
        "angles": [proper],
        "errors": [*({"ridge": ridge} for ridge in RIDGES if ridge != s.ridge), proper],
        "space": [*({"t": t} for t in steps if 0 <= t <= 1), proper],
    }[view]


@part
def explore() -> None:
    """The settings, and the view of them that was chosen."""
    need_model()
    pick_removal()
    dense = need_statistics()
    line = st.container(horizontal=True, gap="medium")
    with line:
        view = control(
            st.segmented_control, "View", "spectrum", options=list(VIEWS), format_func=VIEWS.get, required=True
        )
    options = line.container(horizontal=True, vertical_alignment="bottom", width=460, height="stretch")
    if view == "layers":
        show_layers(options, dense)
    elif view == "sides":
        show_sides(dense, pick_projection(dense))
    else:
        projection = pick_projection(dense)
        {"spectrum": show_spectrum, "angles": show_angles, "errors": show_errors, "space": show_space}[view](
            options, dense, projection
        )
        work_out_neighbours(ANSWERS[view], dense, projection, next_settings(view))
    st.caption(DENSE_PATH)


st.title("Spectrum and rotation")
st.write("See how removal changes a projection's outputs, and how far the best rotation brings them back.")
explore()
