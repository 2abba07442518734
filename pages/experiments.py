"""Experiments: the paper's studies on the model at hand, with a verdict for each of its claims."""

import json
from dataclasses import replace

import streamlit as st

import rcpu
from app.demo import limits
from app.experiments import check_allowed, drawn, known, study_job, verdict_table
from app.job_panels import job_panel, known_job, start
from app.kept import place
from app.labels import PAPER, shortened
from app.settings import PageEnd, control, settings
from app.shared import current_model
from app.widgets import abreast, figure, numbers, plain, say
from rcpu.runs import (
    QUANTITIES,
    SIZES,
    STUDIES,
    can_be_relative,
    markdown,
    numbers_of,
    report_html,
    result_rows,
    setup,
    sized,
)

WORDS = (
    "Every point is a model that was pruned, repaired and measured, seeds taken together; each vertical line is a 95 % "
    "interval of a bootstrap over windows (or items) and seeds, paired with the dense model where values are multiples "
    "of it. Faint lines are published numbers of another model, other windows and another text: their shape can be "
    f"compared, and as a multiple of the dense model their height, too. Source: {PAPER}."
)

st.title("Experiments")
st.write("The paper's tables and figures on your model, and for each of its claims whether it holds there.")
s, allowed = settings(), limits()
control(
    st.selectbox,
    "Study",
    "study",
    options=list(STUDIES),
    format_func=lambda name: f"{STUDIES[name].title} ({STUDIES[name].source})",
)
study = STUDIES[s.study]
st.markdown(f"**{plain(study.question)}**")

boxes = st.container(horizontal=True, gap="medium", key="boxes-study", vertical_alignment="bottom")
with boxes:
    control(
        st.segmented_control,
        "Size",
        "study_size",
        options=list(SIZES),
        help="; ".join(f"{k}: {v}" for k, v in SIZES.items()),
    )
    control(st.text_input, "Ratios", "study_ratios", max_chars=200, placeholder="of this size")
    control(st.text_input, "Seeds", "study_seeds", max_chars=200, placeholder="of this size")
    control(
        st.number_input,
        "Windows at most",
        "study_limit",
        min_value=2,
        max_value=allowed.eval_windows,
        help="Items, where tasks are measured",
    )
    control(st.text_input, "Evaluation text", "eval_text", max_chars=1000)
    control(
        st.selectbox,
        "Measured in",
        "study_precision",
        options=["", *rcpu.DTYPES],
        format_func=lambda kind: kind or "as loaded",
        help="bf16 takes two fifths of the time on a CPU",
    )


def counted(things: tuple, name: str) -> str:
    """How many there are."""
    return f"{len(things)} {name}{'s' * (len(things) > 1)}"


model = current_model()
try:
    asked = sized(
        study,
        s.study_size,
        model=s.model,
        text=s.text,
        evaluation=s.eval_text,
        seeds=numbers_of(s.study_seeds, int, "Seeds"),
        ratios=numbers_of(s.study_ratios, float, "Ratios"),
        limit=s.study_limit,
    )
    windows = {"samples": s.samples, "window": s.window, "held_out": s.held_out}
    asked = replace(asked, settings={**windows, **asked.settings})
    cells = study.cells(asked)
    check_allowed()
except rcpu.RcpuError as error:
    say(error)
    asked, cells = None, []
line = st.container(horizontal=True, vertical_alignment="center", key="study-start")
if asked is not None:
    with line:
        if model is None:
            st.page_link("../pages/model.py", label="Load a model to run it", icon=":material/arrow_forward:")
        elif st.button("Run the study", type="primary"):
            start("experiment", lambda: study_job(model, study, asked, s.study_precision))
        recipe = cells[0].recipe
        windows = "windows of" if "samples" in study.axes else f"{recipe.samples} ×"
        st.caption(
            f"{len(cells)} runs: {counted(asked.ratios, 'ratio')}, {counted(asked.seeds, 'seed')}; "
            f"calibrated on {windows} {recipe.window} tokens of {plain(shortened(s.text))}. What was run before is "
            "not run again."
        )
with st.expander(f"{len(study.claims)} claims"):
    for claim in study.claims:
        st.markdown(f"- {plain(claim.says)}")
    for note in study.notes:
        st.caption(plain(note))

job = known_job("experiment")
if job is not None:
    job_panel(job, lambda job: st.caption(f"{len(job.partial.points)} cells are done." if job.partial else ""))
    if job.state == "done":
        for note in job.result.failed:
            st.warning(plain(note), icon=":material/warning:")

if (why := place().why_not) and not allowed.demo:
    st.warning(plain(f"Studies are kept only until this app ends: {why}."), icon=":material/save:")
try:
    series = known(study.name)
except rcpu.RcpuError as error:
    say(error)
    raise PageEnd from error
series = [found for found in series if found.points]
if not series and allowed.demo:
    raise PageEnd
if not series:
    with st.container(border=True):
        st.markdown(
            "#### Nothing of this study has been run here\n\nRun it above, or from a terminal; cells that are finished "
            "stay, whatever ends the rest."
        )
        st.code(f"python -m rcpu study {study.name}", language="sh")
    raise PageEnd
called = {str(i): f"{setup(found)} · {len(found.points)} cells" for i, found in enumerate(series)}
shown = "0"
if len(series) > 1:
    shown = control(st.selectbox, "Run on", "study_series", options=list(called), format_func=called.get)
found = series[int(shown)]
st.subheader("Verdicts")
cut = "; ".join(found.cut)
st.caption(plain(f"{setup(found)}. {cut[:1].upper()}{cut[1:]}"))
for note in found.series["warnings"]:
    st.warning(plain(note), icon=":material/warning:")
st.html(verdict_table(found))

quantity = study.quantities[0]
left, right = st.columns(2)
if len(study.quantities) > 1:
    with left:
        quantity = control(
            st.segmented_control,
            "Shown",
            "study_quantity",
            options=list(study.quantities),
            format_func=lambda name: QUANTITIES[name].label.partition(",")[0],
        )
if can_be_relative(quantity):
    with right if len(study.quantities) > 1 else left:
        control(
            st.toggle, "As a multiple of the dense model", "study_relative", help="Models differ; multiples compare"
        )
made = drawn(found, quantity, s.study_relative)
for i in range(0, len(made), 2):
    halves = abreast(f"study-{i}") if len(made) > 1 else (st.container(),)
    for half, (n, fig) in zip(halves, enumerate(made[i : i + 2], i), strict=False):
        with half:
            figure(fig, f"study-{study.name}-{quantity}-{n}", WORDS, f"{study.name} {quantity} {s.study_relative}")
numbers(result_rows(found, quantity), f"study-{quantity}")

line = st.container(horizontal=True)
for label, kind, name, content in (
    ("Report", "text/html", f"{study.name}.html", lambda: report_html([found])),
    ("Markdown", "text/markdown", f"{study.name}.md", lambda: markdown(found)),
    ("JSON", "application/json", f"{study.name}.json", lambda: json.dumps(found.to_dict(), indent=1)),
):
    line.download_button(label, content, name, kind, on_click="ignore", icon=":material/download:")
