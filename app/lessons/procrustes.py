"""Lesson 3: the best rotation, with points that a person drags."""

from __future__ import annotations

import streamlit as st
import torch

from app.figures import learn as figures
from app.lessons.base import PAPER, Lesson, Link
from app.lessons.drag import drag, format_points, parse_points
from app.lessons.findings import about_fit
from app.settings import control, settings, write_url
from app.tiles import Tile, tiles
from app.widgets import downloads
from rcpu.explain import fit

#: Points, targets first: the text of drag.py.
_TARGETS = "-1.4,-1.2;1.6,-1.2;1.6,-0.2;-0.2,0.3;-0.6,1.8;"
EXAMPLES = {
    "Turned and noisy": _TARGETS + "-1.92,0.53;-0.28,-2.42;0.47,-1.99;0.41,0.35;1.65,1.2",
    "Turned": _TARGETS + "-1.84,-0.02;0.45,-1.95;1.1,-1.18;0.04,0.36;0.7,1.76",
    "Mirrored": _TARGETS + "0.61,-1.74;-1.99,-0.24;-1.49,0.63;0.32,0.16;1.42,1.26",
    "Half as large": _TARGETS + "-0.7,-0.6;0.8,-0.6;0.8,-0.1;-0.1,0.15;-0.3,0.9",
    "Squeezed flat": _TARGETS + "-1.4,-0.36;1.6,-0.36;1.6,-0.06;-0.2,0.09;-0.6,0.54",
}
FIRST = next(iter(EXAMPLES.values()))


def picture() -> None:
    """Points to drag and the best rotation for them."""
    s = settings()

    def set_points(text: str) -> None:
        s.points = text

    def dragged(text: str) -> None:
        set_points(text)
        st.session_state["lesson_example"] = None

    def example() -> None:
        if name := st.session_state["lesson_example"]:
            set_points(EXAMPLES[name] if name != next(iter(EXAMPLES)) else "")
            st.session_state["lesson_stamp"] = st.session_state.get("lesson_stamp", 0) + 1

    @st.fragment
    def plane() -> None:
        st.pills("Examples", list(EXAMPLES), key="lesson_example", on_change=example)
        control(st.toggle, "Rotations only: no mirror (det Q = +1)", "proper")
        y, z = parse_points(s.points) or parse_points(FIRST)
        found = fit(torch.tensor(y).T, torch.tensor(z).T, s.proper)
        mirror = found.determinant < 0
        before = "‖Y − Z‖ ÷ ‖Y‖; above 1 where Z points so far away from Y that zeros would be nearer"
        tiles(
            Tile("Mirror's axis" if mirror else "Angle", f"{found.angle:.1f}°"),
            Tile("det Q", f"{found.determinant:+d}".replace("-", "−"), help="+1: a turn; −1: a mirror"),
            Tile("Error before", f"{found.before:.3f}", help=before),
            Tile("Error after", f"{found.after:.3f}", help="‖Y − QZ‖ ÷ ‖Y‖"),
        )
        stamp = f"{st.session_state.get('lesson_stamp', 0)} {s.lesson}"
        drag(y, z, found.turned.T.tolist(), stamp, dragged)
        st.markdown(about_fit(found.determinant, found.angle, found.before, found.after, found.free))
        with st.expander("What am I looking at?"):
            first, second = found.singular_values
            formula = "Q = U diag(1, det UVᵀ) Vᵀ, the best without a mirror," if s.proper else "Q = UVᵀ"
            st.markdown(
                f"M = YZᵀ = USVᵀ has the singular values {first:.3g} and {second:.3g}; {formula} is computed at "
                "every move. "
                "The relative errors are ‖Y − Z‖ ÷ ‖Y‖ and ‖Y − QZ‖ ÷ ‖Y‖. Source: P. Schönemann, *A generalized "
                f"solution of the orthogonal Procrustes problem*, 1966, as {PAPER} uses it."
            )
            downloads(figures.plane(y, z, found.turned.T.tolist()), "plane")
            st.caption("The points as this page's address holds them, the targets Y first:")
            st.code(format_points(y, z), language=None, wrap_lines=True)
        write_url()

    plane()


LESSON = Lesson(
    short="Procrustes in 2-D",
    title="The best rotation: orthogonal Procrustes",
    idea="Of all turns and mirrors, one brings the points nearest to their targets; a singular value decomposition "
    "finds it.",
    formula=r"\begin{gathered} Q = \operatorname*{arg\,min}_{Q^\top Q = I} \lVert Y - QZ \rVert_F \\[1ex] "
    r"Y Z^\top = U S V^\top \;\Rightarrow\; Q = U V^\top \end{gathered}",
    formula_says="$Q$ turns or mirrors, and never stretches. $\\lVert \\cdot \\rVert_F$ is the length of a "
    "matrix, all its numbers taken as one long vector.",
    steps=(
        "We have the outputs $Z$ of the pruned projection and want the targets $Y$. A simple repair is to "
        "multiply all outputs by one matrix $Q$. It costs nothing when the model runs: $Q W_K$ simply replaces "
        "$W_K$.",
        "RCPU allows only **orthogonal** $Q$: turns and mirrors. Lengths stay as they are, so $Q$ cannot blow up "
        "noise, and it has fewer freedoms to tune than an arbitrary matrix. To find the best one is the "
        "*orthogonal Procrustes problem*, and one SVD of $YZ^\\top$ solves it exactly.",
        "Missing columns may turn, shrink and flatten the cloud of outputs, and all that $Q$ can do is turn or mirror "
        "it. (We call $Q$ a *rotation* even where it mirrors.) The points here are made up; lesson 5 measures how much "
        "of a real error $Q$ takes away.",
        "Here the outputs have 2 numbers instead of hundreds, so you can see it. **Blue** circles: the targets "
        "$Y$. **Orange** squares: what pruning left of them, $Z$. **Green**, dashed: $QZ$, the same turn for all. "
        "A circle and a square of equal number belong together; a thin grey line leads from each circle to its "
        "green point: the error that remains.",
    ),
    task="Drag any circle or square (or focus it with Tab and use the arrow keys, with Shift for larger steps). "
    "Green follows. Can you make $Q$ a mirror, ${\\det Q = -1}$? (Let the "
    "squares 1 and 2 change places.) Try the examples too.",
    question="Take the example *Half as large*: $Z$ is $Y$ at half its size. Why does the best rotation not help "
    "at all?",
    answer="Nothing has to be turned, so $Q = I$, and an orthogonal matrix cannot change lengths: the error stays "
    "at 0.5. The paper therefore also tries one factor $s$ for all, $W_K \\leftarrow s\\,Q W_K$ (*Rotation and "
    "scale* on the Prune page), which would be 2 here. A matrix that need not be orthogonal can do this and much "
    "more; lesson 5 shows what that freedom costs.",
    links=(
        Link(
            "Show me a real rotation, in the three main directions of the outputs",
            "rotation",
            {"spectrum": "space", "layer": 5, "site": "o_proj", "ratio": 0.2},
        ),
        Link("Prune with rotation and scale", "prune", {"compensation": "rotation_scale", "ratio": 0.2}),
    ),
    settings={"points": "", "proper": False},
    picture=picture,
)
