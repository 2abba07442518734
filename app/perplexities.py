"""The part of Compare that measures perplexity: with intervals, paired differences, and on several texts at once."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

import rcpu
from app import remembered
from app.demo import limits
from app.figures import compare as figures
from app.job_panels import job_panel, known_job, start
from app.labels import PAPER
from app.measuring import HELD_OUT, Measured, contents, measure_job
from app.remembered import text_asked
from app.runs import PLAIN, PrunedRun, Variant, known
from app.settings import control, control_names, settings
from app.story import Evaluation
from app.widgets import abreast, figure, plain, table
from rcpu.measure import difference

EDITED = "The text was edited since: what follows is of the text as it was then."
OFFERED = (HELD_OUT, "embedded", "wikitext2")
CALLED = {HELD_OUT: "the calibration text's held-out part"}


def perplexity_section(
    runs: Mapping[str, PrunedRun], chosen: dict[str, Variant], styles: Mapping[str, figures.Style], tokenizer: object
) -> None:
    """Widgets, the job, its warnings, figures and table."""
    s, allowed = settings(), limits()
    st.subheader("Perplexity")
    text, window, number, button = st.columns([3, 2, 2, 3], vertical_alignment="bottom")
    with text:
        control(
            st.text_input,
            "Evaluation text",
            "eval_text",
            help="`embedded`, a UTF-8 file, `wikitext2` or a hub data set",
        )
    with window:
        control(st.number_input, "Tokens a window", "eval_window", min_value=2, max_value=allowed.window, step=16)
    with number:
        control(
            st.number_input, "Windows at most", "eval_windows", min_value=1, max_value=allowed.eval_windows, step=16
        )
    more = control_names(
        "Beside it",
        "eval_more",
        OFFERED,
        format_func=lambda name: CALLED.get(name, name),
        accept_new_options=allowed.texts is None,
        max_selections=4,
        placeholder="Further texts, to see whether a model has learned its calibration text only",
    )
    more = tuple(name for name in more if name != s.eval_text)
    configs = [run.result.recipe for key, run in runs.items() if {key, key + PLAIN} & set(chosen)]
    calibrations = tuple(dict.fromkeys((c.text, c.samples, c.held_out) for c in configs))
    asked = s.eval_text, s.eval_window, s.eval_windows
    if button.button("Measure perplexity", type="primary", width="stretch"):
        start("measure", lambda: measure_job(tokenizer, chosen, *asked, more=more, calibrations=calibrations))
    job = known_job("measure")
    found = known(runs, chosen, Evaluation.of(s))
    if job is None:
        held_out = calibrations[-1] if calibrations else None
        questions = [
            text_asked(name, held_out if name == HELD_OUT else None, *asked[1:]) for name in (s.eval_text, *more)
        ]
        before, warnings = remembered.perplexities(chosen, questions)
        if len(before) == len(questions) and len(before) > bool(found.perplexity):
            for note in warnings:
                st.warning(plain(note), icon=":material/warning:")
            _shown(Measured(before), chosen, styles)
            return
    if job is None and found.perplexity:
        if found.edited:
            st.info(EDITED, icon=":material/info:")
        _shown(Measured({next(iter(found.perplexity.values())).text: found.perplexity}), chosen, styles)
        return
    if job is None:
        st.caption("Not measured yet.")
        return
    job_panel(job)
    if job.asks[1:5] != (*asked, more):
        text, window, most, further = job.asks[1:5]
        changed(f"measured on {', '.join((text, *further))}, at most {most} windows of {window} tokens")
    elif job.asks[-1] != contents(s.eval_text, *more):
        st.info(EDITED, icon=":material/info:")
    measured, of = job.result or job.partial or Measured({}), dict(job.asks[0])
    for note in measured.warnings:
        st.warning(plain(note), icon=":material/warning:")
    if job.state == "done":
        _shown(measured, {k: v for k, v in chosen.items() if of.get(k, v.identity) == v.identity}, styles)


def changed(what: str) -> None:
    """Results stay when settings move on, and say what they are of; that may be anything a person wrote."""
    st.info(f"The settings above have changed since: what follows is {plain(what)}.", icon=":material/info:")


def _shown(measured: Measured, chosen: Mapping[str, Variant], styles: Mapping[str, figures.Style]) -> None:
    by_text = {text: {k: v for k, v in found.items() if k in chosen} for text, found in measured.found.items()}
    if not all(by_text.values()):
        st.info("None of the chosen models was measured: measure again.", icon=":material/info:")
        return
    if any(len(found) < len(chosen) for found in by_text.values()):
        st.info("Not every chosen model was measured: measure again.", icon=":material/info:")
    first = next(iter(next(iter(by_text.values()))))
    gaps = {
        text: {k: difference(found[first], v) for k, v in found.items() if k != first}
        for text, found in by_text.items()
    }
    text = next(iter(by_text))
    if len(by_text) > 1:
        text = st.segmented_control("Text shown", list(by_text), default=text, required=True, key="shown-text") or text
    found = by_text[text]
    show_perplexities(found, styles)
    if any(gaps.values()) and len(by_text) > 1:
        figure(
            figures.difference_bars(gaps, styles, chosen[first].label),
            "perplexity-differences",
            "What pruning adds to the perplexity, in percent of the first model, on each text. A model that loses "
            "little on what it was calibrated on (the held-out part was kept back, but is of the same kind) and much "
            "on another text has been fitted to its calibration text. Each line is the 95 % interval of a paired "
            "bootstrap over windows.",
        )
    rows = [(text, k, p, gaps[text].get(k)) for text, found in by_text.items() for k, p in found.items()]
    table(
        {
            "text": [text for text, *_ in rows],
            "model": [chosen[k].label for _, k, *_ in rows],
            "perplexity": [round(p.perplexity, 3) for _, _, p, _ in rows],
            "95% interval": [figures.between(p) for _, _, p, _ in rows],
            f"more than {chosen[first].label}": ["" if gap is None else str(gap) for *_, gap in rows],
            "window": [p.window for _, _, p, _ in rows],
            "windows": [p.windows for _, _, p, _ in rows],
            "predictions": [p.tokens for _, _, p, _ in rows],
        },
        "perplexity",
    )


def show_perplexities(found: Mapping[str, rcpu.Perplexity], styles: Mapping[str, figures.Style]) -> None:
    """Both figures of one text."""
    left, right = abreast("perplexity")
    with left:
        figure(
            figures.perplexity_bars(found, styles),
            "perplexity",
            "exp of the mean negative log-likelihood of the next token, over windows that do not see one another: "
            "the protocol of the pruning papers. It can only be compared with numbers of the same text, window "
            "length and tokenizer. Each line spans the 95 % interval of a bootstrap over windows: where other windows "
            "of this text would lie. Intervals of two models may overlap although one is surely better, "
            f"because both find the same windows hard; the paired differences tell. Source: {PAPER}.",
        )
    with right:
        figure(
            figures.by_position({k: p.by_position for k, p in found.items()}, styles),
            "by-position",
            "exp of the mean loss at each distance from the start of a window. The first tokens have hardly any "
            "context and are hard for every model; where the curves draw apart, a model has lost the use of "
            f"longer context. Perplexity as at the left; {PAPER}.",
        )
