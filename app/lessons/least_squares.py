"""Lesson 5: least squares against rotation as calibration grows."""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from app.dense import DENSE_PATH, layer_slider, ratio_slider
from app.figures import learn as figures
from app.job_panels import job_panel
from app.jobs import Job
from app.lessons import work
from app.lessons.base import PAPER, Lesson, Link, job_button, need_net, site_control
from app.lessons.findings import about_crossing
from app.settings import control, settings
from app.tiles import Tile, tiles
from app.widgets import figure
from rcpu.explain import RIDGES, squares

WORDS = (
    "‖Y − Ŷ‖ ÷ ‖Y‖, with Ŷ the output after pruning and repair, on 16 held-out windows (solid) and on the calibration "
    "windows themselves (dotted). Each point is what a run that prunes this projection alone would do with so many "
    "windows: scores, kept columns and repair come from those alone. Hover over a point for its tokens and how many "
    "they are for each kept input. With much text a dotted line may end above its solid one: the two are errors on "
    f"different texts. Source of both repairs: {PAPER}."
)


def picture() -> None:
    """Errors over more and more calibration windows."""
    model = need_net()
    site = site_control()
    left, right = st.columns(2, vertical_alignment="bottom")
    with left:
        layer = layer_slider(tuple(range(model.net.config.num_hidden_layers)))
    with right:
        ratio_slider()
    names = {str(r): f"{r:g}" for r in RIDGES}
    left, right = st.columns(2, vertical_alignment="bottom")
    with left:
        ridge = control(
            st.segmented_control,
            "Ridge λ",
            "curve_ridge",
            options=list(names),
            format_func=names.get,
            required=True,
            help="Of least squares, in units of the mean diagonal entry of X_K X_Kᵀ: the larger, the nearer to W_K",
        )

    def lines(made: work.Growth) -> go.Figure:
        title = f"Layer {made.layer} {made.site}, {made.ratio:.0%} removed"
        return figures.growing(made.steps, squares(float(ridge)), title)

    def growing(job: Job) -> None:
        if job.partial and job.partial.steps:
            figure(lines(job.partial), "lesson-growing", WORDS)

    with right:
        job = job_button("Measure", "curve", lambda: work.growth_job(model, settings().recipe("columns"), layer, site))
    if job is None:
        st.caption("Nothing measured yet. It takes seconds in the first layers, and longer in every layer further up.")
        return
    job_panel(job, growing)
    if job.state != "done":
        return
    made = job.result
    if job.asks != work.growth_asked(model, settings().recipe("columns"), layer, site):
        st.info("The controls have changed since: press the button to measure what they say.", icon=":material/info:")
    key, first, last = squares(float(ridge)), made.steps[0].held_out, made.steps[-1].held_out
    st.caption(
        f"Held-out error with {made.steps[-1].windows} windows, and with the least text. It changes even where nothing "
        "is repaired, because the text also chooses which columns leave:"
    )
    labels = {"none": "Not repaired", "rotation": "Rotation", key: "Least squares"}
    least = f"{made.steps[0].windows} window{'s' * (made.steps[0].windows > 1)}"
    tiles(*(Tile(label, _error(last[name]), f"{_error(first[name])} with {least}") for name, label in labels.items()))
    figure(
        lines(made),
        "lesson-growth",
        WORDS,
    )
    st.markdown(about_crossing(made.steps, float(ridge)))
    st.caption(DENSE_PATH)


def _error(value: float | None) -> str:
    return "no solution" if value is None else f"{value:.4f}"


LESSON = Lesson(
    short="Rotation or least squares",
    title="Least squares against rotation",
    idea="The freest repair is best on the text it was fitted to, and may be worse on any other.",
    formula=r"\min_A \; \lVert Y - A X_K \rVert_F^2 + \lambda \lVert A - W_K \rVert_F^2",
    formula_says="Least squares looks for any weight $A$; $\\lambda$ (the ridge) pulls it back to $W_K$. It is "
    "given in units of the mean diagonal entry of $X_K X_K^\\top$.",
    steps=(
        "Why only turn? One could ask for the best of *all* weights: **least squares**. The rotated weight is one "
        "of its choices, so on the text it is fitted to it does no worse than the rotation, unless $\\lambda$, the "
        "**ridge** in the formula below, is strong and holds it back.",
        "But it tunes every single weight, and learns from the calibration text only, cut into **windows** of 128 "
        "tokens. With few tokens for each input it also fits their accidents: it **over-fits**, and on other text "
        "the error grows. With a weak ridge the middle is worst, where there are about as many tokens as kept "
        "inputs (the grey line in the picture). With far fewer, the ridge holds it at $W_K$ in all directions that "
        "the text does not reach.",
        "The rotation has fewer freedoms and cannot stretch: because it keeps lengths, its error cannot grow without "
        "bound, as that of least squares can in that middle. But it has no ridge to hold it at $W_K$, so with very "
        "little text it may be the worse of the two, and with plenty it may be left behind.",
        "So we calibrate on 1, 2, 4, … 128 windows and look at **held-out** windows, text that no repair has seen. "
        "Where the solid line of least squares finally falls below that of the rotation, freedom pays.",
    ),
    task="Press *Measure*: the lines grow as windows come. Compare dotted (the windows it was fitted to) with "
    "solid (held-out). Then choose a stronger ridge: what does it do to the crossing?",
    question="Why can even the rotation be worse than no repair when there are only a few windows?",
    answer="$Q$ is estimated too. In the 576 dimensions of the small model a rotation has 576 · 575 ÷ 2 = 165,600 "
    "free angles (least squares has 576 · 468 = 269,568 free weights in `o_proj` at a ratio of 20%), and one "
    "window of 128 tokens is little to learn them from. The rotation has no ridge: one choice less, but "
    "nothing to hold it back. The paper reports the same need for text with LLaMA-7B: with 8 windows the "
    "pruned model breaks down (its *perplexity*, how surprised it is by "
    "real text, shoots up), and from 64 on it hardly changes. Mind the other side too: with a ridge that suits, "
    "least squares may be ahead from the start. Which repair is best depends on your text and your model.",
    links=(
        Link("Show me how far the tokens reach", "calibration", {"calibration_view": "reach"}),
        Link("Prune with least squares", "prune", {"compensation": "least_squares"}, {"ridge": "curve_ridge"}),
    ),
    settings={"ratio": 0.2, "layer": 5, "site": "o_proj", "curve_ridge": "0.0001"},
    picture=picture,
)
