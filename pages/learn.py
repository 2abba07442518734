"""Learn: seven short lessons, each with a live picture, a task, and a question with its answer."""

import contextlib

import streamlit as st

import rcpu
from app.lessons import LESSONS
from app.lessons.base import SMALL, Link, measured
from app.lessons.drag import to_top
from app.settings import PREFIX, change, control, part, settings
from app.shared import current_model

LAST = Link("That was all: prune the model yourself", "prune", {"compensation": "rotation", "order": "paper"})
#: Pixels, of a page that has 980 less a scrollbar in a window of 1440, and 634 in one of 1024; the text takes the rest.
PICTURE_WIDTH = 558
s = settings()


def follow(link: Link) -> None:
    """Go where a link points, with the lessons' few windows where nothing was measured yet."""
    with contextlib.suppress(rcpu.RcpuError):  # the page there says what is wrong
        if not measured(current_model()):
            change(**SMALL)
    change(**link.settings, **{there: getattr(s, here) for there, here in link.carried.items()})
    st.switch_page(f"../pages/{link.page}.py")


def enter(lesson: int) -> None:
    """Go to a lesson and put its controls where they were left, or where it begins; dragged points always stay."""
    left = st.session_state.setdefault("lessons_left", {})
    left[s.lesson] = {name: getattr(s, name) for name in LESSONS[s.lesson].settings}
    wanted = LESSONS[lesson].settings | left.get(lesson, {})
    change(lesson=lesson, **{k: v for k, v in wanted.items() if k not in ("points", "proper")})


def reset(lesson: int) -> None:
    """Put the controls of a lesson where it begins; lessons have none for the chosen layers, so all are."""
    change(layers="all", **LESSONS[lesson].settings)
    st.session_state["lesson_example"] = None
    st.session_state["lesson_stamp"] = st.session_state.get("lesson_stamp", 0) + 1


s.lesson = min(max(s.lesson, 0), len(LESSONS) - 1)
with st.container(gap=None):
    st.title("Learn")
    to_top(s.lesson)
st.write(
    "RCPU ([arXiv 2510.07782](https://arxiv.org/abs/2510.07782)) makes a language model smaller and then repairs it "
    "with a rotation. Seven short lessons with numbers measured on a real model (only the points of lesson 3 are made "
    "up), for everyone who knows some linear algebra: no need to have read the paper."
)
number = control(
    st.segmented_control,
    "Lesson",
    "lesson",
    options=list(range(len(LESSONS))),
    format_func=lambda i: f"{i + 1} · {LESSONS[i].short}",
    required=True,
    width="stretch",
    label_visibility="collapsed",
    on_change=lambda: enter(st.session_state[PREFIX + "lesson"]),
)
lesson = LESSONS[number]
st.subheader(f"{number + 1}. {lesson.title}")
st.markdown(f"*{lesson.idea}*")
# Side by side where there is room for both, else the text above the picture.
both = st.container(horizontal=True, gap="medium")
text, picture = both.container(width="stretch"), both.container(width=PICTURE_WIDTH)
with text:
    for step in lesson.steps:
        st.markdown(step)
    st.latex(rf"{lesson.formula}\;")  # room for slanted last letters: else it scrolls by two pixels
    st.caption(lesson.formula_says)
with picture:
    with st.container(border=True):
        st.markdown(f":material/touch_app: **Try it.** {lesson.task}")
    part(lesson.picture)()
with st.container(border=True):
    st.markdown(f"##### :material/help: Question\n\n{lesson.question}")
    with st.expander("Answer", key=f"answer-{number}", on_change="rerun"):  # of its own: the next one stays shut
        st.markdown(lesson.answer)
with st.container(horizontal=True):
    for link in lesson.links:
        if st.button(link.label, key=f"link-{link.label}", icon=":material/arrow_outward:"):
            follow(link)
    st.button("Reset this lesson's controls", icon=":material/restart_alt:", on_click=reset, args=(number,))
with st.container(horizontal=True, horizontal_alignment="distribute"):
    if number:
        label = f"Back: {LESSONS[number - 1].short}"
        st.button(label, icon=":material/arrow_back:", on_click=enter, args=(number - 1,))
    if number + 1 < len(LESSONS):
        label = f"Next: {LESSONS[number + 1].short}"
        st.button(label, type="primary", icon=":material/arrow_forward:", on_click=enter, args=(number + 1,))
    elif st.button(LAST.label, type="primary", icon=":material/content_cut:"):
        follow(LAST)
