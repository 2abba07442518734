"""Learn: six short lessons, each with a live picture, a task, and a question with its answer."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

import plotly.graph_objects as go
import streamlit as st
import torch

import rcpu
from app import work_learn
from app.chart import chart
from app.dense import DENSE_PATH, Dense, need_statistics, ratio_slider
from app.drag import drag, format_points, parse_points, to_top
from app.figures import learn as figures
from app.findings import about_crossing, about_drift, about_fit, about_orders, about_size, about_variance, share, shown
from app.job_panels import job_panel, known_job, start
from app.jobs import Job
from app.lessons import EXAMPLES, FIRST, LESSONS, PAPER, Link
from app.settings import PREFIX, PageEnd, change, control, settings, write_url
from app.shared import current_collection, current_model, jobs, model_key
from app.widgets import count, figure, say, table
from rcpu.architecture import heads_of
from rcpu.config import SITES
from rcpu.drift import constant_error
from rcpu.growth import RIDGES, crossing, squares
from rcpu.masking import remove
from rcpu.outline import outline
from rcpu.plane import fit
from rcpu.whatif import factors, without

SMALL = {"samples": 16, "held_out": 4, "layers": "all"}  # quick to measure, and enough for every lesson
TEXT_WIDTH, PICTURE_WIDTH = 384, 560  # pixels: together they fill a page of 1440, and each fits one of 1024
SWAPS = 8  # channels in the table of lesson 4
s = settings()


def prepare(model: rcpu.Model | None) -> NoReturn:
    """What a lesson needs and does not have: one button that gets all of it, and the end of the picture."""
    job = jobs().get(s.collect)
    if job and (job.active or job.state == "failed"):
        job_panel(job)
        if job.active:
            st.caption("The lesson goes on by itself when this is done. Read the text meanwhile.")
            raise PageEnd
    with st.container(border=True):
        st.markdown("#### This lesson looks at a real model")
        what, label = "", "Measure this model"
        if model is None:
            what, label = "loads the small model that comes with the app, and ", "Load the small model and measure it"
        st.markdown(
            f"One button {what}lets it read {SMALL['samples']} short pieces of text (*windows* of {s.window} tokens), "
            "so that every number here is measured and not invented. It takes a minute or so, is done once, and all "
            "lessons share it."
        )
        if st.button(label, type="primary", icon=":material/play_arrow:"):
            if model is None:
                change(model="embedded", device="auto", dtype="auto")
            change(**SMALL)
            start("collect", lambda: work_learn.prepare_job(model_key(), s.prune_config()))
    raise PageEnd


def measured(model: rcpu.Model | None) -> bool:
    """Whether the model has statistics on the windows that are set; raises ``RcpuError`` for bad settings."""
    found = None if model is None else current_collection(model, s.prune_config())
    return found is not None and any(not found.missing([i]) for i in range(model.net.config.num_hidden_layers))


def need_dense() -> Dense:
    """The statistics that a lesson looks at."""
    model = current_model()
    try:
        if measured(model):
            return need_statistics()
    except rcpu.RcpuError as error:
        say(error)
    prepare(model)


def follow(link: Link) -> None:
    """Go where a link points, with the lessons' few windows where nothing was measured yet."""
    with contextlib.suppress(rcpu.RcpuError):  # the page there says what is wrong
        if not measured(current_model()):
            change(**SMALL)
    change(**link.settings)
    st.switch_page(f"../pages/{link.page}.py")


def need_net() -> rcpu.Model:
    """The model, for lessons that measure by themselves."""
    model = current_model()
    if model is None:
        prepare(None)
    return model


def layer_slider(layers: tuple[int, ...]) -> int:
    """One of the measured layers."""
    if len(layers) > 1:
        return control(st.select_slider, "Layer", "layer", options=list(layers))
    st.caption(f"Layer {layers[0]}: the only one that was measured")
    change(layer=layers[0])
    return layers[0]


def site_control() -> str:
    """o_proj or down_proj."""
    return control(st.segmented_control, "Projection", "site", options=list(SITES), required=True)


def what_goes() -> None:
    """Lesson 1: the matrices of one layer to scale, with what leaves."""
    dense = need_dense()
    left, right = st.columns(2, vertical_alignment="bottom")
    with left:
        ratio = ratio_slider()
    with right:
        layer = layer_slider(dense.layers)
    todo = rcpu.plan(dense.model.net, replace(dense.config, ratio=ratio, ratios=(), sites=SITES, layers=None))
    for tile, (label, before, now, unit) in zip(
        st.columns(2),
        (
            ("Parameters of the model", todo.before.parameters, todo.after.parameters, ""),
            ("Memory of its weights", todo.before.bytes, todo.after.bytes, "B"),
        ),
        strict=True,
    ):
        was = f"{now / before - 1:+.1%} of {count(before, unit)}"
        tile.metric(label, count(now, unit), was, delta_color="off", delta_arrow="off", border=True)
    after = control(st.toggle, "Show what is left", "lesson_after")
    kept = {}
    for site in SITES:
        layout = dense.layout(site)
        kept[site] = remove(dense.scores(site)[layer], layout, ratio).columns
    drawn = outline(dense.model.net, layer, kept)
    blocks = [_stacks(drawn["o_proj"]), _stacks(drawn["down_proj"])]
    figure(
        figures.matrices(blocks, layer, after),
        "lesson-matrices",
        "The weight matrices of one layer to scale, attention above and MLP below: a side is as long as there are rows "
        "or columns. The columns that "
        f"leave are those of the lowest score in this very layer, and the rows are those that computed their inputs. "
        f"Source: {PAPER}.",
    )
    st.markdown(about_size(ratio, todo.before.parameters, todo.after.parameters))
    if dense.unit("o_proj") == "channel":
        heads = heads_of(dense.model.net)
        st.caption(
            f"This model shares keys and values between heads, so attention loses *value channels* here: a row of "
            f"v_proj and the {heads.query // heads.kv} columns of o_proj that it feeds, as many in each of "
            f"{heads.kv} KV heads (rounded down), while queries and keys stay. Models without sharing lose whole heads."
        )


def _stacks(matrices: list) -> list[list]:
    """Narrow matrices on top of one another, others side by side."""
    stacks: list[list] = []
    tallest = max(m.rows for m in matrices)
    for m in matrices:
        if stacks and sum(x.rows for x in stacks[-1]) + m.rows <= 0.75 * tallest:
            stacks[-1].append(m)
        else:
            stacks.append([m])
    return stacks


def why_drift() -> None:
    """Lesson 2: error without repair over layers and over ratios."""
    dense = need_dense()
    layouts = {site: dense.layout(site) for site in SITES}
    key = work_learn.drift_key(dense.found, dense.layers, dense.config)
    found = work_learn.drifts().get(key)
    if found is None:
        job = jobs().get(s.drift)

        def queue() -> Job:
            return work_learn.drift_job(dense.model, dense.found, dense.layers, dense.config, layouts)

        if job is None or job.state == "done":  # of other settings
            start("drift", queue)
        else:
            job_panel(job)
            if not job.active and st.button("Add up the drift of every layer", type="primary"):
                start("drift", queue)
        raise PageEnd
    left, right = st.columns(2)
    with left:
        ratio = ratio_slider()
    with right:
        layer = layer_slider(dense.layers)
    nearest = min(range(len(work_learn.RATIOS)), key=lambda i: abs(work_learn.RATIOS[i] - ratio))
    at_ratio = {site: {i: e[nearest] for i, e in by.items()} for site, by in found.errors.items()}
    tiles = st.columns(2)
    for tile, site in zip(tiles, SITES, strict=True):
        tile.metric(f"Drift of {site}, layer {layer}", f"{at_ratio[site][layer]:.1%}", border=True)
    figure(
        figures.drift_over_layers(at_ratio, ratio, layer),
        "lesson-drift-layers",
        "‖Y − Z‖ ÷ ‖Y‖ = ‖W_R X_R‖ ÷ ‖Y‖ of each projection when it alone is pruned and nothing is repaired. The "
        f"columns R have the lowest scores of their layer. Source: {PAPER}.",
    )
    st.markdown(about_drift(at_ratio, ratio))
    figure(
        figures.drift_over_ratios(
            work_learn.RATIOS, {site: by[layer] for site, by in found.errors.items()}, layer, ratio
        ),
        "lesson-drift-ratios",
        "The same error of one layer at every ratio, from the same sums: the columns of lowest score leave first, and "
        f"each ratio removes those of the lower ratios too. Source: {PAPER}.",
    )
    st.caption(DENSE_PATH)


def procrustes() -> None:
    """Lesson 3: points to drag and the best rotation for them."""

    def set_points(text: str) -> None:
        s.points = text

    def dragged(text: str) -> None:
        set_points(text)
        st.session_state["lesson_example"] = None

    def example() -> None:
        if name := st.session_state["lesson_example"]:
            set_points(EXAMPLES[name] if name != next(iter(EXAMPLES)) else "")
            st.session_state["lesson_stamp"] = st.session_state.get("lesson_stamp", 0) + 1

    @st.fragment
    def plane() -> None:
        st.pills("Examples", list(EXAMPLES), key="lesson_example", on_change=example)
        control(st.toggle, "Rotations only: no mirror (det Q = +1)", "proper")
        y, z = parse_points(s.points) or parse_points(FIRST)
        found = fit(torch.tensor(y).T, torch.tensor(z).T, s.proper)
        tiles = st.columns(4)
        mirror = found.determinant < 0
        tiles[0].metric("Mirror's axis" if mirror else "Angle", f"{found.angle:.1f}°", border=True)
        tiles[1].metric("det Q", f"{found.determinant:+d}", border=True, help="+1: a turn; −1: a mirror")
        before = "‖Y − Z‖ ÷ ‖Y‖; above 1 where Z points so far away from Y that zeros would be nearer"
        tiles[2].metric("Error before", f"{found.before:.3f}", border=True, help=before)
        tiles[3].metric("Error after", f"{found.after:.3f}", border=True, help="‖Y − QZ‖ ÷ ‖Y‖")
        stamp = f"{st.session_state.get('lesson_stamp', 0)} {s.lesson}"
        drag(y, z, found.turned.T.tolist(), stamp, dragged)
        st.markdown(about_fit(found.determinant, found.angle, found.before, found.after, found.free))
        with st.expander("What am I looking at?"):
            first, second = found.singular_values
            formula = "Q = U diag(1, det UVᵀ) Vᵀ, the best without a mirror," if s.proper else "Q = UVᵀ"
            st.markdown(
                f"M = YZᵀ = USVᵀ has the singular values {first:.3g} and {second:.3g}; {formula} is computed at "
                "every move. "
                "The relative errors are ‖Y − Z‖ ÷ ‖Y‖ and ‖Y − QZ‖ ÷ ‖Y‖. Source: P. Schönemann, *A generalized "
                f"solution of the orthogonal Procrustes problem*, 1966, as {PAPER} uses it."
            )
            st.caption("The points as this page's address holds them, the targets Y first:")
            st.code(format_points(y, z), language=None, wrap_lines=True)
        write_url()

    plane()


def why_variance() -> None:
    """Lesson 4: which channels leave with the variance in the score, and which without."""
    dense = need_dense()
    site = site_control()
    left, right = st.columns(2, vertical_alignment="bottom")
    with left:
        layer = layer_slider(dense.layers)
    with right:
        ratio = ratio_slider()
    asked, layout = dense.projection(layer, site), dense.layout(site)
    parts = factors(asked.weight, asked.x)
    removals = {
        "with": remove(without(parts, None), layout, ratio),
        "without": remove(without(parts, "variance"), layout, ratio),
    }
    kept, errors = {}, {}
    for name, removal in removals.items():
        kept[name] = torch.zeros(asked.weight.shape[1], dtype=torch.bool)
        kept[name][removal.columns] = True
        found = {"none": asked.plain_error(removal.columns), "bias": constant_error(asked, removal.columns)}
        errors[name] = {k: e.calibration if e.held_out is None else e.held_out for k, e in found.items()}
    swapped = ~kept["with"] & kept["without"]
    gone = int((~kept["with"]).sum())
    tiles = st.columns(3)
    tiles[0].metric(
        "Channels that differ",
        f"{int(swapped.sum()):,}",
        f"of {gone:,}",
        delta_color="off",
        delta_arrow="off",
        border=True,
    )
    for tile, name, label in ((tiles[1], "with", "with variance"), (tiles[2], "without", "without variance")):
        tile.metric(
            f"Error, {label}",
            share(errors[name]["none"]),
            f"{share(errors[name]['bias'])} with a bias",
            delta_color="off",
            delta_arrow="off",
            border=True,
            help="A bias is no part of RCPU. Here it stands for what is lost with inputs that hardly change",
        )
    deviation = asked.x.variance.sqrt()
    figure(
        figures.channels(
            asked.x.mean_absolute, deviation, kept["with"], kept["without"], f"Inputs of layer {layer} {site}"
        ),
        "lesson-channels",
        "One mark an input channel: mean|x| over tokens, and the standard deviation over tokens, both from the "
        "calibration windows. RCPU removes the lowest ‖W_j‖ · mean|x_j| · Var(x_j); the other score leaves Var out. "
        f"Source: {PAPER}.",
    )
    st.markdown(about_variance(int(swapped.sum()), gone, errors, asked.held_out is not None))
    if swapped.any():
        ids = swapped.nonzero().flatten()
        constant = asked.x.mean**2 / (asked.x.mean**2 + asked.x.variance).clamp_min(1e-30)
        ids = ids[constant[ids].argsort(descending=True)][:SWAPS]
        with st.expander("Channels that leave only because variance counts, the most constant first"):
            table(
                {
                    "channel": ids.tolist(),
                    "mean|x|": [round(v, 5) for v in asked.x.mean_absolute[ids].tolist()],
                    "standard deviation": [round(v, 5) for v in deviation[ids].tolist()],
                    "constant part of mean(x²) (%)": [round(100 * v, 1) for v in constant[ids].tolist()],
                },
                "lesson-swaps",
            )
            st.caption("The constant part is mean(x)² ÷ mean(x²): 100% for an input that never changes.")
    st.caption(DENSE_PATH)


def over_fitting() -> None:
    """Lesson 5: errors over more and more calibration windows."""
    model = need_net()
    site = site_control()
    left, right = st.columns(2, vertical_alignment="bottom")
    with left:
        layer = layer_slider(tuple(range(model.net.config.num_hidden_layers)))
    with right:
        ratio = ratio_slider()
    names = {str(r): f"{r:g}" for r in RIDGES}
    left, right = st.columns(2, vertical_alignment="bottom")
    with left:
        ridge = control(
            st.segmented_control,
            "Ridge λ",
            "curve_ridge",
            options=list(names),
            format_func=names.get,
            required=True,
            help="Of least squares, in units of the mean power of the inputs: the larger, the nearer to W_K",
        )

    def picture(made: work_learn.Growth) -> go.Figure:
        title = f"Layer {made.layer} {made.site}, {made.ratio:.0%} removed"
        return figures.growing(made.steps, squares(float(ridge)), title)

    def growing(job: Job) -> None:
        if job.partial and job.partial.steps:
            chart(picture(job.partial), "lesson-growing")

    job = known_job("curve")
    with right:
        if st.button(
            "Measure",
            type="primary",
            width="stretch",
            icon=":material/play_arrow:",
            disabled=bool(job and job.active),
        ):
            start("curve", lambda: work_learn.growth_job(model, s.prune_config(), layer, site))
    if job is None:
        st.caption("Nothing measured yet. It takes seconds in the first layers, and longer in every layer further up.")
        return
    job_panel(job, growing)
    if job.state != "done":
        return
    made = job.result
    if (made.layer, made.site, made.ratio) != (layer, site, ratio):
        st.info("The controls have changed since: press the button to measure what they say.", icon=":material/info:")
    key, first, last = squares(float(ridge)), made.steps[0].held_out, made.steps[-1].held_out
    st.caption(
        f"Held-out error with {made.steps[-1].windows} windows, and with the least text. It changes even where nothing "
        "is repaired, because the text also chooses which columns leave:"
    )
    for tile, name, label in zip(
        st.columns(3), ("none", "rotation", key), ("Not repaired", "Rotation", "Least squares"), strict=True
    ):
        before, after = f"{_error(first[name])} with {made.steps[0].windows}", _error(last[name])
        tile.metric(label, after, before, delta_color="off", delta_arrow="off", border=True)
    figure(
        picture(made),
        "lesson-growth",
        f"‖Y − Ŷ‖ ÷ ‖Y‖, with Ŷ the output after pruning and repair, on 16 held-out windows (solid) and on the "
        f"calibration windows themselves (dotted). Each point is what a run with so many windows would do: scores, "
        f"kept columns and repair come from those alone. Hover over a point "
        f"for its tokens and how many they are for each kept input. With much text a dotted line may end above its "
        f"solid one: the two are errors on different texts. "
        f"Source of both repairs: {PAPER}.",
    )
    one = (first["none"], first["rotation"], first[key])
    st.markdown(about_crossing(crossing(made.steps, key), float(ridge), one, made.steps[-1].windows))
    st.caption(DENSE_PATH)


def _error(value: float | None) -> str:
    return "no solution" if value is None else f"{value:.4f}"


def which_first() -> None:
    """Lesson 6: the first layers pruned in both orders."""
    model = need_net()
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    with left:
        ratio = ratio_slider()
    job = known_job("orders")
    with right:
        if st.button(
            "Prune in both orders",
            type="primary",
            width="stretch",
            icon=":material/play_arrow:",
            disabled=bool(job and job.active),
        ):
            start("orders", lambda: work_learn.orders_job(model, s.prune_config(), s.eval_text))
    if job is None:
        st.caption(
            f"Nothing pruned yet. Two runs of layers 0 to 3 on {work_learn.ORDERED['samples']} windows, then four "
            "perplexities: the slowest of the lessons, about two minutes on two cores."
        )
        return
    job_panel(job)
    if job.state != "done":
        return
    made = job.result
    if made.config.ratio != ratio:
        st.info("The ratio has changed since: press the button to prune at it.", icon=":material/info:")
    pruned = made.config.layers
    some = made.perplexity["dense"]
    st.caption(
        f"Perplexity on {some.windows} windows of {some.window} tokens that were not calibrated on; lower is better:"
    )
    for tile, (name, label) in zip(st.columns(4), {"dense": "Dense", **figures.ORDER_SHORT}.items(), strict=True):
        tile.metric(label, shown(made.perplexity[name].perplexity), border=True)
    st.markdown(about_orders(made.drift, {k: p.perplexity for k, p in made.perplexity.items()}, pruned[-1]))
    figure(
        figures.order_drift(made.drift, pruned),
        "lesson-order-drift",
        f"The distance of the stream ĥ after each layer from h, that of the dense model, on held-out windows, "
        f"relative to its length, as a mean over tokens. Only the shaded layers are pruned; the later ones pass the "
        f"drift on. It counts all directions alike and perplexity only what the next token depends on, so the two need "
        f"not fall together. "
        f"Source of the orders: {PAPER}, which measures both first.",
    )
    figure(
        figures.order_gains(made.drift, pruned),
        "lesson-order-gains",
        "1 − (‖h − ĥ‖ ÷ ‖h‖ repaired) ÷ (the same not repaired), after each pruned layer: what the lines above differ "
        f"by, where they lie too close to tell apart. Below 0 the repair moves the stream away. Source: {PAPER}.",
    )


def enter(lesson: int) -> None:
    """Go to a lesson and put its controls where they were left, or where it begins; dragged points always stay."""
    left = st.session_state.setdefault("lessons_left", {})
    left[s.lesson] = {name: getattr(s, name) for name in LESSONS[s.lesson].settings}
    wanted = LESSONS[lesson].settings | left.get(lesson, {})
    change(lesson=lesson, **{k: v for k, v in wanted.items() if k not in ("points", "proper")})


def reset(lesson: int) -> None:
    """Put the controls of a lesson where it begins; lessons have none for the chosen layers, so all are."""
    change(layers="all", **LESSONS[lesson].settings)
    st.session_state["lesson_example"] = None
    st.session_state["lesson_stamp"] = st.session_state.get("lesson_stamp", 0) + 1


PICTURES: tuple[Callable[[], None], ...] = (
    what_goes,
    why_drift,
    procrustes,
    why_variance,
    over_fitting,
    which_first,
)

s.lesson = min(max(s.lesson, 0), len(LESSONS) - 1)
to_top(s.lesson)
st.title("Learn")
st.write(
    "RCPU ([arXiv 2510.07782](https://arxiv.org/abs/2510.07782)) makes a language model smaller and repairs what is "
    "left by a rotation. Six short lessons on real numbers, for everyone who knows what a matrix is: no need to have "
    "read the paper."
)
number = control(
    st.segmented_control,
    "Lesson",
    "lesson",
    options=list(range(len(LESSONS))),
    format_func=lambda i: f"{i + 1} · {LESSONS[i].short}",
    required=True,
    width="stretch",
    label_visibility="collapsed",
    on_change=lambda: enter(st.session_state[PREFIX + "lesson"]),
)
lesson = LESSONS[number]
st.subheader(f"{number + 1}. {lesson.title}")
st.markdown(f"*{lesson.idea}*")
# Side by side where there is room for both, else the text above the picture.
both = st.container(horizontal=True, gap="medium")
text, picture = both.container(width=TEXT_WIDTH), both.container(width=PICTURE_WIDTH)
with text:
    for step in lesson.steps:
        st.markdown(step)
    st.latex(lesson.formula)
    st.caption(lesson.formula_says)
with picture:
    with st.container(border=True):
        st.markdown(f":material/touch_app: **Try it.** {lesson.task}")
    with contextlib.suppress(PageEnd):
        PICTURES[number]()
with st.container(border=True):
    st.markdown(f"##### :material/help: Question\n\n{lesson.question}")
    with st.expander("Answer", key=f"answer-{number}", on_change="rerun"):  # of its own: the next one stays shut
        st.markdown(lesson.answer)
with st.container(horizontal=True):
    for link in lesson.links:
        if st.button(link.label, key=f"link-{link.label}", icon=":material/arrow_outward:"):
            follow(link)
    st.button("Reset this lesson's controls", icon=":material/restart_alt:", on_click=reset, args=(number,))
with st.container(horizontal=True, horizontal_alignment="distribute"):
    if number:
        label = f"Back: {LESSONS[number - 1].short}"
        st.button(label, icon=":material/arrow_back:", on_click=enter, args=(number - 1,))
    if number + 1 < len(LESSONS):
        label = f"Next: {LESSONS[number + 1].short}"
        st.button(label, type="primary", icon=":material/arrow_forward:", on_click=enter, args=(number + 1,))
    elif st.button("That was all: prune the model yourself", type="primary", icon=":material/content_cut:"):
        follow(Link("", "prune", {"compensation": "rotation", "order": "paper"}))
