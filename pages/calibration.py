"""Calibration: the text that pruning is tuned on, how far it reaches, and what it shows of the model's inputs."""

import streamlit as st

import rcpu
from app.demo import UPLOAD, check_calibration, check_upload, limits
from app.dense import DENSE_PATH, layout_of, need_model, need_statistics
from app.figures import calibration as figures
from app.settings import PREFIX, PageEnd, change, control, settings
from app.shared import windows
from app.spans import border_spans
from app.texts import uploads
from app.tiles import Tile, tiles
from app.widgets import abreast, figure, say, size, table
from rcpu.explain import OUTLIER, QUANTITIES, inflation, kept_inputs, outliers, relative
from rcpu.models import SITES, heads_of
from rcpu.statistics import collection_bytes
from rcpu.text import token_pieces

VIEWS = {"windows": "Windows", "reach": "Tokens and over-fitting", "inputs": "Inputs over layers"}
TEXTS = {"embedded": "Python language reference (embedded)", "wikitext2": "WikiText-2 (hub)"}


def text_label(name: str) -> str:
    """What a text is called in the list."""
    if not name.startswith(UPLOAD):
        return TEXTS.get(name, name)
    try:
        return f"{uploads().get(name).name} (yours)"
    except rcpu.RcpuError:
        return "a text no longer in memory"


def take(name: str, data: bytes) -> None:
    """Make a text that was handed over the calibration text; what is wrong with it is said at the next drawing."""
    try:
        check_upload(len(data))
        change(text=uploads().put(name, data), shown_window=0)
        st.session_state.pop("text_refused", None)
    except rcpu.RcpuError as error:
        st.session_state["text_refused"] = str(error)


def uploaded() -> None:
    """A file was chosen."""
    if (file := st.session_state["upload"]) is not None:
        take(file.name, file.getvalue())


def pasted() -> None:
    """The form with a pasted text was submitted."""
    text = st.session_state["pasted"]
    first = " ".join(text.split()[:4])
    take(f"pasted: {first[:40]}…", text.encode())


def choose_text() -> None:
    """Widgets for the text."""
    s, allowed = settings(), limits()
    known = [t for t in TEXTS if allowed.texts is None or t in allowed.texts]
    own = st.session_state.setdefault("own_texts", [])
    own += {s.text, st.session_state.get(PREFIX + "text", s.text)} - {*known, *own}  # a link's, and one just typed
    choice, more = st.columns([3, 2], vertical_alignment="bottom")
    anything = allowed.texts is None
    with choice:
        control(
            st.selectbox,
            "Text",
            "text",
            options=[*known, *own],
            format_func=text_label,
            accept_new_options=anything,
            help="Choose one, or type the path of a UTF-8 file or a hub data set, `owner/name` or `owner/name:config`"
            if anything
            else "Choose one, or hand over a text of your own",
        )
    with more.popover("A text of your own", icon=":material/upload_file:", width="stretch"):
        st.file_uploader(
            f"Text, or rows as JSONL, CSV or Parquet, at most {size(allowed.upload_bytes)}",
            key="upload",
            on_change=uploaded,
            max_upload_size=max(1, allowed.upload_bytes // 2**20),
        )
        with st.form("paste", border=False):
            st.text_area("Or paste it", key="pasted", height=160)
            st.form_submit_button("Use this text", on_click=pasted)
        st.caption("It stays in the memory of the machine that serves this app until that stops or many others came.")
    if refused := st.session_state.get("text_refused"):
        say(refused)


def show_windows(model: rcpu.Model, drawn: rcpu.Windows) -> None:
    """One window with its token borders."""
    calibration, held_out = len(drawn.calibration), len(drawn.held_out)
    if calibration + held_out > 1:
        shown = control(
            st.slider,
            "Window",
            "shown_window",
            min_value=0,
            max_value=calibration + held_out - 1,
            help="Calibration windows first, then held-out ones. Hover over a token to see its number",
        )
    else:
        shown = 0
    held = shown >= calibration
    ids = (drawn.held_out[shown - calibration] if held else drawn.calibration[shown]).tolist()
    st.markdown(
        f"**Held-out window {shown - calibration} of {held_out}**: errors are reported on it, nothing is fitted to it"
        if held
        else f"**Calibration window {shown} of {calibration}**, counted from 0"
    )
    with st.container(border=True, height=420 if len(ids) > 400 else "content"):
        titles = [f"token {i}, id {token}" for i, token in enumerate(ids)]
        st.html(border_spans(token_pieces(model.tokenizer, ids), titles))
    characters = sum(map(len, token_pieces(model.tokenizer, ids)))
    st.caption(
        f"{len(ids):,} tokens, {len(set(ids)):,} of them different, {characters / len(ids):.1f} characters a token. "
        "↵ is a line end, · a further token of the same character. Windows begin anywhere in the text, so most start "
        "in the middle of a sentence; held-out ones come from the last part of the text, which no calibration window "
        "touches."
    )


def show_reach(model: rcpu.Model) -> None:
    """Tokens for each number that a compensation fits."""
    s = settings()
    config = model.net.config
    tokens, hidden = s.samples * s.window, config.hidden_size
    inputs = {"o_proj": heads_of(model.net).query * heads_of(model.net).dim, "down_proj": config.intermediate_size}
    try:
        kept = {site: kept_inputs(layout_of(model, s.recipe("columns"), site), s.ratio) for site in inputs}
    except rcpu.RcpuError as error:
        say(error)
        return
    figure(
        figures.over_fitting(kept, tokens, s.window),
        "over-fitting",
        "Least squares fits k kept inputs for every output. On n independent tokens of Gaussian inputs its error "
        "on new ones is √(n(n−1) ÷ ((n−k)(n−k−1))) times that on its own, from the mean of an inverse Wishart "
        "matrix; with n ≤ k it fits the calibration data exactly. Tokens of one window resemble one another, so "
        "expect more; a ridge λ gives less. Spectrum and rotation shows the errors measured on held-out windows.",
    )
    rows: dict[str, list] = {"projection": list(inputs)}
    rows["inputs"] = list(inputs.values())
    rows["tokens per input"] = [round(tokens / d, 2) for d in inputs.values()]
    rows[f"kept at ratio {s.ratio:g}"] = list(kept.values())
    rows["per number, least squares"] = [round(tokens / k, 2) for k in kept.values()]
    rows["per number, rotation"] = [round(2 * tokens / max(1, hidden - 1), 2)] * len(inputs)
    rows["new ÷ calibration error"] = [
        f"{r:.2f}" if (r := inflation(tokens, k)) < 100 else "fits exactly" for k in kept.values()
    ]
    table(rows, "tokens-an-input")
    st.markdown(
        f"- **Least squares** fits one number a kept input, for each output. Without a ridge it needs several "
        f"tokens for each to be worth more than its noise.\n"
        f"- **Rotation** is bound to QᵀQ = I: {hidden:,}·{hidden - 1:,}/2 free numbers altogether, "
        f"{(hidden - 1) / 2:,.1f} an output, however many inputs there are. With fewer freedoms it over-fits "
        "less than least squares without a ridge, and can repair less.\n"
        "- **Scores** are means over tokens, one a channel: they settle first.\n"
        "- For LLaMA-7B the RCPU paper shows perplexity after rotation falling until 64 windows of 128 tokens, "
        "and flat from there: 2.0 tokens for each input of o_proj, 0.7 of down_proj (read off its plot, "
        "[arXiv 2510.07782](https://arxiv.org/abs/2510.07782)). It also has least squares overtake the rotation "
        "with 512 windows."
    )


def show_inputs() -> None:
    """Heat map and outliers over layers."""
    dense = need_statistics()
    pick, quantity_pick = st.columns([1, 2], vertical_alignment="bottom")
    with pick:
        site = control(st.segmented_control, "Inputs of", "site", options=list(SITES), required=True, width="stretch")
    with quantity_pick:
        quantity = control(
            st.segmented_control,
            "Colour",
            "heat",
            options=list(QUANTITIES),
            format_func=figures.QUANTITIES.get,
            required=True,
            width="stretch",
        )
    sums = {i: dense.found.vectors(i, site) for i in dense.layers}
    found = {i: outliers(x) for i, x in sums.items()}
    times = {i: relative(x.mean_absolute).max().item() for i, x in sums.items()}
    largest = {i: x.mean_absolute.max().item() for i, x in sums.items()}
    variances = {i: x.variance.sum().item() for i, x in sums.items()}
    loudest, widest = max(times, key=times.get), max(variances, key=variances.get)
    top = max(largest, key=largest.get)
    tiles(
        Tile(
            "Outlier channels",
            f"{sum(map(len, found.values())):,}",
            f"of {sum(len(x.total) for x in sums.values()):,} in {len(sums)} layers",
            help=f"mean|x| above {OUTLIER:g} times the median of their layer",
        ),
        Tile("Largest ÷ median", f"{times[loudest]:,.1f}", f"layer {loudest}"),
        Tile("Largest mean|x|", f"{largest[top]:.3g}", f"layer {top}"),
        Tile("Most variance", f"{variances[widest]:.3g}", f"layer {widest}, sum over channels"),
    )
    heat, beside = abreast("outliers", wide_left=True)
    with heat:
        figure(
            figures.channels({i: QUANTITIES[quantity](x) for i, x in sums.items()}, quantity, site),
            "inputs",
            "mean|x_j| and Var(x_j) = mean(x_j²) − mean(x_j)² over all calibration tokens are two factors of the RCPU "
            "score ([arXiv 2510.07782](https://arxiv.org/abs/2510.07782)). A column is a layer with its channels "
            "sorted by rank; ranks and colours are logarithmic, so that the few outliers on top are seen.",
        )
    with beside:
        st.markdown(f"**Outlier channels**: mean|x| above {OUTLIER:g} × the median of their layer")
        if any(found.values()):
            width = heads_of(dense.model.net).dim if site == "o_proj" else None
            table(figures.outlier_table(found, width), f"outliers-{site}")
        else:
            st.caption(f"None: the largest has {times[loudest]:.1f} times the median, in layer {loudest}.")
    st.caption(DENSE_PATH)


st.title("Calibration")
st.write("Choose the text whose activations decide what is pruned and how the rest is repaired, and see what it holds.")
model = need_model()
s, allowed = settings(), limits()
choose_text()
for place, (label, name, low, high, step, what) in zip(
    st.columns(4, vertical_alignment="bottom"),
    (
        ("Windows", "samples", 1, allowed.samples, 16, "Stretches of the text, from uniformly random places"),
        ("Tokens a window", "window", 2, allowed.window, 16, "The papers take 128"),
        ("Held-out", "held_out", 0, allowed.held_out, 4, "Windows from the last part of the text, to report errors on"),
        ("Seed", "seed", 0, 2**31 - 1, 1, "Where windows begin"),
    ),
    strict=True,
):
    with place:
        control(st.number_input, label, name, min_value=low, max_value=high, step=step, help=what)
try:
    check_calibration(s.samples, s.window, s.held_out)
    drawn = windows().get(model, s.recipe("columns"))
except rcpu.RcpuError as error:
    say(error)
    raise PageEnd from error

tokens = s.samples * s.window
heads, config = heads_of(model.net), model.net.config
counted = [
    Tile("Calibration tokens", f"{tokens:,}"),
    *(
        Tile(
            f"Per {name} input",
            f"{tokens / width:.1f}",
            help=f"{tokens:,} tokens ÷ {width:,} inputs; below about 1, least squares fits noise",
        )
        for name, width in (("o_proj", heads.query * heads.dim), ("down_proj", config.intermediate_size))
    ),
]
if drawn is not None:
    need = collection_bytes(model.net, drawn, range(config.num_hidden_layers), SITES)
    counted += [
        Tile("Different tokens", f"{len(drawn.calibration.unique()):,}"),
        Tile("Statistics on disk", size(need), help="Of all layers, if the dense model is measured"),
    ]
tiles(*counted)
view = control(
    st.segmented_control,
    "View",
    "calibration_view",
    options=list(VIEWS),
    format_func=VIEWS.get,
    required=True,
    label_visibility="collapsed",
)
if view == "windows" and drawn is None:
    st.info(
        "This text takes a while: its windows are drawn when the dense model is measured, see **Inputs over layers**.",
        icon=":material/info:",
    )
elif view == "windows":
    show_windows(model, drawn)
elif view == "reach":
    show_reach(model)
else:
    show_inputs()
