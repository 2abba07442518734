"""Lesson 1: what structured pruning removes."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

import rcpu
from app.dense import layer_slider, ratio_slider
from app.figures import learn as figures
from app.lessons.base import PAPER, Lesson, Link, need_dense
from app.lessons.findings import about_size
from app.settings import control
from app.tiles import Tile, difference, tiles
from app.widgets import count, figure
from rcpu.explain import outline
from rcpu.methods import remove
from rcpu.models import SITES, heads_of


def picture() -> None:
    """The matrices of one layer to scale, with what leaves."""
    dense = need_dense()
    left, right = st.columns(2, vertical_alignment="bottom")
    with left:
        ratio = ratio_slider()
    with right:
        layer = layer_slider(dense.layers)
    todo = rcpu.plan(dense.model.net, replace(dense.config, ratio=ratio, ratios=(), sites=SITES, layers=None))
    tiles(
        *(
            Tile(label, count(now, unit), f"{difference(now, before)} of {count(before, unit)}")
            for label, before, now, unit in (
                ("Parameters of the model", todo.before.parameters, todo.after.parameters, ""),
                ("Memory of its weights", todo.before.bytes, todo.after.bytes, "B"),
            )
        )
    )
    after = control(st.toggle, "Show what is left", "lesson_after")
    kept = {}
    for site in SITES:
        layout = dense.layout(site)
        kept[site] = remove(dense.scores(site)[layer], layout, ratio).columns
    drawn = outline(dense.model.net, layer, kept)
    blocks = [_stacks(drawn["o_proj"]), _stacks(drawn["down_proj"])]
    figure(
        figures.matrices(blocks, layer, after),
        "lesson-matrices",
        "The weight matrices of one layer to scale, attention above and MLP below: a side is as long as there are rows "
        "or columns. In down_proj the columns of the lowest score leave; in o_proj groups of columns leave, by the "
        "sum of their scores, and value channels are compared within their KV head. The rows that leave computed the "
        f"inputs of these columns. Source: {PAPER}.",
    )
    st.markdown(about_size(ratio, todo.before.parameters, todo.after.parameters))
    if dense.unit("o_proj") == "channel":
        heads = heads_of(dense.model.net)
        st.caption(
            f"This model shares keys and values between heads, so attention loses *value channels* here: a row of "
            f"v_proj and the {heads.query // heads.kv} columns of o_proj that it feeds, as many in each of "
            f"{heads.kv} KV heads (rounded down), while queries and keys stay. Models without sharing lose whole heads."
        )


def _stacks(matrices: list) -> list[list]:
    """Narrow matrices on top of one another, others side by side."""
    stacks: list[list] = []
    tallest = max(m.rows for m in matrices)
    for m in matrices:
        if stacks and sum(x.rows for x in stacks[-1]) + m.rows <= 0.75 * tallest:
            stacks[-1].append(m)
        else:
            stacks.append([m])
    return stacks


LESSON = Lesson(
    short="What goes",
    title="What structured pruning removes",
    idea="Whole columns of two matrices leave, and with each the row that made its input: the model gets smaller.",
    formula=r"y \;=\; W x \;=\; x_1\, W_{:,1} + x_2\, W_{:,2} + \dots",
    formula_says="Each input $x_j$ meets one column of $W$ and nothing else.",
    steps=(
        "A LLaMA is a stack of **layers**, and each layer has two blocks: **attention** and an **MLP**. Both end "
        "in one matrix that writes their result back to the rest of the model: `o_proj` for attention, "
        "`down_proj` for the MLP. These two are the **projections** that all lessons are about, and their inputs "
        "are **channels**. The model as it was before anything is removed is called **dense**.",
        "Take such a matrix $W$. Strike out its column $j$, and nobody reads the input $x_j$ any more. So the row "
        "that *computes* $x_j$ can go too: a row of `v_proj` for attention, a row of `gate_proj` and one of "
        "`up_proj` for the MLP. (Where heads share their values, one row of `v_proj` makes several inputs and leaves "
        "with all of them: three columns of `o_proj` in the small model.)",
        "That is **structured** pruning: matrices shrink, and any machine has less to do. Setting single weights "
        "to zero (unstructured pruning) leaves matrices as large as they were.",
        "Which columns? Those with the lowest **importance score**; lesson 4 is about it. Columns of `o_proj` leave in "
        "groups, by the sum of their scores. What share of the columns leaves is the **ratio**.",
    ),
    task="Move the ratio and watch the orange stripes: each is a column of `o_proj` or "
    "`down_proj`, or a row that fed it. Then switch on *Show what is left*.",
    question="You remove 20% of the columns in every layer. Why is the model not 20% smaller?",
    answer="Embeddings and norms stay whole, and so may queries and keys: the ratio counts *columns of two kinds of "
    "matrices*. Look at the tiles above: parameters shrink by less than the ratio, so always compare models by "
    "parameters or memory, and never by the ratio alone.",
    links=(
        Link("Show me the scores on the Importance page", "importance", {"view": "cut", "site": "down_proj"}),
        Link("Show me what a run would remove", "prune", {"compensation": "rotation", "order": "paper"}),
    ),
    settings={"ratio": 0.2, "layer": 0, "lesson_after": False},
    picture=picture,
)
