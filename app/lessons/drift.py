"""Lesson 2: why outputs drift."""

from __future__ import annotations

import streamlit as st

from app.dense import DENSE_PATH, layer_slider, ratio_slider
from app.figures import learn as figures
from app.job_panels import job_panel, own_job, start
from app.jobs import Job
from app.lessons import work
from app.lessons.base import PAPER, Lesson, Link, need_dense
from app.lessons.findings import about_drift
from app.settings import PageEnd
from app.tiles import Tile, tiles
from app.widgets import figure
from rcpu.models import SITES


def picture() -> None:
    """Error without repair over layers and over ratios."""
    dense = need_dense()
    layouts = {site: dense.layout(site) for site in SITES}
    key = work.drift_key(dense.found, dense.layers, dense.config)
    found = work.drifts().known(key)
    if found is None:
        job = own_job("drift")

        def queue() -> Job:
            return work.drift_job(dense.model, dense.found, dense.layers, dense.config, layouts)

        if job is None or job.state == "done":  # of other settings
            start("drift", queue)
        else:
            job_panel(job)
            if not job.active and st.button("Add up the drift of every layer", type="primary"):
                start("drift", queue)
        raise PageEnd
    left, right = st.columns(2)
    with left:
        ratio = ratio_slider()
    with right:
        layer = layer_slider(dense.layers)
    nearest = min(range(len(work.RATIOS)), key=lambda i: abs(work.RATIOS[i] - ratio))
    at_ratio = {site: {i: e[nearest] for i, e in by.items()} for site, by in found.errors.items()}
    tiles(*(Tile(f"Drift of {site}, layer {layer}", f"{at_ratio[site][layer]:.1%}") for site in SITES))
    figure(
        figures.drift_over_layers(at_ratio, ratio, layer),
        "lesson-drift-layers",
        "‖Y − Z‖ ÷ ‖Y‖ = ‖W_R X_R‖ ÷ ‖Y‖ of each projection when it alone is pruned and nothing is repaired. The "
        f"columns R are those of the lowest score (in o_proj, groups of columns by the sum of theirs). Source: "
        f"{PAPER}.",
    )
    st.markdown(about_drift(at_ratio, ratio))
    figure(
        figures.drift_over_ratios(work.RATIOS, {site: by[layer] for site, by in found.errors.items()}, layer, ratio),
        "lesson-drift-ratios",
        "The same error of one layer at every ratio, from the same sums: the columns of lowest score leave first, and "
        f"each ratio removes those of the lower ratios too. Source: {PAPER}.",
    )
    st.caption(DENSE_PATH)


LESSON = Lesson(
    short="Why outputs drift",
    title="Why outputs drift",
    idea="What the removed columns would have added is now missing from every output.",
    formula=r"Y - Z \;=\; W X - W_K X_K \;=\; W_R X_R",
    formula_says="$K$ are the columns that are kept, $R$ those that are removed. $\\lVert \\cdot \\rVert$ is the "
    "length of a matrix, all its numbers taken as one long vector.",
    steps=(
        "Let the model read some text (that is **calibration**, and the pieces of text are **windows**) and write "
        "down the inputs of one projection, one column a token: the matrix $X$. Before pruning its outputs are "
        "$Y = WX$; after it only the kept columns are left: $Z = W_K X_K$.",
        "The difference is exactly what the removed columns would have added, $W_R X_R$. It is no random noise: "
        "the same columns are missing at every token. The outputs have **drifted**.",
        "We measure the drift as a share: $\\lVert Y - Z \\rVert \\div \\lVert Y \\rVert$. At 0 nothing is lost, "
        "at 1 the error is as large as the output itself.",
        "$Y$ is added to what every later layer reads. Now $Z$ is added instead, so the inputs of all later layers are "
        "off, and their outputs drift as well. In the end the text that the model writes gets worse. The pictures "
        "here show every projection pruned *alone*; lesson 6 follows the drift along the layers.",
    ),
    task="Move the ratio and see the drift of every layer. Which one is hurt most? Choose it as *Layer*: the "
    "second picture shows it at every ratio. (A layer hardly drifts where a few enormous inputs, which stay, make "
    "most of its output.)",
    question="Could we avoid the drift by choosing *better* which columns leave?",
    answer="Only in part. A good score finds the columns that carry least, but most of those carry something too: look "
    "at the second picture, where the first step already removes 5%. What is left to do is to **change the "
    "columns that stay** so that their sum comes near to $Y$ again. That is compensation, and the next lesson "
    "shows RCPU's way.",
    links=(
        Link("Show me the scores of all layers", "importance", {"view": "layers", "site": "down_proj"}),
        Link(
            "Show me which layers have a few enormous inputs",
            "calibration",
            {"calibration_view": "inputs", "site": "down_proj", "heat": "mean_absolute"},
        ),
    ),
    settings={"ratio": 0.2, "layer": 0},
    picture=picture,
)
