"""Compare: perplexity, text and single tokens of the dense model and of runs, side by side."""

import json
from pathlib import Path

import streamlit as st

import rcpu
from app import spans
from app.demo import limits
from app.figures import compare as figures
from app.job_panels import job_panel, known_job, start
from app.jobs import Job
from app.perplexities import changed, perplexity_section
from app.runs import run_names, session_runs, usual, variants
from app.settings import PageEnd, change, control, control_list, settings
from app.shared import jobs, memory
from app.tiles import Tile, tiles
from app.widgets import count, empty, figure, numbers, plain, size, table
from app.work import generate_job, save_job, tokens_job
from rcpu.measure import first_divergence, word_diff, words

PROMPTS = json.loads((Path(__file__).parent.parent / "assets" / "prompts.json").read_text(encoding="utf-8"))
MOST = 4  # models side by side


st.title("Compare")
st.write("The dense model and pruned ones on the same text: how well they predict it, and what they write themselves.")

s, allowed = settings(), limits()
runs = session_runs()
running = jobs().get(s.run)
if running and running.active:
    job_panel(running)
if not runs:
    if s.runs and not (running and running.active):
        st.info("The runs that this link points at are no longer in memory.", icon=":material/info:")
    if not (running and running.active):
        empty("There is no pruned model yet", "../pages/prune.py", "Prune one first")
    raise PageEnd

if len(runs) < len(s.runs.split(",")):
    st.info("Some runs that this link points at are no longer in memory.", icon=":material/info:")
everything = variants(runs)
keys = control_list(
    st.multiselect,
    "Models to compare",
    "compare",
    options=list(everything),
    usual=usual(everything),
    format_func=lambda k: everything[k].label,
    max_selections=MOST,
    help="Each run as it is, and with the same units removed but nothing repaired",
)
if not keys:
    st.info("Choose at least one model.", icon=":material/info:")
    raise PageEnd
keys = sorted(keys, key=list(everything).index)  # dense, where chosen, is the one to differ from
chosen = {k: everything[k] for k in keys}
styles = {k: figures.style(v.label, v.role, v.order) for k, v in chosen.items()}
run = next(reversed(runs.values()))
tokenizer = run.model.tokenizer

costs = {key: rcpu.cost(variant.net) for key, variant in chosen.items()}
tiles(
    *(
        Tile(
            f"{chosen[key].label}: parameters",
            count(cost.parameters),
            f"{size(cost.bytes)} · {count(cost.flops_per_token, 'FLOPs')} a token",
        )
        for key, cost in costs.items()
    )
)
used = memory(run.model.device)
st.caption(
    "Memory now: "
    + " · ".join(f"{'this process' if k == 'process' else k} {size(v)}" for k, v in used.items())
    + ". Pruned models share with the dense one whatever was not pruned."
)

perplexity_section(runs, chosen, styles, tokenizer)

st.subheader("Text")
names = ["a prompt of your own"] + [p["label"] for p in PROMPTS]
current = next((i + 1 for i, p in enumerate(PROMPTS) if p["prompt"] == s.prompt), 0)
picked = st.selectbox("Prompts", range(len(names)), current, format_func=lambda i: names[i], key=f"prompts-{current}")
if picked != current and picked:
    change(prompt=PROMPTS[picked - 1]["prompt"])
    st.rerun()
control(st.text_area, "Prompt", "prompt", height=80, max_chars=allowed.prompt_characters)
tokens, temperature, top_p, seed, button = st.columns([2, 2, 2, 2, 2], vertical_alignment="bottom")
with tokens:
    control(st.number_input, "New tokens", "tokens", min_value=1, max_value=allowed.new_tokens, step=16)
with temperature:
    control(st.number_input, "Temperature", "temperature", min_value=0.0, max_value=5.0, step=0.1, help="0 is greedy")
with top_p:
    control(st.number_input, "Top-p", "top_p", min_value=0.05, max_value=1.0, step=0.05)
with seed:
    control(st.number_input, "Sampling seed", "gen_seed", min_value=0, max_value=2**31 - 1)
options = {"max_new_tokens": s.tokens, "temperature": s.temperature, "top_p": s.top_p, "seed": s.gen_seed}
if button.button("Generate", type="primary", width="stretch"):
    start("generate", lambda: generate_job(tokenizer, chosen, s.prompt, **options))


def texts(job: Job) -> None:
    """One column a model; words that the first model did not write are marked. Text is shown as it is."""
    found = job.result or job.partial or {}
    shown = [k for k in chosen if k in found] if found else list(chosen)
    first = found.get(shown[0])
    for i, (column, key) in enumerate(zip(st.columns(len(shown), gap="medium"), shown, strict=True)):
        with column.container(border=True):
            st.text(chosen[key].label)
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
                apart = f" · parts from {chosen[shown[0]].label} at word {part + 1}" if part is not None else ""
                st.caption(f"{made.tokens} tokens{end} · {made.tokens_per_second:.1f} tokens/s decoding{apart}")


generated = known_job("generate")
if generated is None:
    st.caption("No text yet: the models will continue the same prompt with the same seed, all at once.")
else:
    job_panel(generated, texts)
    prompt, how = generated.asks[1:]
    if (prompt, how) != (s.prompt, tuple(options.items())):
        told = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in how)
        changed(f"the continuation of “{prompt[:80]}{'…' * (len(prompt) > 80)}” with {told}")
    if not generated.active and not set(chosen) <= set(generated.result or generated.partial or ()):
        st.info("Not every chosen model wrote a text: generate again.", icon=":material/info:")
    if not generated.active and (generated.result or generated.partial):
        texts(generated)
        st.caption("Underlined: words that the first model did not write there. ◆ marks where a text leaves the first.")

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
        format_func={"loss": "loss (nats)", "divergence": f"KL from {chosen[keys[0]].label} (nats)"}.get,
    )
if button.button("Look at the tokens", type="primary", width="stretch"):
    start("view_tokens", lambda: tokens_job(tokenizer, chosen, s.probe, s.prompt))
looked = known_job("view_tokens")
if looked is not None:
    job_panel(looked)
if looked is None or looked.state != "done":
    st.caption("Not looked at yet. The next-token table continues the prompt above.")
else:
    views, rows = looked.result
    seen = {k: v for k, v in views.items() if k in chosen}
    if not seen or set(rows[0].probability) - set(seen):
        st.info("These tokens were looked at with other models: look again.", icon=":material/info:")
    else:
        text, prompt = looked.asks[1:]
        if (text, prompt) != (s.probe, s.prompt):
            changed(f"of the text “{text[:60]}…” and of the token after “{prompt[-60:]}”")
        values = {k: v.loss if s.colour == "loss" else v.divergence for k, v in seen.items()}
        high = max((x for row in values.values() for x in row if x is not None), default=1.0) or 1.0
        high = min(high, 12.0)
        st.html(spans.legend(0.0, high, "loss in nats" if s.colour == "loss" else "KL divergence in nats"))
        for column, key in zip(st.columns(min(2, len(seen)), gap="medium") * 2, seen, strict=False):
            with column.container(border=True):
                known = [x for x in values[key] if x is not None]
                st.text(f"{chosen[key].label}: mean {sum(known) / len(known):.3f} nats")
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
            "pruned model can write the same text as the dense one and yet be far less sure of it. p = softmax of the "
            "last logits, at temperature 1.",
        )
        table(figures.next_token_table(rows, styles), "next-token")

if allowed.saving:
    st.subheader("Keep it")
    which, folder, stock, button = st.columns([3, 4, 3, 2], vertical_alignment="bottom")
    newest, *older = reversed(runs)
    called = run_names(runs)
    with which:
        kept = control(st.selectbox, "Run", "kept", options=["", *older], format_func=lambda k: called[k or newest])
    with folder:
        control(
            st.text_input,
            "New folder on the machine that serves this app",
            "folder",
            placeholder="/path/to/pruned-model",
            max_chars=1000,
        )
    with stock:
        control(
            st.toggle,
            "Stock shape, zeros in place",
            "stock",
            help="Larger, but any loader takes it; off: truly smaller",
        )
    if button.button("Save", width="stretch", disabled=not s.folder):
        start("save", lambda: save_job(runs[kept or newest], s.folder, s.stock))
    elif saved := known_job("save"):
        job_panel(saved)
        if saved.state == "done":
            st.success(f"Saved to {plain(str(saved.result))}", icon=":material/check:")
