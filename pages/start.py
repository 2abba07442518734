"""Start: choose what goes and how the rest is repaired, press one button, and see in one look what that does."""

from __future__ import annotations

import html
from collections.abc import Callable

import streamlit as st

import rcpu
from app import spans
from app.chart import chart
from app.dense import offer_defaults, ratio_slider
from app.figures import small
from app.figures.base import COLORS
from app.job_panels import POLL, job_line, job_panel, own_job
from app.labels import COMPENSATIONS, SCORERS, called, shortened
from app.measuring import contents
from app.runs import described, remember, stories
from app.settings import change, control, settings, write_url
from app.shared import current_model, jobs, model_key
from app.story import ROLES, Evaluation, Story, example
from app.tiles import difference
from app.turns import turned
from app.widgets import count, plain, say
from app.work import prune_job
from rcpu.measure import first_divergence, word_diff, words
from rcpu.models import SITES

WAITING = "comes with the run"

s = settings()
with st.container(gap=None, key="start"):
    st.title("Start")
    st.write(
        "Take whole heads and channels out of a language model, repair the rest with a rotation, and see in one look "
        "what that does."
    )


def check(config: rcpu.Recipe) -> None:
    """Raise ``RcpuError`` for what the chosen model, where it is loaded, cannot do."""
    if model := current_model():
        rcpu.plan(model.net, config)


def run(config: rcpu.Recipe) -> None:
    """Queue what the controls say; a model that is not there yet is loaded first."""
    try:
        evaluation = Evaluation.of(s) if s.evaluate else None
        s.run = prune_job(current_model() or model_key(), config, evaluation=evaluation).id
        remember(s.run)
        change(compare="")
        st.rerun()
    except rcpu.RcpuError as error:
        say(error)


controls = st.container(horizontal=True, vertical_alignment="bottom", key="start-controls")
with controls:
    control(st.text_input, "Layers", "layers", max_chars=1000, help="`all`, or numbers and ranges like `0-3,7`")
    ratio_slider()
    control(st.selectbox, "Importance score", "scorer", options=list(SCORERS), format_func=called(SCORERS))
    control(st.selectbox, "Repair", "compensation", options=list(COMPENSATIONS), format_func=called(COMPENSATIONS))
pressed = controls.button("Run", type="primary", icon=":material/play_arrow:")
wanted = None
try:
    wanted = s.recipe("columns")
    check(wanted)
    if pressed:
        run(wanted)
except rcpu.RcpuError as error:
    say(error)
    offer_defaults(check)


def found() -> tuple[Story, str]:
    """The story to show, and the id of its run; an example if there is none yet."""
    job, runs = own_job("run"), stories()
    if job and job.active:
        return job.partial or Story(wanted or rcpu.Recipe()), job.id
    if runs:
        shown = s.run if s.run in runs else list(runs)[-1]
        return runs[shown].story, shown
    return example() or Story(wanted or rcpu.Recipe()), ""


def status(story: Story, run_id: str) -> None:
    """What is shown below, in a line; how far it is while it runs."""
    job = jobs().get(run_id)
    if job and job.active:
        job_line(job)
        return
    if failed := own_job("run"):
        job_panel(failed)
    before, after = story.parameters
    size = f"{count(before)} → {count(after)} parameters ({difference(after, before)})"
    if not run_id:
        st.caption(
            f":blue-badge[Example] SmolLM2-135M, {plain(described(story.config))}: {size}. Computed by "
            "`python -m app.example`; press **Run** for one of your own."
        )
    else:
        changed = ":orange-badge[The settings above have changed since]" if wanted != story.config else ""
        if story.content[:1] != contents(story.config.text):
            changed += ":orange-badge[The text was edited since]"
        notes = " ".join(story.notes)
        what = f"{described(story.config)}: {size}, {story.seconds:.0f} s."
        st.caption(f":green-badge[Your run] {plain(what)} {changed} {plain(notes)}")


def part(name: str, page: str, draw: Callable[[], None] | None, **there: object) -> None:
    """One of the six: a way to its page, and what it shows, or that it is still to come."""
    with st.container(border=True, key=f"part-{name.split()[0].lower()}", height="stretch"):
        if st.button(name, type="tertiary", icon=":material/arrow_outward:", help=f"Open it on the page {page}"):
            change(**there)
            st.switch_page(f"../pages/{page}.py")
        if draw is None:
            st.caption(WAITING)
        else:
            draw()


def texts(story: Story) -> None:
    """The prompt and what each model makes of it; what the dense one does not say is underlined."""
    first = story.texts.get("dense")
    lines = []
    for role in ROLES:
        if (made := story.texts.get(role)) is None:
            continue
        apart = first_divergence(words(first.text), words(made.text)) if first and role != "dense" else None
        parts = [(made.text, False)] if apart is None else word_diff(first.text, made.text)
        lines.append(
            f'<dt style="border-color:{COLORS[role]}">{small.NAMES[role]}</dt><dd>{spans.diff_spans(parts, apart)}</dd>'
        )
    prompt = html.escape(shortened(story.asked.prompt, 120))
    st.html(f'<div class="rcpu-told" tabindex="0"><i>{prompt} …</i><dl>{"".join(lines)}</dl></div>')


def look() -> None:
    """All six parts, and what of them can be moved."""
    story, run_id = found()
    line = st.container(horizontal=True, vertical_alignment="center", key="start-line")
    sites = {(r.layer, r.site): r for r in story.sites}
    names = [name for name in SITES if name in story.config.sites]
    with line:
        name = control(
            st.segmented_control, "Projection", "site", options=names, width="content", label_visibility="collapsed"
        )
        measured = sorted({r.layer for r in story.sites if r.site == name})
        if len(measured) > 1:
            layer = control(
                st.select_slider,
                "Layer",
                "layer",
                options=measured,
                label_visibility="collapsed",
                format_func=lambda i: f"layer {i}",
            )
        else:
            layer = measured[0] if measured else s.layer
            st.caption(f"Layer {layer}")
        with st.container():
            status(story, run_id)
    of, site = f"{run_id} {layer} {name}", sites.get((layer, name))
    spectral = site if site is not None and site.singular_values is not None else None

    def drawn(make: Callable, key: str, *what: object) -> Callable[[], None] | None:
        """How to draw a figure, if there is what it needs."""
        there = all(w is not None and w != () and w != {} for w in what)
        return (lambda: chart(make(*what), f"start-{key}", of, name=key)) if there else None

    with st.container(horizontal=True, key="parts"):
        part("Scores and the cut", "importance", drawn(small.scores, "scores", site), view="cut")
        shown = {"spectrum": "spectrum"}
        part("Spectrum of YZᵀ", "rotation", drawn(small.spectrum, "spectrum", spectral), **shown)
        shown = {"spectrum": "angles"}
        part("Angles of the rotation", "rotation", drawn(small.angles, "angles", turned(run_id, site)), **shown)
        errors = drawn(lambda found: small.errors(found, name, layer), "errors", story.sites)
        part("Error over layers", "prune", errors)
        part("Perplexity", "compare", drawn(small.perplexity, "perplexity", story.perplexity))
        part("Text", "compare", (lambda: texts(story)) if story.texts else None)
    write_url()


job = own_job("run")
busy = bool(job and job.active)


@st.fragment(run_every=POLL if busy else None)
def live() -> None:
    """Drawn again and again while the run goes on, and the page once more when it has ended."""
    if busy and not job.active:
        st.rerun()
    look()


live()
