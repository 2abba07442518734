"""Benchmarks: accuracy on tasks, whether two models differ, and the items that only one of them got right."""

import contextlib
import json

import streamlit as st

import rcpu
from app import spans
from app.demo import limits
from app.dense import need_model
from app.figures import benchmarks as figures
from app.figures.compare import style
from app.job_panels import job_panel, known_job, start
from app.kept import place
from app.measuring import these
from app.opening import open_runs
from app.perplexities import changed
from app.remembered import task_results
from app.runs import DENSE, dense, usual, variants
from app.settings import control, control_list, control_names, settings
from app.tiles import Tile, tiles
from app.widgets import figure, plain, say, table
from app.work_tasks import folder_of, tasks_asked, tasks_job
from rcpu.measure import (
    EMBEDDED,
    PAPER,
    PUBLISHED,
    SETS,
    columns,
    compare_tasks,
    folder_tasks,
    latex,
    mean_accuracy,
    mean_difference,
    metric_of,
)

MOST = 6  # models at once
METRICS = {"": "each task's main one", "acc": "accuracy as it is", "acc_norm": "accuracy by length"}
CALLED = {"embedded": "embedded (2 tasks, no network)", "paper": "paper (7 tasks, from the hub)"}

st.title("Benchmarks")
st.write(
    "Questions with one right answer: how many each model gets right, and whether two models differ by more than luck."
)

s, allowed = settings(), limits()
runs = open_runs()
if runs:
    model, everything = next(reversed(runs.values())).model, variants(runs)
    at_first = usual(everything)
else:
    model = need_model()
    everything = {DENSE: dense(model)}
    at_first = [DENSE]
keys = control_list(
    st.multiselect,
    "Models",
    "compare",
    options=list(everything),
    usual=at_first,
    format_func=lambda k: everything[k].label,
    max_selections=MOST,
    help="Each run as it is, and with the same units removed but nothing repaired",
)
if not runs:
    st.page_link("../pages/prune.py", label="Prune a model, to compare it", icon=":material/arrow_forward:")
chosen = {k: everything[k] for k in everything if k in keys}
styles = {k: style(v.label, v.role, v.order) for k, v in chosen.items()}

offered = [*SETS, *EMBEDDED, *PAPER] if allowed.tasks is None else list(allowed.tasks)
local = []
if s.tasks_folder and allowed.tasks is None:
    try:
        local = [name for name, path in folder_tasks(folder_of(s.tasks_folder)).items() if path.suffix == ".jsonl"]
    except rcpu.RcpuError as error:
        say(error)
left, items, shots, button = st.columns([5, 2, 2, 3], vertical_alignment="bottom")
with left:
    names = control_names(
        "Tasks",
        "tasks",
        [*local, *offered],
        format_func=lambda name: CALLED.get(name, name),
        accept_new_options=allowed.tasks is None,
        placeholder="Take some, or type the name of any task of lm-eval",
    )
with items:
    control(
        st.number_input,
        "Items a task",
        "task_items",
        min_value=1,
        max_value=allowed.task_items,
        step=20,
        help="The first ones of each; the more, the narrower the intervals",
    )
with shots:
    control(
        st.number_input,
        "Examples before each",
        "few_shot",
        min_value=0,
        max_value=16,
        help="Few-shot; the papers of the field use none",
    )
if allowed.tasks is None:
    control(
        st.text_input,
        "Folder of your own tasks",
        "tasks_folder",
        placeholder="/path/to/folder",
        max_chars=1000,
        help="JSONL files, each a task: rows with `query`, `choices` and `gold`, or with `context_options`, "
        "`continuation` and `gold`",
    )
asked = names, s.tasks_folder, s.task_items, s.few_shot
if button.button("Run tasks", type="primary", width="stretch", disabled=not chosen):
    start("bench", lambda: tasks_job(model.tokenizer, chosen, *asked))
if not chosen:
    st.info("Choose at least one model.", icon=":material/info:")

job, before = known_job("bench"), {}
if job is None:
    with contextlib.suppress(rcpu.RcpuError):  # a folder that is none was said above
        before = task_results(chosen, tasks_asked(*asked))
if job is None and not before:
    with st.container(border=True):
        st.markdown("#### No task was run yet")
        st.markdown(
            "`embedded` asks for the last word of a passage, and which of four continuations follows, on text that was "
            "never calibrated on: about a minute a model on two cores. How long it takes is shown as soon as it begins."
        )
if job is not None:
    job_panel(job)
    if why := place().why_not:
        st.warning(plain(f"Results are kept only until this app ends: {why}."), icon=":material/save:")
    if job.asks[1:] != asked:
        tasks, folder, most, few = job.asks[1:]
        changed(f"of {', '.join(tasks)}{f' in {folder}' * bool(folder)}, at most {most} items each, {few}-shot")
found = before if job is None else {} if job.active else these(job, chosen)


def overview() -> None:
    """Models × tasks: the means, the figure and the table with its downloads."""
    labels = {chosen[k].label: r for k, r in found.items()}
    first, *others = found
    shown = []
    for key, of_model in found.items():
        mean = mean_accuracy(list(of_model.values()), s.metric)
        gap = mean_difference([(found[first][t], r) for t, r in of_model.items()], s.metric) if key in others else None
        note = f"{gap.value:+.1f} points [{gap.low:+.1f}, {gap.high:+.1f}]" if gap and gap.low is not None else ""
        shown.append(Tile(f"{chosen[key].label}: mean accuracy", "–" if mean is None else f"{100 * mean:.1f}%", note))
    tiles(*shown)
    metrics = {m for of_model in found.values() for r in of_model.values() for m in r.metrics}
    options = [m for m in METRICS if not m or m in metrics]
    if len(options) > 2:
        control(st.segmented_control, "Metric", "metric", options=options, format_func=METRICS.get)
    figure(
        figures.accuracy_bars(found, styles, s.metric),
        "accuracy",
        "The share of items that a model gets right: of several choices it takes the one to which it gives the highest "
        "likelihood, by length (acc_norm) that divided by the choice's number of characters; a last word counts where "
        "every token of it is the most probable one. Lines are ± one standard error, √(p(1−p)/(n−1)); grey marks are "
        "what a uniform guess gives. lm-eval, Gao et al.",
    )
    table(columns(labels, s.metric), "benchmarks")
    line = st.container(horizontal=True)
    full = {name: {task: r.to_dict() for task, r in of_model.items()} for name, of_model in labels.items()}
    for kind, mime, made in (
        ("JSON", "application/json", lambda: json.dumps(full, indent=1, ensure_ascii=False)),
        ("LaTeX", "application/x-tex", lambda: latex(labels, s.metric)),
    ):
        name = f"benchmarks.{'tex' if kind == 'LaTeX' else 'json'}"
        icon = ":material/download:"
        line.download_button(f"{kind}", made, name, mime, on_click="ignore", type="tertiary", icon=icon)
    st.caption(
        "± standard error over items. “Always one answer” is what the best single answer would give: a model near it "
        "may know nothing."
    )


def two_models() -> None:
    """What differs between two of the models, task by task, and item by item."""
    st.subheader("Two models")
    left, right = st.columns(2)
    call = lambda k: chosen[k].label  # noqa: E731
    with left:
        first = control(st.selectbox, "First", "first", options=list(found), format_func=call)
    rest = [k for k in found if k != first]
    if s.second not in rest:
        s.second = rest[-1]
    with right:
        second = control(st.selectbox, "Second", "second", options=rest, format_func=call)
    pairs = {task: (found[first][task], r) for task, r in found[second].items() if task in found[first]}
    made = {task: compare_tasks(*pair, metric_of(pair[0], s.metric)) for task, pair in pairs.items()}
    whole = mean_accuracy([a for a, _ in pairs.values()]) is not None
    mean = mean_difference(list(pairs.values()), s.metric) if whole else None
    figure(
        figures.difference_points(made, mean, call(first), call(second), styles[second].color),
        "difference",
        "By how many points the second model is better. Both answered the same items, so that what is hard for both "
        "falls out: the interval is of a paired bootstrap over items. Where it holds 0, these items cannot tell the "
        "models apart. For the mean, items are drawn again within each task.",
    )
    rows = {
        "task": [f"{task} ({c.metric})" for task, c in made.items()],
        "difference [95%]": [str(c.difference) for c in made.values()],
        "McNemar p": ["–" if c.p is None else f"{c.p:.3g}" for c in made.values()],
        f"only {call(first)} right": [len(c.only_first) for c in made.values()],
        f"only {call(second)} right": [len(c.only_second) for c in made.values()],
        "items": [c.difference.count for c in made.values()],
    }
    table(rows, "differences")
    st.caption(
        "McNemar’s exact test looks at the items that only one of the two got right: p is how often a fair coin would "
        "split them at least as unevenly."
    )
    apart = [task for task, c in made.items() if c.only_first or c.only_second]
    if not apart:
        st.info("Both models got the same items right.", icon=":material/info:")
        return
    st.markdown("##### Items that only one of them got right")
    which, side, number = st.columns([3, 4, 2], vertical_alignment="bottom")
    with which:
        task = control(st.selectbox, "Task", "items_of", options=apart)
    groups = {call(first): made[task].only_first, call(second): made[task].only_second}
    groups = {name: items for name, items in groups.items() if items}
    with side:
        name = st.segmented_control("Right", list(groups), default=next(iter(groups)), required=True, key="right-one")
    places = groups.get(name) or next(iter(groups.values()))
    with number:
        at = control(st.number_input, f"Item, 1 to {len(places)}", "item", min_value=1, max_value=len(places))
    a, b = (pair.items[places[at - 1]] for pair in pairs[task])
    metric = made[task].metric
    with st.container(border=True, height=220):
        st.html(spans.diff_spans([(a.context, False)]))
    marks = lambda item: ["◀" if i == item.chosen(metric) else "" for i in range(len(item.choices))]  # noqa: E731
    st.dataframe(
        {
            "choice": list(a.choices),
            "right": ["✓" if i == a.gold else "" for i in range(len(a.choices))],
            f"ln p, {call(first)}": [round(x, 3) for x in a.loglikelihoods],
            f"taken by {call(first)}": marks(a),
            f"ln p, {call(second)}": [round(x, 3) for x in b.loglikelihoods],
            f"taken by {call(second)}": marks(b),
        },
        hide_index=True,
        width="stretch",
    )


if found:
    if set(found) < set(chosen):
        st.info("Not every chosen model has run these tasks: run them again.", icon=":material/info:")
    overview()
    if len(found) > 1:
        two_models()

with st.expander("Published accuracies, for orientation"):
    table(
        {
            "model": [row.model for row in PUBLISHED],
            "method": [row.method for row in PUBLISHED],
            "removed": [f"{row.ratio:.0%}" for row in PUBLISHED],
            **{task: [row.accuracies[task] for row in PUBLISHED] for task in PAPER},
            "mean": [row.mean for row in PUBLISHED],
        },
        "published",
    )
    st.caption(f"Percent. Source: {PUBLISHED[0].source}. Of another model: only how much pruning costs can be likened.")
