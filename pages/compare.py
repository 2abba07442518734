"""Compare: perplexity, text and single tokens of the dense model and of runs, side by side."""

import streamlit as st

import rcpu
from app.continuations import show_texts, text_section, tokens_section
from app.demo import limits
from app.figures import compare as figures
from app.figures.small import NAMES
from app.job_panels import job_panel, known_job, own_job, start
from app.kept import store_of
from app.opening import open_runs
from app.perplexities import perplexity_section, show_perplexities
from app.runs import described, run_names, usual, variants
from app.settings import PageEnd, control, control_list, settings
from app.shared import memory
from app.sharing import folder_field, hub_section
from app.story import example
from app.tiles import Tile, tiles
from app.widgets import count, empty, loader_badges, plain, size
from app.work import save_job
from rcpu.compact import SHAPES, loads_in, shape_config, shape_problem
from rcpu.runs import measured_lines

MOST = 4  # models side by side


def example_section() -> None:
    """What a run of the embedded model said, until there is one to compare."""
    empty("There is no pruned model of yours yet", "../pages/start.py", "Prune one on Start")
    if (story := example()) is None:
        return
    st.markdown(f"Meanwhile, an **example** that was computed on SmolLM2-135M: {plain(described(story.config))}.")
    show_perplexities(story.perplexity, {role: figures.style(name, role) for role, name in NAMES.items()})
    st.subheader("Text")
    st.markdown(f"*{plain(story.asked.prompt)} …*")
    show_texts(story.texts, NAMES)


st.title("Compare")
st.write("The dense model and pruned ones on the same text: how well they predict it, and what they write themselves.")

s, allowed = settings(), limits()
runs = open_runs()
running = own_job("run")
if running and running.active:
    job_panel(running)
if not runs:
    if not s.runs:
        example_section()
    raise PageEnd

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

text_section(runs, chosen, tokenizer)
tokens_section(chosen, styles, tokenizer)

if allowed.saving:
    st.subheader("Keep it")
    which, folder, shape, button = st.columns([3, 4, 3, 2], vertical_alignment="bottom")
    newest, *older = reversed(runs)
    called = run_names(runs)
    with which:
        kept = control(st.selectbox, "Run", "kept", options=["", *older], format_func=lambda k: called[k or newest])
    with folder:
        folder_field()
    saving = runs[kept or newest]
    with shape:
        control(
            st.selectbox,
            "Shape",
            "shape",
            options=list(SHAPES),
            format_func=lambda k: SHAPES[k].partition(":")[0],
            help="  \n".join(SHAPES.values()),
        )
    problem = shape_problem(saving.result.net.config, s.shape)
    if problem:
        st.caption(f":material/block: Not as {s.shape}: {plain(problem)}.")
    else:
        st.markdown(f"Loads in {loader_badges(loads_in(shape_config(saving.result.net.config, s.shape), tokenizer))}")
    if button.button("Save", width="stretch", disabled=not s.folder or bool(problem)):
        start(
            "save",
            lambda: save_job(saving, s.folder, s.shape, measured_lines(store_of(kept or newest), kept or newest)),
        )
    elif saved := known_job("save"):
        job_panel(saved)
        if saved.state == "done":
            st.success(f"Saved to {plain(str(saved.result))}", icon=":material/check:")
    hub_section()
