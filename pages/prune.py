"""Prune: what to remove, how to choose it and how to repair the rest; then what was found at every projection."""

import streamlit as st

import rcpu
from app import figures
from app.jobs import Job
from app.state import PageEnd, control, current_model, prune_job, settings
from app.widgets import count, empty, figure, job_panel, known_job
from rcpu.masking import UNIT_NAMES

SCORERS = {
    "rcpu": "RCPU: ‖W_j‖ · mean|x_j| · Var(x_j)",
    "wanda_sp": "WANDA-sp: Σ|W_ij| · mean|x_j|",
    "flap": "FLAP: Var(x_j) · ‖W_j‖²",
    "magnitude": "Magnitude: ‖W_j‖",
    "random": "Random",
}
COMPENSATIONS = {
    "none": "None",
    "rotation": "Rotation (RCPU)",
    "rotation_scale": "Rotation and scale",
    "least_squares": "Least squares with ridge",
    "bias": "Bias (FLAP)",
}
UNITS = {
    "auto": "Automatic",
    "head": "Whole heads",
    "kv_group": "Whole KV groups",
    "channel": "Value channels of every KV head",
}
ORDERS = {
    "paper": "Paper: measure both, then repair",
    "site": "Site: repair o_proj first",
}

st.title("Prune")
st.write("Choose what leaves and how the rest is repaired. What will go is shown before anything runs.")

s = settings()
model = current_model()
if model is None:
    empty("No model is loaded", "../pages/model.py", "Choose and load a model")
    raise PageEnd

what, how, data = st.columns(3, gap="medium")
with what.container(border=True, height="stretch"):
    st.markdown("##### What goes")
    control(
        st.slider,
        "Ratio",
        "ratio",
        min_value=0.0,
        max_value=0.9,
        step=0.05,
        help="Share of units to remove in every chosen layer, rounded down",
    )
    sites = {"o_proj,down_proj": "both", "o_proj": "o_proj", "down_proj": "down_proj"}
    control(st.segmented_control, "Sites", "sites", options=list(sites), format_func=sites.get, width="stretch")
    control(st.selectbox, "Unit of o_proj", "unit", options=list(UNITS), format_func=UNITS.get)
    last = model.net.config.num_hidden_layers - 1
    control(st.text_input, "Layers", "layers", help=f"`all`, or numbers and ranges from 0 to {last}, like `0-3,7`")
with how.container(border=True, height="stretch"):
    st.markdown("##### Choice and repair")
    control(st.selectbox, "Importance score", "scorer", options=list(rcpu.SCORERS), format_func=SCORERS.get)
    control(
        st.selectbox, "Compensation", "compensation", options=list(rcpu.COMPENSATORS), format_func=COMPENSATIONS.get
    )
    if s.compensation == "least_squares":
        control(st.text_input, "Ridge λ ÷ mean diagonal, or auto", "ridge")
    if s.compensation.startswith("rotation"):
        control(st.toggle, "Proper rotation (det Q = +1)", "proper")
    control(st.selectbox, "Order", "order", options=list(rcpu.ORDERS), format_func=ORDERS.get)
with data.container(border=True, height="stretch"):
    st.markdown("##### Calibration")
    control(
        st.text_input,
        "Text",
        "text",
        help="`embedded` (the Python language reference), a UTF-8 file, `wikitext2` or a hub data set",
    )
    a, b = st.columns(2)
    with a:
        control(st.number_input, "Windows", "samples", min_value=1, max_value=4096, step=16)
        control(st.number_input, "Seed", "seed", min_value=0, max_value=2**31 - 1)
    with b:
        control(st.number_input, "Tokens a window", "window", min_value=2, max_value=4096, step=16)
        control(
            st.number_input,
            "Held-out windows",
            "held_out",
            min_value=0,
            max_value=512,
            help="Further windows from another stretch of the text, on which errors are reported",
        )
    tokens = s.samples * s.window
    st.caption(
        f"{tokens:,} tokens: {tokens / (model.net.config.num_attention_heads * model.net.config.head_dim):.1f} "
        f"for each input of o_proj, {tokens / model.net.config.intermediate_size:.1f} for each of down_proj."
    )

try:
    config = s.prune_config()
    todo = rcpu.plan(model.net, config)
except rcpu.RcpuError as error:
    st.error(str(error), icon=":material/error:")
    raise PageEnd from error


def change(before: float, after: float) -> str:
    """A difference in percent, as metrics show it."""
    return f"{100 * (after / before - 1):+.1f} %"


tiles = st.columns(3 + len(todo.removed))
for tile, (label, before, after, unit) in zip(
    tiles,
    (
        ("Parameters after", todo.before.parameters, todo.after.parameters, ""),
        ("Weights after", todo.before.bytes, todo.after.bytes, "B"),
        ("FLOPs a token after", todo.before.flops_per_token, todo.after.flops_per_token, ""),
    ),
    strict=False,
):
    tile.metric(label, count(after, unit), change(before, after), delta_color="off", border=True)
for tile, (name, (gone, units)) in zip(tiles[3:], todo.removed.items(), strict=True):
    kind = UNIT_NAMES[todo.unit if name == "o_proj" else "channel"]
    tile.metric(
        f"{name}, a layer", f"−{gone:,}", f"of {units:,} {kind}", delta_color="off", delta_arrow="off", border=True
    )
button, summary = st.columns([1, 4], vertical_alignment="center")
start = button.button("Run", type="primary", width="stretch", icon=":material/play_arrow:")
summary.caption(
    f"{len(todo.layers)} of {last + 1} layers. A ratio is not a parameter count: embeddings, norms and, for value "
    "channels, queries and keys stay."
)
for note in todo.notes:
    st.warning(note, icon=":material/info:")
if start:
    try:
        s.run = prune_job(model, config).id
        st.rerun()
    except rcpu.RcpuError as error:
        st.error(str(error), icon=":material/error:")


def growing(job: Job) -> None:
    """The error curve of the layers that are done."""
    if job.partial:
        st.plotly_chart(figures.layer_errors(job.partial, job.partial[0].site), width="stretch", key="growing")


job = known_job("run")
if job is None:
    st.caption("No run yet. Scores, spectrum, angles and errors of every projection appear here when one is done.")
    raise PageEnd
job_panel(job, growing)
if job.state != "done":
    raise PageEnd

run = job.result
results = {(r.layer, r.site): r for r in run.result.sites}
done = run.result.config
st.subheader(f"{COMPENSATIONS[done.compensation]}, {done.ratio:.0%} removed")
before, after = rcpu.cost(run.model.net), rcpu.cost(run.result.net)
st.caption(
    f"{run.model.name}, scorer {done.scorer}, layers {rcpu.format_layers(done.layers)}, {done.samples} × {done.window} "
    f"tokens of {done.text}, seed {done.seed}, order {done.order}: {count(before.parameters)} → "
    f"{count(after.parameters)} parameters in {run.result.seconds:.0f} s."
)
if done != config:
    st.info("The settings above have changed since this run: what follows belongs to the run.", icon=":material/info:")
st.page_link("../pages/compare.py", label="Next: compare text and perplexity", icon=":material/arrow_forward:")

pick, layer_pick = st.columns([1, 3], vertical_alignment="bottom")
with pick:
    control(st.segmented_control, "Projection", "site", options=list(dict.fromkeys(k[1] for k in results)))
layers = [layer for layer, site in results if site == s.site]
with layer_pick:
    if len(layers) > 1:
        control(st.select_slider, "Layer", "layer", options=layers)
    else:
        s.layer = layers[0]
        st.caption(f"Layer {s.layer}")
site = results[s.layer, s.site]

left, right = st.columns(2, gap="medium")
with left:
    figure(
        figures.scores(site),
        "scores",
        "One point a unit, sorted by importance; those right of the cut go. The RCPU score of an input column is "
        "γ_j = ‖W_j‖₂ · mean|x_j| · Var(x_j), summed over the columns of a unit "
        "([arXiv 2510.07782](https://arxiv.org/abs/2510.07782)). Value channels compete within their KV head, so there "
        "the same score can stay in one head and go in another.",
    )
with right:
    figure(
        figures.spectrum(site),
        "spectrum",
        "With Y = WX the output before and Z = W_K X_K after removal, M = YZᵀ = U S Vᵀ gives the best rotation "
        "Q = U Vᵀ, and S says how much each direction counts. Where the values fall to rounding, M says nothing and Q "
        "is completed nearest to the identity. The ends of a steep spectrum hardly matter for the error.",
    )
left, right = st.columns(2, gap="medium")
with left:
    figure(
        figures.angles(site),
        "angles",
        "Q turns the output space. Its eigenvalues are e^{±iθ}: the eigen-angles θ say how far Q turns in each of its "
        "planes; arccos Q_ii says how far one output channel turns. Small angles: removal hardly drifted the output. "
        "det Q = −1 means a reflection is part of the best fit.",
    )
with right:
    figure(
        figures.site_errors(site),
        "errors",
        "‖Y − Ŷ‖ ÷ ‖Y‖ of this projection alone, with nothing repaired and after compensation. A gain on calibration "
        "windows that is lost on held-out ones is over-fitting: raise the number of windows.",
    )
figure(
    figures.layer_errors(run.result.sites, s.site),
    "layer-errors",
    "The same error in every pruned layer. Each layer gets its input from the pruned layers before it, so the curve "
    "describes this run and not the dense model's own path.",
)
