"""Runs: every pruning that is kept, sorted, filtered, set beside one another, done again or let go of."""

import time

import streamlit as st

import rcpu
from app.figures import runs as figures
from app.kept import place, store_of, visible_runs
from app.methods import upload_recipe
from app.run_panels import delete, disk, one_run, two_runs
from app.runs import described
from app.settings import PREFIX, PageEnd, change, control, control_list, settings
from app.widgets import empty, figure, plain, say, size, table
from rcpu.runs import STATES, Shelf, published

st.title("Runs")
st.write("Every pruning is kept here with its recipe, what was found and what was measured of it.")
s = settings()
if why := place().why_not:
    st.warning(plain(f"Runs are kept only until this app ends: {why}."), icon=":material/save:")
try:
    runs = visible_runs()
except rcpu.RcpuError as error:
    say(error)
    raise PageEnd from error


def recipes() -> None:
    """A recipe that somebody passed on."""
    with st.popover("Open a recipe", icon=":material/upload:"):
        if upload_recipe():
            st.page_link("../pages/prune.py", label="It is set on Prune", icon=":material/arrow_forward:")


if not runs:
    empty("No run is kept yet", "../pages/start.py", "Prune a model on Start")
    recipes()
    raise PageEnd

shelf = Shelf.of(place().store, runs)
if len(place().stores) > 1:
    for other in place().others:
        more = Shelf.of(other, runs)
        shelf.perplexity.update(more.perplexity)
        shelf.accuracy.update(more.accuracy)
        shelf.speed.update(more.speed)
windows = shelf.windows()
with st.container(horizontal=True, vertical_alignment="bottom", key="runs-filter"):
    control(st.text_input, "Find", "runs_find", placeholder="name, tag, note, model or method", max_chars=100)
    control(st.selectbox, "State", "runs_state", options=["all", *STATES])
    if len(windows) > 1:
        if s.runs_on not in windows:
            change(runs_on=next(iter(windows)))
        control(
            st.selectbox,
            "Perplexity on",
            "runs_on",
            options=list(windows),
            format_func=lambda d: f"{windows[d].text}, {windows[d].windows} × {windows[d].window}",
        )
    recipes()
rows = shelf.rows(s.runs_on if s.runs_on in windows else next(iter(windows), ""))


def matches(run: rcpu.runs.Run) -> bool:
    """Whether what was typed is in anything that a run is called."""
    method = rcpu.METHODS.get(run.recipe["method"])
    told = [run.name, run.note, *run.tags, run.about["model"], run.id, *map(str, run.recipe.values())]
    text = " ".join([*told, method.label if method else ""]).lower()
    return s.runs_state in ("all", run.state) and all(word in text for word in s.runs_find.lower().split())


rows = [row for row in rows if matches(row.run)]
if not rows:
    st.info("No run matches.", icon=":material/search_off:")
    raise PageEnd
ids = [row.run.id for row in rows]


def picked() -> None:
    """Lines of the table that were picked are what is shown below."""
    chosen = [ids[i] for i in st.session_state["runs-table"]["selection"]["rows"] if i < len(ids)]
    change(picked_runs=",".join(chosen))
    st.session_state.pop(PREFIX + "picked_runs", None)


def what_it_does(run: rcpu.runs.Run) -> str:
    """Its settings in a line; where this version does not know them all, they are not made up."""
    try:
        return described(rcpu.Recipe.from_dict(run.recipe))
    except rcpu.RcpuError:
        return f"{run.recipe['method']} {run.recipe['ratio']:.0%}, by another version"


def percent(row: rcpu.runs.Row) -> float | None:
    """What is left of the dense model, in percent."""
    return None if row.parameters is None else round(100 * row.parameters / row.dense_parameters, 1)


table(
    {
        "name": [row.run.name for row in rows],
        "state": [row.run.state for row in rows],
        "what it does": [what_it_does(row.run) for row in rows],
        "parameters (M)": [row.parameters and round(row.parameters / 1e6, 2) for row in rows],
        "left (%)": list(map(percent, rows)),
        "error": [None if row.error is None else round(row.error, 4) for row in rows],
        "perplexity": [row.perplexity and round(row.perplexity.perplexity, 2) for row in rows],
        "accuracy (%)": [None if row.accuracy is None else round(100 * row.accuracy, 1) for row in rows],
        "seconds": [row.run.about.get("seconds") and round(row.run.about["seconds"], 1) for row in rows],
        "begun": [time.strftime("%Y-%m-%d %H:%M", time.localtime(row.run.created)) for row in rows],
        "model": [row.run.about["model"] for row in rows],
        "tags": [", ".join(row.run.tags) for row in rows],
    },
    "runs",
    key="runs-table",
    on_select=picked,
    selection_mode="multi-row",
    height=min(38 + 35 * len(rows), 300),
)
disk(runs)

with st.container(horizontal=True, vertical_alignment="bottom", key="runs-axes"):
    control(st.selectbox, "Size", "runs_x", options=list(figures.SIZES), format_func=lambda n: figures.SIZES[n].label)
    control(
        st.selectbox,
        "Quality",
        "runs_y",
        options=list(figures.QUALITIES),
        format_func=lambda n: figures.QUALITIES[n].label,
    )
    control(st.toggle, "Divided by the dense model's", "runs_relative")
x, y = figures.SIZES[s.runs_x], figures.QUALITIES[s.runs_y]
chosen = [i for i in s.picked_runs.split(",") if i in ids]
if not figures.placed(rows, x, y, s.runs_relative):
    what = " of the dense model, too" if s.runs_relative else ""
    st.info(
        f"No run here has both {x.label} and {y.label}{what}: measure on Compare or Benchmarks.", icon=":material/info:"
    )
else:
    figure(
        figures.size_quality(rows, x, y, relative=s.runs_relative, picked=chosen, field=published()),
        "size-quality",
        "A point a run; right is larger, and what is lower (perplexity) or higher (accuracy) is better. Lines span the "
        "95 % interval over windows. Grey marks are published results, each divided by **its own** dense model: other "
        "models, texts and windows, to orient by and not to rank against. Their sources are told when you point at "
        "them. A perplexity ratio of 1 means that nothing was lost.",
        f"{s.runs_x} {s.runs_y} {s.runs_relative}",
    )

by_id = {row.run.id: row for row in rows}
keys = control_list(
    st.multiselect,
    "Look at (two stand side by side)",
    "picked_runs",
    options=ids,
    usual=[ids[0]],
    format_func=lambda i: f"{by_id[i].run.name} · {by_id[i].run.id[:6]}",
)
if len(keys) == 1:
    one_run(by_id[keys[0]])
elif len(keys) == 2:
    two_runs(by_id[keys[0]], by_id[keys[1]])
if len(keys) > 1:
    total = sum(store_of(i).bytes_of(i) for i in keys)
    delete(st.container(), [by_id[i].run for i in keys], f"Delete these {len(keys)} ({size(total)})")
