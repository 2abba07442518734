"""Lesson 4: why the score looks at variance."""

from __future__ import annotations

import streamlit as st
import torch

from app.dense import DENSE_PATH, layer_slider, ratio_slider
from app.figures import learn as figures
from app.lessons.base import PAPER, Lesson, Link, need_dense, site_control
from app.lessons.findings import about_variance
from app.tiles import Tile, percent, tiles
from app.widgets import figure, table
from rcpu.explain import constant_error, factors, without
from rcpu.methods import remove

SWAPS = 8  # channels in the table


def picture() -> None:
    """Which channels leave with the variance in the score, and which without."""
    dense = need_dense()
    site = site_control()
    left, right = st.columns(2, vertical_alignment="bottom")
    with left:
        layer = layer_slider(dense.layers)
    with right:
        ratio = ratio_slider()
    asked, layout = dense.projection(layer, site), dense.layout(site)
    parts = factors(asked.weight, asked.x)
    removals = {
        "with": remove(without(parts, None), layout, ratio),
        "without": remove(without(parts, "variance"), layout, ratio),
    }
    kept, errors = {}, {}
    for name, removal in removals.items():
        kept[name] = torch.zeros(asked.weight.shape[1], dtype=torch.bool)
        kept[name][removal.columns] = True
        found = {"none": asked.plain_error(removal.columns), "bias": constant_error(asked, removal.columns)}
        errors[name] = {k: e.calibration if e.held_out is None else e.held_out for k, e in found.items()}
    swapped = ~kept["with"] & kept["without"]
    gone = int((~kept["with"]).sum())
    tiles(
        Tile("Channels that differ", f"{int(swapped.sum()):,}", f"of {gone:,}"),
        *(
            Tile(
                f"Error {name} Var",
                percent(found["none"]),
                f"{percent(found['bias'])} with a bias",
                help="RCPU adds no bias. This is the error if one constant vector replaced the mean of what was lost",
            )
            for name, found in errors.items()
        ),
    )
    deviation = asked.x.variance.sqrt()
    figure(
        figures.channels(
            asked.x.mean_absolute, deviation, kept["with"], kept["without"], f"Inputs of layer {layer} {site}"
        ),
        "lesson-channels",
        "One mark an input channel: mean|x| over tokens, and the standard deviation over tokens, both from the "
        "calibration windows. RCPU removes the lowest ‖W_j‖ · mean|x_j| · Var(x_j), in o_proj the lowest sums of it "
        "over the columns that leave together; the other score leaves Var out. "
        f"Source: {PAPER}.",
    )
    st.markdown(about_variance(int(swapped.sum()), gone, errors, asked.held_out is not None))
    if swapped.any():
        ids = swapped.nonzero().flatten()
        constant = asked.x.mean**2 / (asked.x.mean**2 + asked.x.variance).clamp_min(1e-30)
        ids = ids[constant[ids].argsort(descending=True)][:SWAPS]
        with st.expander("Channels that leave only because variance counts, the most constant first"):
            table(
                {
                    "channel": ids.tolist(),
                    "mean|x|": [round(v, 5) for v in asked.x.mean_absolute[ids].tolist()],
                    "standard deviation": [round(v, 5) for v in deviation[ids].tolist()],
                    "constant part of mean(x²) (%)": [round(100 * v, 1) for v in constant[ids].tolist()],
                },
                "lesson-swaps",
            )
            st.caption("The constant part is mean(x)² ÷ mean(x²): 100% for an input that never changes.")
    st.caption(DENSE_PATH)


LESSON = Lesson(
    short="Why variance",
    title="Why the score looks at variance",
    idea="A large input that never changes tells tokens apart no better than a constant does.",
    formula=r"\gamma_j = \lVert W_{:,j} \rVert \cdot \operatorname{mean}|x_j| \cdot \operatorname{Var}(x_j)",
    formula_says="Importance of column $j$: weight, size of its input, and how much that input changes.",
    steps=(
        "Which columns matter least? A first answer: those with small weights and small inputs, "
        "$\\lVert W_{:,j}\\rVert \\cdot \\operatorname{mean}|x_j|$.",
        "Now think of an input that is 3 at every token. Its product is large, yet it adds the *same* vector "
        "$3\\,W_{:,j}$ to every output. It says nothing about the token, and one constant vector (a **bias**) "
        "could stand in for it.",
        "So RCPU multiplies by the **variance** over tokens: a channel that hardly changes scores low however "
        "large it is, and one that reacts to the text is kept. RCPU itself adds *no* bias, so whether this pays "
        "has to be measured. The sentence under the picture compares both scores without repair and with a bias; it "
        "does not measure RCPU's rotation.",
        "In the picture each mark is one input channel: to the right it is larger, further up it changes more. "
        "Orange crosses leave only if variance is ignored, green diamonds only if it counts.",
    ),
    task="Where do the green diamonds lie? Look for one to the lower right of its crowd, calm for its size. The first "
    "row of the table below the picture, if there is one, names the most constant of them. Then try other layers, and "
    "`o_proj`.",
    question="Two channels with equal weights: A has mean|x| 2 and variance 0.001, B has mean|x| 0.3 and variance "
    "0.2. Which one does RCPU remove, and what is lost with it?",
    answer="A: 2 · 0.001 = 0.002 against 0.3 · 0.2 = 0.06. What is lost is almost the same vector at every token, "
    "and so the plain error is even *larger* than without B: mean(x²) is about 4 for A and at most 0.29 for B. But a "
    "bias mends the loss of A nearly whole. A rotation adds no constant of its own: it can only turn the mean that the "
    "kept columns still have. So RCPU's own repair may leave much of this loss, and nothing on this page measures how "
    "much. In the small model that comes with the app, with 16 windows of its own text and a ratio of 20%, variance "
    "helps in most layers of `down_proj` when nothing is repaired, and in `o_proj` hardly more often than it does "
    "harm; with a bias it helps in most layers of both. With other settings it may differ. Take a score as a guess, "
    "and measure.",
    links=(
        Link("Show me the three factors", "importance", {"view": "factors"}),
        Link("Compare with other scores of the field (WANDA-sp, FLAP)", "importance", {"view": "scorers"}),
    ),
    settings={"ratio": 0.2, "layer": 12, "site": "down_proj"},
    picture=picture,
)
