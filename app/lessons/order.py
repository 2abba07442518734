"""Lesson 6: what the order of the two projections is worth."""

from __future__ import annotations

import streamlit as st

import rcpu
from app.dense import ratio_slider
from app.figures import learn as figures
from app.figures.small import NAMES
from app.job_panels import job_panel
from app.lessons import work
from app.lessons.base import PAPER, Lesson, Link, job_button, need_net
from app.lessons.findings import about_orders, shown
from app.runs import described, session_runs
from app.settings import settings
from app.tiles import Tile, tiles
from app.widgets import figure, plain


def picture() -> None:
    """The first layers pruned in both orders."""
    model = need_net()
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    with left:
        ratio_slider()
    with right:
        job = job_button(
            "Prune in both orders",
            "orders",
            lambda: work.orders_job(model, settings().recipe("columns"), settings().eval_text),
        )
    if job is None:
        st.caption(
            f"Nothing pruned yet. Two runs of layers 0 to 3 on {work.ORDERED['samples']} windows, then four "
            "perplexities: the slowest of the lessons, about two minutes on two cores."
        )
        own_run(model)
        return
    job_panel(job)
    if job.state != "done":
        return
    made = job.result
    if job.asks != work.orders_asked(model, settings().recipe("columns"), settings().eval_text):
        st.info("The controls have changed since: press the button to prune as they say.", icon=":material/info:")
    pruned = made.config.layers
    some = made.perplexity["dense"]
    st.caption(f"Perplexity on {some.windows} windows of {some.window} tokens of the evaluation text; lower is better:")
    labels = {"dense": "Dense", **figures.ORDER_NAMES}
    tiles(*(Tile(label, shown(made.perplexity[name].perplexity)) for name, label in labels.items()))
    st.markdown(about_orders(made.drift, {k: p.perplexity for k, p in made.perplexity.items()}, pruned[-1]))
    st.markdown(
        "The distance from the dense stream counts all directions alike, perplexity only what the next token depends "
        "on: a repair that hardly changes the one may win back much of the other."
    )
    figure(
        figures.order_drift(made.drift, pruned),
        "lesson-order-drift",
        f"The distance of the stream ĥ after each layer from h, that of the dense model, on held-out windows, "
        f"relative to its length, as a mean over tokens. Only the shaded layers are pruned; the later ones pass the "
        f"drift on. "
        f"Source of the orders: {PAPER}, which measures both first.",
    )
    figure(
        figures.order_gains(made.drift, pruned),
        "lesson-order-gains",
        "1 − (‖h − ĥ‖ ÷ ‖h‖ repaired) ÷ (the same not repaired), after each pruned layer: what the lines above differ "
        f"by, where they lie too close to tell apart. Below 0 the repair moves the stream away. Source: {PAPER}.",
    )


def own_run(model: rcpu.Model) -> None:
    """What the last run on Start or Prune cost in perplexity, for a first idea of what repair is worth."""
    measured = [run.story for run in session_runs().values() if run.model is model and run.story.perplexity]
    if measured:
        st.markdown(f"For a first idea, **your last run**: {plain(described(measured[-1].config))}.")
        found = measured[-1].perplexity
        tiles(*(Tile(NAMES[role].capitalize(), shown(p.perplexity)) for role, p in found.items()))


LESSON = Lesson(
    short="Which one first",
    title="o_proj before down_proj? What the order is worth",
    idea="Repair a projection for the inputs it will really get: go through the model from front to back.",
    formula=r"\begin{gathered} h' = h + \mathrm{attention}(h) \\ h'' = h' + \mathrm{mlp}(h') \end{gathered}",
    formula_says="$h$ is the **stream**, the vector that runs through all layers. Within a layer the MLP reads "
    "what attention has written; never the other way round.",
    steps=(
        "Everything that a pruned projection gets wrong changes the inputs of all that follow. A repair that was "
        "fitted to the *old* inputs then no longer fits quite. So layers are pruned front to back, and each is "
        "calibrated on what the pruned layers before it hand on.",
        "The same question comes up inside a layer: `down_proj` comes after `o_proj`. Two orders are possible.",
        "**The paper's order**: both measured, then repaired. One pass through the dense layer gives the inputs of "
        "both. Cheap, but `down_proj` is repaired for inputs from before `o_proj` was pruned.",
        "**o_proj first**: it is repaired, then the layer runs again, and `down_proj` is repaired for the inputs it "
        "will really get. One more pass for each layer. (The reverse, `down_proj` first, would change nothing for "
        "`o_proj`: it lies upstream.)",
    ),
    task="Press *Prune in both orders*: the first four layers are pruned in both orders and repaired by RCPU's "
    "rotation. Compare the drift along the layers and the **perplexity** (how surprised the model is by "
    "real text: one of 20 is that of guessing among 20 equally likely tokens each time). How large is the difference, "
    "compared with repairing at all?",
    question="Why not prune the *last* layer first, while its inputs are still those of the dense model?",
    answer="Because they would not stay so. As soon as an earlier layer is pruned, the inputs of the last one "
    "change, and its repair was fitted to inputs that no longer occur. Front to back, every *layer* is repaired "
    "for what the layers before it really hand on. The order of the two projections within a layer is the same "
    "thought in small, and matters as much or as little as the sentence below the tiles says.",
    links=(Link("Set the order on the Prune page", "prune", {"order": "site", "compensation": "rotation"}),),
    settings={"ratio": 0.3},
    picture=picture,
)
