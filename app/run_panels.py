"""Parts of the page Runs: one run in full, two side by side, and letting go of some."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial

import streamlit as st

import rcpu
from app.demo import limits
from app.kept import store_of
from app.methods import settings_from
from app.opening import resume_job
from app.runs import described, forget, remember
from app.settings import PREFIX, change, settings
from app.story import Evaluation
from app.tiles import Tile, difference, tiles
from app.widgets import count, loader_badges, plain, say, size, table
from app.work import prune_job
from rcpu.measure import difference as paired
from rcpu.runs import Measure, Row, Run, command_of, how_far, python_of, report_html, run_report, side_by_side

UNFINISHED = ("failed", "cancelled", "interrupted")


def one_run(row: Row) -> None:
    """What a run is, what can be done with it, and how it is done again."""
    run = row.run
    st.subheader(plain(run.name))
    try:
        recipe = rcpu.Recipe.from_dict(run.recipe)
    except rcpu.RcpuError as error:
        say(f"This run was made by another version: {error}")
        delete(st.container(), [run])
        return
    begun = time.strftime("%d %B %Y, %H:%M", time.localtime(run.created))
    st.caption(f"{plain(run.about['model'])}: {plain(described(recipe))}. Begun on {begun}, {run.about['device']}.")
    if run.state in UNFINISHED:
        reason = f": {run.error}" if run.error else ""
        st.warning(plain(f"{run.state.capitalize()} after {how_far(store_of(run.id), run)}{reason}"))
    tiles(*_numbers(row))
    for shape, found in run.about.get("shapes", {}).items():
        told = f"not: {plain(found)}" if isinstance(found, str) else f"loads in {loader_badges(found)}"
        st.caption(f"As **{shape}**: {told}")
    _actions(run, recipe)
    _words(run)
    told, redo, measured = st.tabs(["Recipe", "Do it again", "What was measured"])
    with told:
        st.code(recipe.to_yaml(), language="yaml")
        line = st.container(horizontal=True)
        for label, content, name, kind in (
            ("Recipe", recipe.to_yaml(), "recipe.yaml", "application/yaml"),
            ("Report", partial(_report, run), f"{run.id}.html", "text/html"),
        ):
            line.download_button(label, content, name, kind, on_click="ignore", icon=":material/download:")
    with redo:
        st.caption("From a terminal:")
        st.code(command_of(run), language="bash", wrap_lines=True)
        st.caption("With the library:")
        st.code(python_of(run), language="python", wrap_lines=True)
    with measured:
        _measures(run)


def _report(run: Run) -> str:
    """The run as a page that needs nothing else, made when it is asked for."""
    return report_html([run_report(store_of(run.id), run)])


def _numbers(row: Row) -> list[Tile]:
    found = []
    if row.parameters:
        note = difference(row.parameters, row.dense_parameters)
        found.append(Tile("Parameters", count(row.parameters), note))
        found.append(Tile("Weights", size(row.bytes), difference(row.bytes, row.dense_bytes)))
    if row.error is not None:
        found.append(Tile("Mean error of outputs", f"{row.error:.4f}"))
    if (p := row.perplexity) is not None:
        ends = p.interval
        between = f"{ends.low:.2f} – {ends.high:.2f}" if ends else ""
        found.append(Tile(f"Perplexity, {p.text}", f"{p.perplexity:.2f}", between))
    if row.accuracy is not None:
        found.append(Tile("Mean accuracy", f"{row.accuracy:.1%}"))
    if seconds := row.run.about.get("seconds"):
        found.append(Tile("Pruned in", f"{seconds:.0f} s"))
    found.append(Tile("On disk", size(store_of(row.run.id).bytes_of(row.run.id))))
    return found


def _actions(run: Run, recipe: rcpu.Recipe) -> None:
    line = st.container(horizontal=True, key="run-actions")
    if run.state == "done":
        if line.button("Open", icon=":material/query_stats:", help="Scores, spectrum, angles and errors on Prune"):
            remember(run.id)
            change(run=run.id)
            st.switch_page("../pages/prune.py")
        if line.button("Compare", icon=":material/compare_arrows:"):
            remember(run.id)
            change(compare="")
            st.switch_page("../pages/compare.py")
    try:
        if run.state in UNFINISHED and line.button("Go on", icon=":material/resume:"):
            change(run=resume_job(run).id)
            remember(run.id)
            st.switch_page("../pages/prune.py")
        if line.button("Run again", icon=":material/replay:", help="The same recipe, as a new run"):
            evaluation = Evaluation.of(settings()) if settings().evaluate else None
            job = prune_job((recipe.model, "auto", "auto"), recipe, run.name, evaluation)
            remember(job.id)
            change(run=job.id)
            st.switch_page("../pages/prune.py")
    except rcpu.RcpuError as error:
        say(error)
    if line.button("Take its settings", icon=":material/tune:", help="Sets Prune to this recipe, to change it"):
        change(**settings_from(recipe))
        st.switch_page("../pages/prune.py")
    delete(line, [run])


def delete(place, runs: Sequence[Run], label: str = "Delete") -> None:
    """A button that asks before it lets go of runs."""
    with place.popover(label, icon=":material/delete:"):
        freed = sum(store_of(run.id).bytes_of(run.id) for run in runs)
        what = f"“{runs[0].name}”" if len(runs) == 1 else f"{len(runs)} runs"
        st.write(f"Delete {plain(what)} and all that was measured of it? {size(freed)} become free.")
        st.button("Yes, delete", type="primary", key=f"delete-{label}-{runs[0].id}", on_click=partial(_delete, runs))


def _delete(runs: Sequence[Run]) -> None:
    for run in runs:
        try:
            if (own := store_of(run.id)) is not None:  # else it is gone already
                own.delete(run.id)
        except rcpu.RcpuError as error:  # under way
            st.toast(plain(str(error)), icon=":material/error:")
            continue
        forget(run.id)
    left = [i for i in settings().picked_runs.split(",") if i not in {run.id for run in runs}]
    settings().picked_runs = ",".join(left)
    st.session_state.pop(PREFIX + "picked_runs", None)


def _words(run: Run) -> None:
    """Name, tags and note, which are saved as they are left."""
    own = store_of(run.id)

    def keep(what: str) -> None:
        value = st.session_state[f"{what}-{run.id}"].strip()
        try:
            if what == "tags":
                own.change(run.id, tags=[t.strip() for t in value.split(",") if t.strip()])
            elif value or what == "note":
                own.change(run.id, **{what: value})
        except rcpu.RcpuError as error:
            st.toast(plain(str(error)), icon=":material/error:")

    if own.refusal:
        return
    name, tags, note = st.columns([2, 2, 4])
    for place, label, what, value, most in (
        (name, "Name", "name", run.name, 60),
        (tags, "Tags, with commas", "tags", ", ".join(run.tags), 200),
        (note, "Note", "note", run.note, 2000),
    ):
        place.text_input(label, value, key=f"{what}-{run.id}", max_chars=most, on_change=partial(keep, what))


def _measures(run: Run) -> None:
    found = [m for m in store_of(run.id).measures.all(run.id) if m.kind not in ("story", "compared")]
    if not found:
        st.caption("Nothing yet: Compare and Benchmarks keep what they measure here.")
        return
    table(
        {
            "what": [m.kind for m in found],
            "on": [_on(m)[:120] for m in found],
            "result": [_result(m.kind, m.value) for m in found],
            "when": [time.strftime("%Y-%m-%d %H:%M", time.localtime(m.created)) for m in found],
        },
        "measures",
    )
    st.download_button(
        "All of it as JSON",
        lambda: json.dumps([{"kind": m.kind, "asked": m.asked, "value": m.value} for m in found], indent=1),
        f"{run.id}.json",
        "application/json",
        on_click="ignore",
        type="tertiary",
        icon=":material/download:",
    )


def _on(measure: Measure) -> str:
    value, asked = measure.value, measure.asked
    if measure.kind == "tasks":
        return ", ".join(value)
    return str(value.get("text") or value.get("task") or asked.get("study") or asked.get("prompt", ""))


def _result(kind: str, value: dict) -> str:
    if kind == "cell":
        return ", ".join(value["labels"].values())
    if kind == "tasks":
        means = (f"{one['metric']} {sum(one['values']) / len(one['values']):.4f}" for one in value.values())
        return ", ".join(means)
    if kind == "perplexity":
        ends = "[{:.3f}, {:.3f}] ".format(*value["interval"]) if value.get("interval") else ""
        return f"{value['perplexity']:.3f} {ends}on {value['windows']} × {value['window']} tokens"
    if kind == "generation":
        return f"{value['tokens']} tokens, {value['tokens_per_second']:.1f} tokens/s"
    if kind == "task":
        return ", ".join(f"{name} {score['value']:.4f}" for name, score in value["scores"].items())
    return ""


def two_runs(first: Row, second: Row) -> None:
    """Settings and results of two runs, what differs first."""
    st.subheader("Side by side")
    names = [first.run.name, second.run.name]
    if names[0] == names[1]:
        names = [f"{row.run.name} ({row.run.id[:6]})" for row in (first, second)]
    rows = side_by_side(first.run, second.run)
    unlike = sum(a != b for _, a, b in rows)
    st.caption(f"{unlike} settings differ, {len(rows) - unlike} are the same.")
    results = {
        "parameters": [r.parameters and count(r.parameters) for r in (first, second)],
        "mean error of outputs": [None if r.error is None else f"{r.error:.4f}" for r in (first, second)],
        "perplexity [95%]": [r.perplexity and _told(r.perplexity) for r in (first, second)],
        "mean accuracy": [None if r.accuracy is None else f"{r.accuracy:.2%}" for r in (first, second)],
        "seconds": [f"{r.run.about['seconds']:.0f}" if r.run.about.get("seconds") else None for r in (first, second)],
    }
    try:
        gap = str(paired(first.perplexity, second.perplexity)) if first.perplexity and second.perplexity else ""
    except rcpu.RcpuError:
        gap = ""
    table(
        {
            "setting": [name for name, *_ in rows] + list(results),
            "differs": [a != b for _, a, b in rows] + [a != b for a, b in results.values()],
            names[0]: [_plain(a) for _, a, _ in rows] + [a or "–" for a, _ in results.values()],
            names[1]: [_plain(b) for *_, b in rows] + [b or "–" for _, b in results.values()],
        },
        "side-by-side",
    )
    if gap:
        st.caption(f"Perplexity of {plain(names[1])} against {plain(names[0])}, paired over windows: {plain(gap)}.")


def _told(found: rcpu.Perplexity) -> str:
    ends = found.interval
    return f"{found.perplexity:.3f}" + (f" [{ends.low:.3f}, {ends.high:.3f}]" if ends else "")


def _plain(value: object) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value)


def disk(runs: Sequence[Run]) -> None:
    """What the store takes, and letting go of what did not come to its end."""
    if limits().demo:
        st.caption("Your runs are kept for as long as this demo runs; nobody else sees them without their link.")
        return
    places = {store_of(run.id).folder: store_of(run.id) for run in runs}
    line = st.container(horizontal=True, vertical_alignment="center")
    for folder, one in places.items():
        line.caption(f"{len(runs)} runs take {size(one.bytes())} in {plain(str(folder))}.")
    if early := [run for run in runs if run.state in UNFINISHED]:
        delete(line, early, f"Free {size(sum(store_of(run.id).bytes_of(run.id) for run in early))} of unfinished runs")
