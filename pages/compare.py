"""Compare: perplexity and text of the dense, the pruned and the compensated model, side by side."""

import streamlit as st

import rcpu
from app import figures
from app.jobs import Job
from app.state import PageEnd, control, generate_job, measure_job, save_job, settings
from app.widgets import count, empty, figure, job_panel, known_job

st.title("Compare")
st.write("The dense model, the same units removed with nothing repaired, and the compensated model, on the same text.")

s = settings()
job = known_job("run")
if job is None:
    empty("There is no pruned model yet", "../pages/prune.py", "Prune one first")
    raise PageEnd
if job.state != "done":
    job_panel(job)
    if not job.active:
        empty("This run has no model to compare", "../pages/prune.py", "Run it again")
    raise PageEnd

run = job.result
done = run.result.config
networks = run.networks()
st.caption(
    f"{run.model.name}: {done.ratio:.0%} removed by {done.scorer}, compensation {done.compensation}, calibrated on "
    f"{done.samples} × {done.window} tokens of {done.text}."
)

for tile, (name, net) in zip(st.columns(3), networks.items(), strict=True):
    cost = rcpu.cost(net)
    tile.metric(
        f"{figures.LABELS[name].capitalize()}: parameters",
        count(cost.parameters),
        count(cost.bytes, "B"),
        delta_color="off",
        delta_arrow="off",
        border=True,
    )

st.subheader("Perplexity")
text, window, windows, button = st.columns([4, 2, 2, 2], vertical_alignment="bottom")
with text:
    control(
        st.text_input, "Evaluation text", "eval_text", help="`embedded`, a UTF-8 file, `wikitext2` or a hub data set"
    )
with window:
    control(st.number_input, "Tokens a window", "eval_window", min_value=2, max_value=4096, step=16)
with windows:
    control(st.number_input, "Windows at most", "eval_windows", min_value=1, max_value=100_000, step=16)
with button:
    if st.button("Measure perplexity", type="primary", width="stretch"):
        try:
            s.measure = measure_job(run, s.eval_text, s.eval_window, s.eval_windows).id
            st.rerun()
        except rcpu.RcpuError as error:
            st.error(str(error), icon=":material/error:")
if s.eval_text == done.text and s.eval_text != "embedded":
    st.warning(
        "The evaluation text is the calibration text: these numbers flatter the pruned models.", icon=":material/info:"
    )


def bars(found: dict[str, rcpu.Perplexity]) -> None:
    """Bars and the numbers beside them."""
    chart, table = st.columns([3, 2], gap="medium", vertical_alignment="center")
    with chart:
        figure(
            figures.perplexities(found),
            "perplexity",
            "exp of the mean negative log-likelihood of the next token, over windows that do not see one another. It "
            "can only be compared with numbers of the same text, window length and tokenizer.",
        )
    dense = found["dense"].perplexity
    table.dataframe(
        {
            "model": [figures.LABELS[k] for k in found],
            "perplexity": [round(p.perplexity, 3) for p in found.values()],
            "÷ dense": [round(p.perplexity / dense, 3) for p in found.values()],
        },
        hide_index=True,
        width="stretch",
    )


measured = known_job("measure")
if measured is None:
    st.caption("Not measured yet.")
else:
    job_panel(measured)
    if measured.state == "done":
        bars(measured.result)

st.subheader("Text")
control(st.text_area, "Prompt", "prompt", height=80, max_chars=4000)
tokens, temperature, top_p, seed, button = st.columns([2, 2, 2, 2, 2], vertical_alignment="bottom")
with tokens:
    control(st.number_input, "New tokens", "tokens", min_value=1, max_value=1024, step=16)
with temperature:
    control(st.number_input, "Temperature", "temperature", min_value=0.0, max_value=5.0, step=0.1, help="0 is greedy")
with top_p:
    control(st.number_input, "Top-p", "top_p", min_value=0.05, max_value=1.0, step=0.05)
with seed:
    control(st.number_input, "Sampling seed", "gen_seed", min_value=0, max_value=2**31 - 1)
with button:
    if st.button("Generate", type="primary", width="stretch"):
        try:
            s.generate = generate_job(
                run,
                s.prompt,
                max_new_tokens=s.tokens,
                temperature=s.temperature,
                top_p=s.top_p,
                seed=s.gen_seed,
            ).id
            st.rerun()
        except rcpu.RcpuError as error:
            st.error(str(error), icon=":material/error:")


def texts(job: Job) -> None:
    """One column a model; text is shown as it is, never as Markdown or HTML."""
    found = job.result or job.partial or {}
    for column, name in zip(st.columns(3, gap="medium"), figures.LABELS, strict=True):
        with column.container(border=True):
            st.markdown(f"**{figures.LABELS[name].capitalize()}**")
            made = found.get(name)
            st.code(made.text if made else " ", language=None, wrap_lines=True, height=240)
            if made:
                end = ", ended by the model" if made.finished else ""
                st.caption(f"{made.tokens} tokens{end} · {made.tokens_per_second:.1f} tokens/s decoding")


generated = known_job("generate")
if generated is None:
    st.caption("No text yet: the three models will continue the same prompt with the same seed.")
else:
    job_panel(generated, texts)
    if not generated.active:
        texts(generated)

st.subheader("Keep it")
folder, stock, button = st.columns([5, 3, 2], vertical_alignment="bottom")
target = folder.text_input("New folder on the machine that serves this app", placeholder="/path/to/pruned-model")
padded = stock.toggle("Stock shape, zeros in place", help="Larger, but any loader takes it; off: truly smaller")
if button.button("Save", width="stretch", disabled=not target):
    try:
        s.save = save_job(run, target, padded).id
        st.rerun()
    except rcpu.RcpuError as error:
        st.error(str(error), icon=":material/error:")
if saved := known_job("save"):
    job_panel(saved)
    if saved.state == "done":
        st.success(f"Saved to {saved.result}", icon=":material/check:")
