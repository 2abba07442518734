"""Prune: what to remove, how to choose it and how to repair the rest; then what was found at every projection."""

from functools import partial

import streamlit as st

import rcpu
from app.chart import chart
from app.dense import PROJECTION, RATIO_STEP, need_model, offer_defaults, ratio_slider
from app.figures import prune as figures
from app.figures import sites as site_figures
from app.figures.allocation import shares
from app.figures.found import looks
from app.gradients import gradient_section
from app.job_panels import job_panel, own_job
from app.jobs import Job
from app.labels import PAPER, SITES, called
from app.measuring import contents
from app.methods import pick_options, pick_other_options, pick_recipe, pick_target
from app.opening import unfinished_run
from app.runs import described, forget, remember, run_names, stories
from app.settings import PageEnd, change, control, settings
from app.story import Evaluation
from app.tiles import Tile, difference, tiles
from app.turns import turned
from app.widgets import abreast, count, figure, plain, say, table
from app.work import prune_job
from rcpu.methods import UNIT_NAMES
from rcpu.runs import default_name

MAP = (
    "A column is a layer with the two projections that lose inputs. ⌊ratio · n⌋ of the n units of a green one go, and "
    "the rows of the matrices before it that feed them; the others stay whole. **Click squares or draw a box** to give "
    f"layers a ratio of their own: {PAPER} takes the same one everywhere. A click on a picked one lets go of it, a "
    "double click on the ground lets go of all."
)

st.title("Prune")
st.write("Choose what leaves and how the rest is repaired. What will go is shown before anything runs.")
model = need_model()
s = settings()
last = model.net.config.num_hidden_layers - 1

pick_recipe()
columns = rcpu.METHODS[s.method].run is None
what, how = (place.container(border=True, height="stretch") for place in st.columns(2, gap="medium"))
with what:
    st.markdown("##### What goes, and where")
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    with left:
        ratio_slider()
    with right:
        pick_target(model)
if columns:
    with what:
        left, right = st.columns([5, 4], vertical_alignment="bottom")
        with left:
            control(
                st.segmented_control, "Sites", "sites", options=list(SITES), format_func=called(SITES), width="stretch"
            )
        with right:
            pick_options(["unit"])
        left, right = st.columns([5, 4])
        with left:
            control(
                st.text_input,
                "Layers",
                "layers",
                max_chars=1000,
                help=f"`all`, or numbers and ranges from 0 to {last}, like `0-3,7`",
            )
        with right:
            control(
                st.text_input,
                "Ratios of single layers",
                "ratios",
                max_chars=1000,
                placeholder="like 0-3=0.1,29=0",
                help="Layers named here have a ratio of their own; the map below writes it for you",
            )
with how:
    st.markdown("##### Choice and repair" if columns else "##### How")
    pick_other_options(["unit"] if columns else [])
with how if columns else what:  # where there is room
    st.caption(
        f"{s.samples} + {s.held_out} windows of {s.window} tokens, seed {s.seed}: "
        f"{s.samples * s.window / model.net.config.intermediate_size:.1f} tokens an input of down_proj."
    )
    st.page_link("../pages/calibration.py", label="Change the calibration", icon=":material/dataset:")

try:
    config = s.recipe()
    todo = rcpu.plan(model.net, config)
except rcpu.RcpuError as error:
    say(error)
    offer_defaults(partial(rcpu.plan, model.net))
    raise PageEnd from error


def picked_layers() -> list[int]:
    """Those on the map that a person, or a link, has picked; raises ``RcpuError`` where it cannot be read."""
    return [layer for layer in rcpu.parse_layers(s.picked) or () if layer <= last] if s.picked else []


def pick(layers: list[int]) -> None:
    """Pick the layers of these squares as well, or let go of them if all are picked already; of all, if of none."""
    new, now = set(layers), set(picked_layers())
    change(picked=rcpu.format_layers(tuple((now - new if new <= now else now | new) if new else ())))


try:
    picked = picked_layers()
except rcpu.RcpuError as error:
    say(f"Picked on the map: {error}")
    picked = []
s.picked = rcpu.format_layers(tuple(picked))
outlook = [
    Tile(label, count(after, unit), difference(after, before))
    for label, before, after, unit in (
        ("Parameters after", todo.before.parameters, todo.after.parameters, ""),
        ("Weights after", todo.before.bytes, todo.after.bytes, "B"),
        ("FLOPs a token after", todo.before.flops_per_token, todo.after.flops_per_token, ""),
    )
]
count_of_layers = len(todo.layers)
where = "all layers" if count_of_layers == last + 1 else f"{count_of_layers} layer{'s' * (count_of_layers != 1)}"
for name in config.sites if todo.removed else ():
    kind = UNIT_NAMES[todo.unit if name == "o_proj" else "channel"]
    if (name, todo.unit) == ("o_proj", "channel"):
        kind = f"value {kind}"
    gone, units = (sum(n[i] for (_, site), n in todo.removed.items() if site == name) for i in (0, 1))
    outlook.append(Tile(f"{name}, {where}", f"−{gone:,}", f"of {units:,} {kind}"))
tiles(*outlook)
label, measure, button = st.columns([4, 3, 2], vertical_alignment="bottom")
with measure:
    what = f"Perplexity on {s.eval_text}, and the texts of Compare, in the same run"
    control(st.toggle, "Measure it, too", "evaluate", help=plain(what))
with label:
    control(st.text_input, "Name of the run", "name", placeholder=default_name(config), max_chars=60)
start = button.button("Run", type="primary", width="stretch", icon=":material/play_arrow:")
st.caption(
    f"{count_of_layers} of {last + 1} layers. A ratio is not a parameter count: embeddings, norms and, for value "
    "channels, queries and keys stay."
)
problems = rcpu.export_problems(model.net, config)
can = ", ".join(shape for shape, why in problems.items() if not why)
cannot = "".join(f"; not as {shape}: {plain(why)}" for shape, why in problems.items() if why)
st.caption(f"It can be exported as {can}{cannot}.")
for note in todo.notes:
    st.warning(note, icon=":material/info:")
if start:
    try:
        s.run = prune_job(model, config, s.name, Evaluation.of(s) if s.evaluate else None).id
        remember(s.run)
        change(name="", compare="")
        st.rerun()
    except rcpu.RcpuError as error:
        say(error)


def growing(job: Job) -> None:
    """The error curves of the layers that are done."""
    sites = job.partial.sites if job.partial else ()
    for place, name in zip(abreast("growing"), dict.fromkeys(result.site for result in sites), strict=False):
        with place:
            figure(
                site_figures.layer_errors(sites, name),
                f"growing-{name}",
                "‖Y − Ŷ‖ ÷ ‖Y‖ of the layers that are done, each on what the pruned layers before it hand on "
                f"({PAPER}).",
            )


job = own_job("run")
if job is not None:
    job_panel(job, growing)
elif s.run:
    unfinished_run(s.run)

if todo.removed:
    chart(figures.layer_map(config, todo.layers, last + 1, picked), "map", on_pick=pick, name="layers", words=MAP)
if picked:
    names = rcpu.format_layers(tuple(picked))
    only, ratio, give = st.columns(3, vertical_alignment="bottom")
    if only.button(f"Prune only layers {names}", width="stretch"):
        change(layers=names, picked="")
        st.rerun()
    with ratio:
        control(
            st.number_input, f"Ratio for layers {names}", "picked_ratio", min_value=0.0, max_value=0.95, step=RATIO_STEP
        )
    if give.button("Give them this ratio", width="stretch"):
        own = dict(config.ratios) | dict.fromkeys(picked, s.picked_ratio)
        change(ratios=rcpu.format_ratios(tuple(sorted(own.items()))), picked="")
        st.rerun()
if s.layers != "all" or s.ratios:
    st.button("All layers, one ratio", on_click=change, kwargs={"layers": "all", "ratios": "", "picked": ""})

runs = stories()
if not runs:
    if job is None:
        st.caption("No run yet. Scores, spectrum, angles and errors of every projection appear here when one is done.")
    raise PageEnd

st.subheader("Runs")
if s.run not in runs and not (job and job.active):
    s.run = list(runs)[-1]
if s.run in runs:
    pick, drop = st.columns([5, 1], vertical_alignment="bottom")
    with pick:
        control(st.selectbox, "Shown", "run", options=list(reversed(runs)), format_func=run_names(runs).get)
    if drop.button("Forget", width="stretch", help="Takes it off this list; Runs keeps it"):
        forget(s.run)
        change(run="")
        st.rerun()
held_out = {key: [r.error_compensated_held_out for r in run.story.sites] for key, run in runs.items()}
table(
    {
        "run": list(run_names(runs).values()),
        "method": [run.story.config.method for run in runs.values()],
        "scorer": [getattr(run.story.config.options, "scorer", "–") for run in runs.values()],
        "compensation": [getattr(run.story.config.options, "compensation", "–") for run in runs.values()],
        "ratio": [run.story.config.ratio for run in runs.values()],
        "layers": [rcpu.format_layers(run.story.config.layers) for run in runs.values()],
        "parameters": [count(run.story.parameters[1]) for run in runs.values()],
        "mean error, held-out": [
            f"{sum(values) / len(values):.4f}" if values and None not in values else "–" for values in held_out.values()
        ],
        "seconds": [round(run.story.seconds, 1) for run in runs.values()],
    },
    "runs",
)
if s.run not in runs:
    raise PageEnd

run = runs[s.run]
results = {(r.layer, r.site): r for r in run.story.sites}
done = run.story.config
st.subheader("What was found")
before, after = run.story.parameters
if not results:
    notes = " ".join(f"{n[0].upper()}{n[1:]}." for n in run.run.about["notes"])
    st.caption(
        f"{plain(run.run.about['model'])}: {plain(described(done))}: {count(before)} → {count(after)} parameters in "
        f"{run.story.seconds:.0f} s. {plain(notes)}"
    )
    for name, drawn, words in looks(done.method, run.found):
        figure(drawn, f"found-{name}", words)
    if "slopes" in run.found:
        gradient_section(run)
    raise PageEnd
st.caption(
    f"{plain(run.run.about['model'])}: {plain(described(done))}: {count(before)} → {count(after)} parameters in "
    f"{run.story.seconds:.0f} s."
)
if done != config:
    st.info("The settings above have changed since this run: what follows belongs to the run.", icon=":material/info:")
elif run.story.content[:1] != contents(done.text):
    st.info("The calibration text was edited since: what follows belongs to it as it was.", icon=":material/info:")
for note in run.story.notes[len(run.run.about["notes"]) :]:
    st.warning(plain(note), icon=":material/info:")

if getattr(done, "allocation", "uniform") != "uniform":
    gone = {(r.layer, r.site): 1 - r.kept / r.units for r in run.story.sites}
    figure(
        shares(gone, "What left where", done.ratio),
        "allocation",
        "Share of the units of each projection that this run's allocation took; dashed: the share if all lost alike.",
    )
with st.container(horizontal=True):
    measured = list(dict.fromkeys(site for _, site in results))
    control(st.segmented_control, "Projection", "site", options=measured, width=PROJECTION)
    layers = [layer for layer, site in results if site == s.site]
    if len(layers) > 1:
        control(st.select_slider, "Layer", "layer", options=layers)
    else:
        change(layer=layers[0])
        st.caption(f"Layer {s.layer}")
site = results[s.layer, s.site]
site_turned = turned(s.run, site)
if site_turned is None and site.determinant is not None:
    st.caption(
        "How far the output turns is not known any more: what was turned is the weight after the step."
        if getattr(site, "stepped", False)
        else "How far the output turns is worked out when the dense model is loaded."
    )

left, right = abreast("choice")
with left:
    figure(
        site_figures.scores(site),
        "scores",
        "One point a unit, sorted by importance; those right of the cut go. The RCPU score of an input column is "
        "γ_j = ‖W_j‖₂ · mean|x_j| · Var(x_j), summed over the columns of a unit "
        f"({PAPER}). Value channels compete within their KV head, so there "
        "the same score can stay in one head and go in another.",
    )
with right:
    if site.singular_values is not None:
        figure(
            site_figures.spectrum(site),
            "spectrum",
            "With Y = WX the output before and Z = W_K X_K after removal, M = YZᵀ = U S Vᵀ gives the best rotation "
            "Q = U Vᵀ, and S says how much each direction counts. Where the values fall to rounding, M says nothing "
            "and Q is completed nearest to the identity. The ends of a steep spectrum hardly matter for the error. "
            f"{PAPER}.",
        )
left, right = abreast("repair")
with left:
    if site_turned is not None:
        figure(
            site_figures.angles(site_turned),
            "angles",
            "Q turns the output space. Its eigenvalues are e^{±iθ}: the eigen-angles θ say how far Q turns in each of "
            "its planes; arccos Q_ii says how far one output channel turns. Small angles: removal hardly drifted the "
            f"output. det Q = −1 means a reflection is part of the best fit. {PAPER}.",
        )
with right:
    figure(
        site_figures.site_errors(site),
        "errors",
        "‖Y − Ŷ‖ ÷ ‖Y‖ of this projection alone, with nothing repaired and after compensation. A gain on calibration "
        f"windows that is lost on held-out ones is over-fitting: raise the number of windows. {PAPER}.",
    )
figure(
    site_figures.layer_errors(run.story.sites, s.site),
    "layer-errors",
    "The same error in every pruned layer. Each layer gets its input from the pruned layers before it, so the curve "
    f"describes this run and not the dense model's own path. ‖Y − Ŷ‖ ÷ ‖Y‖ as above; {PAPER}.",
)
