"""Views of Spectrum and rotation that take a job: pictures of all layers, and the turn of both sides."""

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app.dense import Dense
from app.figures import all_layers, sides
from app.job_panels import job_panel, known_job, start
from app.jobs import Job
from app.labels import PAPER
from app.settings import control
from app.tiles import Tile, difference, percent, tiles
from app.widgets import abreast, figure, numbers
from app.work_views import all_layers_job, asked, sides_asked, solved, two_sides_job
from rcpu.explain import Projection
from rcpu.models import SITES

MULTIPLES = {"spectrum": "Spectra", "angles": "Angles", "errors": "Errors"}
#: Below the small multiples.
WORDS = {
    "spectrum": "Singular values of M = YZᵀ in every layer, relative to the largest. A steep fall means that few "
    "directions carry the outputs, as where single tokens are enormous; the effective rank is exp(−Σ p ln p), "
    "p = σ ÷ Σσ (Roy and Vetterli 2007).",
    "angles": "The share of directions over the angle θ by which Q turns them, e^{±iθ} its eigenvalues. Layers with "
    f"large angles lost inputs that mattered. {PAPER}.",
    "errors": "‖Y − Ŷ‖ ÷ ‖Y‖ of every repair in every layer: bars on the calibration windows, diamonds on held-out "
    "ones. Where the diamond stands far above its bar, the repair is over-fitted. Above each layer: by how much the "
    f"rotation Q changes the calibration error. {PAPER}.",
}


def show_layers(options: DeltaGenerator, dense: Dense) -> None:
    """Every measured layer as a small picture."""
    middle, right = st.columns([1, 1], vertical_alignment="bottom")
    with options:
        site = control(st.segmented_control, "Projection", "site", options=list(SITES), required=True, width="stretch")
    with middle:
        shown = control(
            st.segmented_control,
            "Picture",
            "multiples",
            options=list(MULTIPLES),
            format_func=MULTIPLES.get,
            required=True,
            width="stretch",
        )
    where = f"{site}, {dense.config.ratio:.0%} removed"
    job = known_job("all_layers_job")
    mine = job is not None and job.asks == asked(dense, site)
    found = solved(dense, site)
    missing = len(dense.layers) - len(found)

    def growing(running: Job) -> None:
        if running.partial:
            figure(all_layers.MULTIPLES[shown](running.partial, where), "growing", WORDS[shown])

    with right:
        if missing and not (mine and job.active):
            label = f"Solve {missing} layer{'s' * (missing > 1)}"
            if st.button(label, type="primary", width="stretch", icon=":material/play_arrow:"):
                start("all_layers_job", lambda: all_layers_job(dense, site))
    if mine and (job.active or missing):
        job_panel(job, growing)
        if job.active:
            return
    if not found:
        st.caption(
            "Each layer needs two decompositions. The pictures appear as they are made and are remembered for these "
            "settings."
        )
        return
    figure(
        all_layers.MULTIPLES[shown](found, where),
        f"layers-{shown}",
        WORDS[shown],
    )
    numbers(all_layers.layers_table(found), "all-layers")


def show_sides(dense: Dense, projection: Projection) -> None:
    """W_K turned at its inputs as well as at its outputs, and its singular values rescaled."""
    asks = sides_asked(dense, projection)
    job = known_job("sides")
    told, button = st.columns([3, 1], vertical_alignment="bottom")
    told.caption(
        "A rotation turns outputs alone. Turning inputs too and rescaling the singular values takes a few "
        "decompositions for each of its rounds: some seconds in o_proj, longer in down_proj."
    )
    if button.button("Turn both sides", type="primary", width="stretch", icon=":material/play_arrow:"):
        start("sides", lambda: two_sides_job(dense, projection))
    if job is None:
        return
    job_panel(job)
    if job.state != "done":
        return
    if job.asks != asks:
        st.info("The settings have changed since: turn again to see what they say.", icon=":material/info:")
    seen = job.result
    new = seen.errors["none"].held_out is not None
    errors = {name: e.held_out if new else e.calibration for name, e in seen.errors.items()}
    where = "held-out" if new else "calibration"
    tiles(
        *(
            Tile(label, percent(errors[name]), difference(errors[name], errors["none"]), help=f"On {where} windows")
            for label, name in (
                ("Rotation", "rotation"),
                ("Both sides", "two_sided"),
                ("Least squares", "least_squares"),
            )
        ),
        Tile("λ of the singular values", f"{seen.ridge:g}", "by cross-validation"),
    )
    left, right = abreast("sides")
    with left:
        figure(
            sides.values(seen),
            "sides-values",
            "W_K = U diag(σ) Vᵀ becomes L diag(s) Rᵀ. Each s is a regression of Lᵢᵀ Y on Rᵢᵀ X, pulled toward σ by λ, "
            "which generalised cross-validation chooses (Golub et al. 1979). After the idea of COEC (arXiv "
            "2608.21142), whose exact equations were not at hand: the steps are ours.",
        )
    with right:
        figure(
            sides.angles(seen),
            "sides-angles",
            "The angle between each singular vector before and after: u and l at the outputs, v and r at the inputs. "
            "L is the polar factor of Y Xᵀ R S; R takes steps that never raise the error.",
        )
