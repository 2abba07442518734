"""SPSA's gradient against the true one, for a finished run of MINI-LLM: one job a layer, and what it found."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

import rcpu
from app import demo
from app.figures import gradients as figures
from app.job_panels import job_panel, known_job, start
from app.jobs import Job
from app.runs import KeptRun
from app.settings import control
from app.shared import jobs, models, windows
from app.tiles import Tile, percent, tiles
from app.widgets import abreast, figure, plain
from rcpu.explain import Likeness, backward_cost, likeness

WORDS = (
    "Each draw z moves **all** weights by ±εz and gives one slope (L₊ − L₋) ÷ 2ε; the mean of slope · z over D draws "
    "is ĝ (SPSA, Spall 1992). It is right on average, but every draw also carries the slopes along all other weights: "
    "cos(ĝ, g) ≈ ‖g‖ ÷ √(‖g‖² + n‖G‖² ÷ D), with g the gradient of the n weights of a matrix and G that of the whole "
    "model, ‖G‖² the mean slope². Between the dotted lines two random directions would lie, too."
)
BINS = (
    "All weights of the matrix in the order of their true gradient ∂L/∂w, in bins of equally many. With enough draws "
    "the means lie on the dashed line; a level cloud says that the estimate does not tell large gradients from small."
)


def gradient_job(run: KeptRun, model: rcpu.Model, layer: int) -> Job:
    """Queue a backward pass down to a layer of the dense model, on the windows that the run had."""
    recipe, slopes, digest = run.story.config, run.found["slopes"].tolist(), run.run.about["windows"]
    demo.check_text(recipe.text)
    demo.check_calibration(recipe.samples, recipe.window, recipe.held_out)
    drawn = windows()

    def work(job: Job) -> Mapping[str, Likeness]:
        job.report(0.0, "drawing calibration windows")
        calibration = drawn.get(model, recipe, patient=True)
        if calibration.digest != digest:
            raise rcpu.RcpuError(f"the text {recipe.text} has changed since this run: prune again to look at gradients")
        return likeness(
            model.net,
            calibration,
            recipe,
            slopes,
            layer,
            progress=lambda p: job.report(p.fraction, p.message),
            cancelled=job.cancelled,
        )

    return jobs().submit("gradients", f"Gradient of layer {layer}", work, (run.run.id, layer))


def gradient_section(run: KeptRun) -> None:
    """A layer to choose, a button that says what it costs, and what was found."""
    recipe = run.story.config
    st.subheader("SPSA's gradient and the true one")
    model = models().matching(run.run.fingerprint, run.run.about["dtype"])
    if model is None:
        st.caption("Load the model of this run to hold its gradient against the true one.")
        return
    layers = model.net.config.num_hidden_layers
    pick, told, button = st.columns([2, 3, 2], vertical_alignment="bottom")
    with pick:
        layer = control(st.select_slider, "Layer", "layer", options=list(range(layers)))
    told.caption(
        f"A backward pass of {recipe.samples} windows down to layer {layer}: about {backward_cost(layers, layer):.1f} "
        f"bare forwards. The run itself took {2 * recipe.options.draws + 1}."
    )
    if button.button("Work out the true gradient", width="stretch", icon=":material/play_arrow:"):
        start("gradients", lambda: gradient_job(run, model, layer))
    job = known_job("gradients")
    if job is None:
        return
    job_panel(job)
    if job.state != "done":
        return
    if job.asks != (run.run.id, layer):
        st.info("What follows is of another layer or run: work it out again.", icon=":material/info:")
    layer, names = job.asks[1], {name.split(".")[-2]: name for name in job.result}
    name = names[control(st.segmented_control, "Matrix", "matrix", options=list(names), required=True)]
    one = job.result[name]
    tiles(
        Tile("Cosine with the gradient", f"{one.cosines[-1]:.4f}", f"{one.expected[-1]:.4f} expected"),
        Tile("By chance", f"±{one.chance:.4f}", "1 ÷ √n"),
        Tile("Signs that agree", percent(one.signs), "50% by chance"),
    )
    left, right = abreast("gradients")
    with left:
        figure(figures.cosines(job.result, layer, name), "cosines", WORDS, of=plain(f"{job.id} {name}"))
    with right:
        figure(figures.bins(one, layer, name), "gradient-bins", BINS, of=plain(f"{job.id} {name}"))
