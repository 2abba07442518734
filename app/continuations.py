"""The parts of Compare that show texts: continuations side by side, and single tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import streamlit as st

import rcpu
from app import remembered, spans
from app.demo import limits
from app.figures import compare as figures
from app.job_panels import job_panel, known_job, start
from app.measuring import generate_job, these, tokens_job
from app.perplexities import changed
from app.runs import PrunedRun, Variant, known
from app.settings import change, control, settings
from app.story import Evaluation
from app.widgets import figure, numbers, table
from rcpu.measure import first_divergence, word_diff, words

PROMPTS = json.loads((Path(__file__).parent.parent / "assets" / "prompts.json").read_text(encoding="utf-8"))
MARKS = "Underlined: words that the first model did not write there. ◆ marks where a text leaves the first."


def text_section(runs: Mapping[str, PrunedRun], chosen: dict[str, Variant], tokenizer: object) -> None:
    """Widgets, the job, and what the chosen models write."""
    s, allowed = settings(), limits()
    st.subheader("Text")
    names = ["a prompt of your own"] + [p["label"] for p in PROMPTS]
    current = next((i + 1 for i, p in enumerate(PROMPTS) if p["prompt"] == s.prompt), 0)
    picked = st.selectbox(
        "Prompts", range(len(names)), current, format_func=lambda i: names[i], key=f"prompts-{current}"
    )
    if picked != current and picked:
        change(prompt=PROMPTS[picked - 1]["prompt"])
        st.rerun()
    control(st.text_area, "Prompt", "prompt", height=80, max_chars=allowed.prompt_characters)
    tokens, temperature, top_p, seed, button = st.columns([2, 2, 2, 2, 2], vertical_alignment="bottom")
    with tokens:
        control(st.number_input, "New tokens", "tokens", min_value=1, max_value=allowed.new_tokens, step=16)
    with temperature:
        control(
            st.number_input, "Temperature", "temperature", min_value=0.0, max_value=5.0, step=0.1, help="0 is greedy"
        )
    with top_p:
        control(st.number_input, "Top-p", "top_p", min_value=0.05, max_value=1.0, step=0.05)
    with seed:
        control(st.number_input, "Sampling seed", "gen_seed", min_value=0, max_value=2**31 - 1)
    options = {"max_new_tokens": s.tokens, "temperature": s.temperature, "top_p": s.top_p, "seed": s.gen_seed}
    if button.button("Generate", type="primary", width="stretch"):
        start("generate", lambda: generate_job(tokenizer, chosen, s.prompt, **options))
    labels = {key: variant.label for key, variant in chosen.items()}
    generated = known_job("generate")
    found = known(runs, chosen, Evaluation.of(s)).texts | remembered.texts(chosen, {"prompt": s.prompt, **options})
    if generated is None and found:
        show_texts(found, labels)
        st.caption(MARKS)
    elif generated is None:
        st.caption("No text yet: the models will continue the same prompt with the same seed, all at once.")
    else:
        job_panel(generated, lambda job: show_texts(these(job, chosen), labels))
        prompt, how = generated.asks[1:]
        if (prompt, how) != (s.prompt, tuple(options.items())):
            told = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in how)
            changed(f"the continuation of “{prompt[:80]}{'…' * (len(prompt) > 80)}” with {told}")
        made = these(generated, chosen)
        if not generated.active and not set(chosen) <= set(made):
            st.info("Not every chosen model wrote a text: generate again.", icon=":material/info:")
        if not generated.active and made:
            show_texts(made, labels)
            st.caption(MARKS)


def show_texts(found: Mapping[str, rcpu.Generated], labels: Mapping[str, str]) -> None:
    """One column a model; words that the first model did not write are marked. Text is shown as it is."""
    shown = [key for key in labels if key in found] if found else list(labels)
    first = found.get(shown[0])
    for i, (column, key) in enumerate(zip(st.columns(len(shown), gap="medium"), shown, strict=True)):
        with column.container(border=True):
            st.text(labels[key])
            made = found.get(key)
            with st.container(height=240, border=False):
                if made and i and first:
                    part = first_divergence(words(first.text), words(made.text))
                    st.html(spans.diff_spans(word_diff(first.text, made.text), part))
                else:
                    st.html(spans.diff_spans([(made.text if made else "", False)]))
            if made:
                end = ", ended by the model" if made.finished else ""
                part = first_divergence(words(first.text), words(made.text)) if i and first else None
                apart = f" · parts from {labels[shown[0]]} at word {part + 1}" if part is not None else ""
                st.caption(f"{made.tokens} tokens{end} · {made.tokens_per_second:.1f} tokens/s decoding{apart}")


def tokens_section(chosen: dict[str, Variant], styles: Mapping[str, figures.Style], tokenizer: object) -> None:
    """Widgets, the job, and what the chosen models make of every token of a text."""
    s, allowed = settings(), limits()
    st.subheader("Token by token")
    control(
        st.text_area,
        "Text to look at",
        "probe",
        height=80,
        max_chars=allowed.text_characters,
        help="Any text: each token is coloured by how badly a model predicted it",
    )
    kind, _, button = st.columns([3, 2, 2], vertical_alignment="bottom")
    with kind:
        control(
            st.segmented_control,
            "Colour",
            "colour",
            options=["loss", "divergence"],
            format_func={
                "loss": "loss (nats)",
                "divergence": f"KL from {next(iter(chosen.values())).label} (nats)",
            }.get,
        )
    if button.button("Look at the tokens", type="primary", width="stretch"):
        start("view_tokens", lambda: tokens_job(tokenizer, chosen, s.probe, s.prompt))
    looked = known_job("view_tokens")
    if looked is not None:
        job_panel(looked)
    before = remembered.tokens(chosen, s.probe, s.prompt) if looked is None else None
    if before is None and (looked is None or looked.state != "done"):
        st.caption("Not looked at yet. The next-token table continues the prompt above.")
    else:
        views, rows = before or looked.result
        seen = views if before else {k: v for k, v in views.items() if k in these(looked, chosen)}
        if not seen or set(rows[0].probability) - set(seen):
            st.info("These tokens were looked at with other models: look again.", icon=":material/info:")
        else:
            text, prompt = looked.asks[1:] if looked else (s.probe, s.prompt)
            if (text, prompt) != (s.probe, s.prompt):
                changed(f"of the text “{text[:60]}…” and of the token after “{prompt[-60:]}”")
            values = {k: v.loss if s.colour == "loss" else v.divergence for k, v in seen.items()}
            high = max((x for row in values.values() for x in row if x is not None), default=1.0) or 1.0
            high = min(high, 12.0)
            st.html(spans.legend(0.0, high, "loss in nats" if s.colour == "loss" else "KL divergence in nats"))
            for column, key in zip(st.columns(min(2, len(seen)), gap="medium") * 2, seen, strict=False):
                with column.container(border=True):
                    told = [x for x in values[key] if x is not None]
                    st.text(f"{chosen[key].label}: mean {sum(told) / len(told):.3f} nats")
                    st.html(spans.token_spans(seen[key].tokens, values[key], 0.0, high, spans.token_titles(seen[key])))
            numbers(
                {
                    "token": list(next(iter(seen.values())).tokens),
                    **{f"loss, {chosen[k].label}": v.loss for k, v in seen.items()},
                    **{f"KL, {chosen[k].label}": v.divergence for k, v in seen.items()},
                },
                "tokens",
            )
            figure(
                figures.next_token_bars(rows, styles),
                "next-token",
                "What each model holds of the token after the prompt: the ten most probable of every model together. A "
                "pruned model can write the same text as the dense one and yet be far less sure of it. p = softmax of "
                "the last logits, at temperature 1.",
            )
            table(figures.next_token_table(rows, styles), "next-token")
