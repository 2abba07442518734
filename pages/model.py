"""Model: choose a model, load it, see what it is made of and what it takes up."""

import streamlit as st

import rcpu
from app import demo
from app.figures import model as figures
from app.job_panels import job_panel, known_job, start
from app.settings import PageEnd, control, settings
from app.shared import current_model, jobs, memory, model_key, models
from app.streams import stream_section
from app.tiles import Tile, tiles
from app.widgets import abreast, count, figure, say, size, table
from app.work import load_model_job
from rcpu.models import DTYPES, bytes_needed, footprint, free_memory, heads_of, parts, resolve_device

#: Parameters of models that people prune, embeddings included.
KNOWN = {
    "SmolLM2-135M (embedded)": 134_515_008,
    "Llama-3.2-1B": 1_235_814_400,
    "Llama-3.2-3B": 3_212_749_824,
    "LLaMA-7B": 6_738_415_616,
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-2-13B": 13_015_864_320,
}

st.title("Model")
st.write("Choose the LLaMA to prune. It is loaded once and shared by everyone who has this app open.")

s = settings()
name, device, dtype, button = st.columns([4, 2, 2, 2], vertical_alignment="bottom")
with name:
    control(
        st.text_input,
        "Model",
        "model",
        help="`embedded` is SmolLM2-135M, which comes with the app; else the folder of a LLaMA, or a hub id",
    )
with device:
    choices = ["auto", "cpu", *rcpu.models.accelerators()]
    control(st.selectbox, "Device", "device", options=choices)
with dtype:
    control(st.selectbox, "Precision", "dtype", options=["auto", *rcpu.DTYPES], help="auto: fp32 on the CPU")
model = current_model()
with button:
    if st.button("Load model", type="primary", width="stretch", disabled=model is not None):
        start("load", lambda: load_model_job(model_key(), s.recipe("columns")))

job = jobs().asking("load", model_key()) or known_job("load")
if job and (job.active or model is None):
    job_panel(job)

if model is None:
    try:
        demo.check_model(s.model, s.device, s.dtype)
        target = resolve_device(s.device)
        found = footprint(s.model, s.device, s.dtype)
    except rcpu.RcpuError as error:
        say(error)
        raise PageEnd from error
    if not (job and job.active):
        with st.container(border=True):
            st.markdown("#### No model is loaded yet")
            st.markdown(
                "Press **Load model**. The embedded one is converted once on each machine, which takes longer than "
                "every later start."
            )
    st.subheader("What fits here")
    free = free_memory(target)
    if found:
        st.markdown(
            f"This model: {count(found.parameters)} parameters in {found.dtype}, {size(found.need)} with room to work; "
            f"{found.device} has {size(found.free)} free: **{'it fits' if found.fits else 'it does not fit'}**."
        )
    if found and not found.fits:
        stream_section(found)
    need = {kind: [bytes_needed(n, DTYPES[kind]) for n in KNOWN.values()] for kind in DTYPES}
    table(
        {
            "model": list(KNOWN),
            "parameters": [count(n) for n in KNOWN.values()],
            **{f"{kind} on {target}": [f"{'✓' if n <= free else '✗'} {size(n)}" for n in need[kind]] for kind in need},
        },
        "what-fits",
    )
    st.caption(
        f"{target} has {size(free)} free. Weights and 15% room for hidden states and statistics; pruning shares "
        "unpruned weights and keeps one layer's activations at a time."
    )
    raise PageEnd

config, heads, cost = model.net.config, heads_of(model.net), rcpu.cost(model.net)
tiles(
    Tile("Parameters", count(cost.parameters)),
    Tile("Weights in memory", count(cost.bytes, "B")),
    Tile("FLOPs a token", count(cost.flops_per_token), help="Matrix products only, without context"),
    Tile("Layers", f"{config.num_hidden_layers}"),
    Tile("Query / KV heads", f"{heads.query} / {heads.kv}"),
)

left, right = abreast("parts", wide_left=True)
with left:
    figure(
        figures.parameters(parts(model.net)),
        "parameters",
        "Each bar is the share of one kind of matrix in all layers together. RCPU removes columns of **o_proj** and "
        "**down_proj** (the outputs of attention and MLP) and the rows of the projections that feed them; embeddings "
        "and norms stay. A ratio therefore is not a parameter count. A matrix counts d_out × d_in, tied embeddings "
        "once. Parts of a LLaMA: Touvron et al., [arXiv 2302.13971](https://arxiv.org/abs/2302.13971).",
    )
with right:
    table(
        {
            "property": [
                "hidden size",
                "MLP channels",
                "head width",
                "vocabulary",
                "positions",
                "tied embeddings",
                "biases (attention, MLP)",
                "device",
                "precision",
                "fingerprint",
            ],
            "value": [
                f"{config.hidden_size:,}",
                f"{config.intermediate_size:,}",
                f"{heads.dim}",
                f"{config.vocab_size:,}",
                f"{config.max_position_embeddings:,}",
                "yes" if config.tie_word_embeddings else "no",
                f"{'yes' if config.attention_bias else 'no'}, {'yes' if config.mlp_bias else 'no'}",
                str(model.device),
                model.dtype,
                model.fingerprint,
            ],
        },
        "model",
    )
    found = memory(model.device)
    st.caption(" · ".join(f"{'this process' if k == 'process' else k}: {count(v, 'B')}" for k, v in found.items()))

_, unload = st.columns([6, 1])
if not demo.limits().demo and unload.button(
    "Unload", width="stretch", help="Forgets the model for everyone; running jobs finish with it"
):
    models().drop(model_key())
    st.rerun()
