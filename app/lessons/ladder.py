"""Lesson 7: what beats the rotation, and when."""

from __future__ import annotations

import streamlit as st

from app.dense import layer_slider, ratio_slider
from app.figures.ladder import ladder
from app.job_panels import job_panel
from app.jobs import Job
from app.lessons import work
from app.lessons.base import PAPER, Lesson, Link, job_button, need_net, site_control
from app.lessons.findings import about_ladder
from app.settings import settings
from app.tiles import Tile, percent, tiles
from app.widgets import figure, numbers
from rcpu.explain import RUNGS

WORDS = (
    "‖Y − Ŷ‖ ÷ ‖Y‖ on 16 held-out windows; hover over a bar for the error on the windows it was fitted to. Each bar "
    "adds one ingredient to the one before. The rotation and the two bars beside it keep the columns of the RCPU score "
    f"({PAPER}); ridge: W_K + W_R G_RK (G_KK + λI)⁻¹ with λ = 0.3 of the mean diagonal; greedy: the channel goes whose "
    "loss costs least once the others have made up for it (optimal brain surgeon); narrowed values: an encoder in "
    "v_proj and a decoder in o_proj with as many parameters as the kept channels have."
)


def picture() -> None:
    """Held-out errors after each ingredient, with few and with many windows."""
    model = need_net()
    site = site_control()
    left, right = st.columns(2, vertical_alignment="bottom")
    with left:
        layer = layer_slider(tuple(range(model.net.config.num_hidden_layers)))
    with right:
        ratio_slider()

    def growing(job: Job) -> None:
        if job.partial and job.partial.rungs:
            figure(ladder(job.partial.rungs, _title(job.partial)), "ladder-growing", WORDS)

    config = settings().recipe("columns")
    job = job_button("Measure", "ladder", lambda: work.ladder_job(model, config, layer, site))
    if job is None:
        st.caption("Nothing measured yet. It takes seconds in the first layers, and longer in every layer further up.")
        return
    job_panel(job, growing)
    if job.state != "done":
        return
    made = job.result
    if job.asks != work.ladder_asked(model, config, layer, site):
        st.info("The controls have changed since: press the button to measure what they say.", icon=":material/info:")
    few, many = made.rungs[0], made.rungs[-1]
    best = {rung.windows: min(rung.held_out, key=rung.held_out.get) for rung in (few, many)}
    tiles(
        *(
            Tile(
                f"Best with {rung.windows} windows",
                percent(rung.held_out[best[rung.windows]]),
                RUNGS[best[rung.windows]].lstrip("… "),
                help=f"Nothing repaired: {percent(rung.held_out['none'])}",
            )
            for rung in (few, many)
        )
    )
    figure(ladder(made.rungs, _title(made)), "ladder", WORDS)
    numbers(
        {"ingredient": [RUNGS[name] for name in few.held_out]}
        | {f"{r.windows} windows, held-out": [round(v, 4) for v in r.held_out.values()] for r in made.rungs}
        | {f"{r.windows} windows, fitted": [round(v, 4) for v in r.calibration.values()] for r in made.rungs},
        "ladder",
    )
    st.markdown(about_ladder(made.rungs))


def _title(made: work.Ladder) -> str:
    return f"Layer {made.layer} {made.site}, {made.ratio:.0%} removed"


LESSON = Lesson(
    short="What beats the rotation",
    title="What beats the rotation, and when",
    idea="A well-damped fit beats a rotation where text is plenty; choosing for the fit beats choosing before it.",
    formula=r"\min_{K,\,V,\,b} \; \lVert Y - V X_K - b\mathbf{1}^\top \rVert_F^2 + \lambda \lVert V - W_K \rVert_F^2",
    formula_says="Everything at once: which columns $K$ stay, their weight $V$ and a bias $b$. Each ingredient of this "
    "lesson frees one of the three.",
    steps=(
        "Lesson 5 set least squares against the rotation. With a **strong ridge** the fit stays near $W_K$ wherever "
        "the text says little, so it needs less text than one would think.",
        "Means come first: what the removed columns gave **on average** is a constant, and a **bias** can carry it "
        "exactly. FLAP (AAAI 2024) does only that, and on a small model it already beats turning.",
        "A score of the start does not know what the repair can do. **Greedy** removal looks again after each channel: "
        "it lets go of those whose part the others can take over.",
        "And a head's values need not lose *channels*: they can be narrowed in **any direction**, with as many "
        "parameters. Our recipe `best-repair` adds what one layer cannot show: a budget shared by what a loss costs in "
        "nats, and a target that mends part of the error that earlier layers left. `best` **learns** first: "
        "one step along the gradient of the loss on the calibration text.",
    ),
    task="Press *Measure* and compare the groups: which bar is lowest with 8 windows, and which with 128? Then switch "
    "to `down_proj`, whose inputs are many: which ingredients still pay?",
    question="Why can everything together lose to a plain rotation, or to nothing at all, when there are few windows?",
    answer="Every ingredient is fitted to the same little text: the weight, the bias, the columns and the directions. "
    "Each may learn its accidents, and choices made for a fit trust it most. With 8 windows there are about a thousand "
    "tokens for as many inputs of `down_proj`. That is why `best` chooses its λ, its target and how far its allocation "
    "leaves the uniform one by what the text can carry.",
    links=(
        Link("See the greedy path", "importance", {"view": "greedy", "site": "down_proj"}),
        Link("See how narrow values could be", "importance", {"view": "values", "site": "o_proj"}),
        Link("Look up every method", "guide", {}),
    ),
    settings={"ratio": 0.2, "layer": 5, "site": "o_proj"},
    picture=picture,
)
