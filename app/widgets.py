"""Pieces that more than one page draws: figures with explanation and downloads, tables, jobs, empty states."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
import streamlit as st
from torch import Tensor

import rcpu
from app.figures.base import AGAIN
from app.jobs import Job
from app.labels import SCORERS, UNITS, called
from app.settings import PageEnd, change, control, settings
from app.shared import current_collection, current_model, jobs, projections, windows
from app.work import collect_job
from rcpu.architecture import heads_of, site_named, units_of, weight_of
from rcpu.collect import SITES, Collection, collection_bytes
from rcpu.masking import resolve_unit
from rcpu.scoring import column_scores
from rcpu.whatif import Projection, Removal

POLL = 0.7  # seconds between two looks at a running job
GLANCE = 3.0  # and at the jobs of other people
RATIO_STEP = 0.05
#: Settings that hold the id of a job, and the page that shows what became of it.
JOB_PAGES = {
    "load": "model",
    "collect": "calibration",
    "run": "prune",
    "measure": "compare",
    "generate": "compare",
    "view_tokens": "compare",
    "save": "compare",
    "all_layers_job": "rotation",
    "drift": "learn",
    "curve": "learn",
    "orders": "learn",
}
DENSE_PATH = (
    "Describes the **dense model's own path**: every projection sees the inputs it has in the unpruned model. In a run "
    "the layers before it are pruned already, so its inputs, scores and errors there differ somewhat, more so with "
    "every layer."
)


def figure(fig: go.Figure, name: str, what: str, **options) -> object:
    """A figure with its alternative text, "What am I looking at?" (Markdown) and downloads.

    ``options`` go to ``st.plotly_chart``, whose value is returned: with ``on_select`` it is the selection.
    """
    alt = fig.layout.meta["alt"]
    options = {"width": "stretch", "config": {"displaylogo": False}, **options}
    selected = st.plotly_chart(fig, key=f"figure-{name}", alt=alt, **options)
    left, right = st.columns([3, 2])
    with left.expander("What am I looking at?"):
        st.markdown(f"{what}\n\n*{plain(alt)}.*")
    with right.popover("Download", width="stretch"):
        for label, data, kind in (
            ("HTML", lambda: fig.to_html(include_plotlyjs=True), "text/html"),
            ("JSON", lambda: fig.to_json(), "application/json"),
            ("CSV", lambda: to_csv(fig), "text/csv"),
        ):
            st.download_button(
                label,
                data,
                f"{name}.{label.lower()}",
                kind,
                on_click="ignore",
                key=f"download-{name}-{label}",
                width="stretch",
            )
    return selected


def to_csv(fig: go.Figure) -> str:
    """The points of a figure as CSV: trace, x, y, and z where there is one; a heat map gives a row a cell.

    Gaps in lines and traces that show points AGAIN are left out.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    deep = any("z" in trace for trace in fig.data)
    space = any(trace.type.endswith("3d") for trace in fig.data)
    axes = [getattr(fig.layout.scene if space else fig.layout, f"{name}axis") for name in ("xyz" if space else "xy")]
    titles = [axis.title.text or name for axis, name in zip(axes, "xyz", strict=False)]
    writer.writerow(["trace", *titles, *(["value"] if deep and not space else [])])
    for trace in fig.data:
        if trace.meta == AGAIN:
            continue
        parts = [getattr(trace, name, None) for name in ("xyz" if deep else "xy")]
        if trace.type == "heatmap":
            x, y, z = parts
            rows = ((a, b, v) for b, row in zip(y, z, strict=True) for a, v in zip(x, row, strict=True))
        else:
            length = max((len(p) for p in parts if p is not None), default=0)
            rows = zip(*(p if p is not None else [""] * length for p in parts), strict=True)
        writer.writerows([trace.name or "", *row] for row in rows if row[0] == row[0])
    return out.getvalue()


def table(columns: dict[str, Sequence], name: str) -> None:
    """A table that downloads as CSV."""
    st.dataframe(columns, hide_index=True, width="stretch")

    def made() -> str:
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        return out.getvalue()

    st.download_button(
        "Download as CSV",
        made,
        f"{name}.csv",
        "text/csv",
        on_click="ignore",
        key=f"table-{name}",
        type="tertiary",
        icon=":material/download:",
    )


def job_panel(job: Job, running: Callable[[Job], None] = lambda _: None) -> None:
    """Progress and cancel of an active job, polled; the page runs again when it has ended.

    ``running`` draws what can be shown meanwhile. A failed or cancelled job says so.
    """
    if job.active:

        @st.fragment(run_every=POLL)
        def poll() -> None:
            if not job.active:
                st.rerun()
            bar, button = st.columns([5, 1], vertical_alignment="bottom")
            with bar:
                _progress(job)
            _cancel(job, button, "cancel")
            running(job)

        poll()
    elif job.state == "failed":
        say(f"{job.title}: {job.error}")
    elif job.state == "cancelled":
        st.info(f"{plain(job.title)}: cancelled after {job.seconds:.0f} s.", icon=":material/cancel:")


def _progress(job: Job) -> None:
    if job.state == "waiting":
        ahead = jobs().ahead(job)
        message = f"waiting: {ahead} job{'s' * (ahead != 1)} before it"
    else:
        message = f"{job.message or 'starting'} · {job.seconds:.0f} s"
    st.progress(min(max(job.fraction, 0.0), 1.0), text=f"{plain(job.title)}: {plain(message)}")


def _cancel(job: Job, place: object, name: str) -> None:
    if place.button("Cancel", key=f"{name}-{job.id}", width="stretch", disabled=job.cancelled()):
        jobs().cancel(job)
        st.rerun()


def plain(text: str) -> str:
    """A line of text for places that read Markdown, with its signs taken as they are."""
    return "".join("\\" + c if c in "\\`*_[]<>$~|#:" else c for c in text)


def say(error: Exception | str) -> None:
    """Bad input, said in place; a message may quote a link, so nothing in it is read as Markdown."""
    st.error(plain(str(error)), icon=":material/error:")


def jobs_sidebar() -> None:
    """The one place that shows jobs on every page: one's own with progress and cancel, and how many others run."""
    s = settings()
    own = {name: job for name in JOB_PAGES if (job := jobs().get(getattr(s, name)))}
    active = {job.id for job in own.values() if job.active}
    others = [job for job in jobs().all() if job.active and job.id not in active]

    @st.fragment(run_every=POLL if active else GLANCE if others else None)
    def panel() -> None:
        ended = any(not job.active for job in own.values() if job.id in active)
        if ended or (others and not any(job.active for job in jobs().all())):  # the last one: nothing to look at now
            st.rerun()
        st.markdown("##### Jobs")
        running = [job for job in own.values() if job.active]
        for job in running:
            with st.container(border=True):
                _progress(job)
                _cancel(job, st, "side-cancel")
        elsewhere = sum(job.active for job in jobs().all()) - len(running)
        if elsewhere:
            st.caption(f"{elsewhere} job{'s' * (elsewhere != 1)} of other people in the queue")
        elif not running:
            st.caption("None is running.")
        for name, job in own.items():
            if not job.active:
                sign = {"done": ":material/check:", "failed": ":material/error:"}.get(job.state, ":material/cancel:")
                st.page_link(f"../pages/{JOB_PAGES[name]}.py", label=f"{plain(job.title)}: {job.state}", icon=sign)

    with st.sidebar:
        panel()


def known_job(name: str) -> Job | None:
    """The job that the setting ``name`` points at; says so if a link points at one that is gone."""
    job_id = getattr(settings(), name)
    job = jobs().get(job_id)
    if job_id and job is None:
        st.info("The results that this link points at are no longer in memory: run it again.", icon=":material/info:")
        setattr(settings(), name, "")
    return job


def start(name: str, queue: Callable[[], Job]) -> None:
    """Queue a job, put its id in the setting ``name`` and draw the page anew; bad input is said in place."""
    try:
        setattr(settings(), name, queue().id)
        st.rerun()
    except rcpu.RcpuError as error:
        say(error)


def empty(message: str, page: str, label: str) -> None:
    """An empty state: what is missing, and the way there."""
    with st.container(border=True):
        st.markdown(f"#### {message}")
        st.page_link(page, label=label, icon=":material/arrow_forward:")


def need_model() -> rcpu.Model:
    """The model this session has chosen, or the way to it and the end of the page."""
    model = current_model()
    if model is None:
        empty("No model is loaded", "../pages/model.py", "Choose and load a model")
        raise PageEnd
    return model


def layout_of(model: rcpu.Model, config: rcpu.PruneConfig, site: str) -> Tensor:
    """The input columns of each unit of a site, (strata, units, columns), see masking.py.

    Raises:
        RcpuError: a unit of o_proj that this model cannot have.
    """
    return units_of(model.net, site_named(model.net, site), config.unit)


@dataclass(frozen=True)
class Dense:
    """The statistics of the dense path that a page looks at."""

    model: rcpu.Model
    config: rcpu.PruneConfig
    found: Collection
    layers: tuple[int, ...]  # that were measured

    def projection(self, layer: int, site: str) -> Projection:
        """One of its projections, ready to answer."""
        return projections().get(self.model, self.found, layer, site)

    def unit(self, site: str) -> str:
        """What leaves a site at once: a key of UNIT_NAMES."""
        return resolve_unit(self.config.unit, heads_of(self.model.net)) if site == "o_proj" else "channel"

    def layout(self, site: str) -> Tensor:
        """The input columns of each unit of a site, (strata, units, columns)."""
        return layout_of(self.model, self.config, site)

    def scores(self, site: str) -> dict[int, Tensor]:
        """Importance of every input column of a site in each measured layer, (d_in,) fp64 a layer."""
        return _scores(self.model, self.found, self.layers, site, self.config.scorer, self.config.seed)

    def removal(self, projection: Projection) -> Removal:
        """What the settings would take from a projection."""
        scores = projection.scores(self.config.scorer, self.config.seed)
        return projection.removal(scores, self.layout(projection.site), self.config.ratio_of(projection.layer))


@st.cache_resource(
    show_spinner=False,
    max_entries=32,
    hash_funcs={rcpu.Model: lambda m: (m.fingerprint, m.dtype), Collection: lambda c: str(c.folder)},
)
def _scores(
    model: rcpu.Model, found: Collection, layers: tuple[int, ...], site: str, scorer: str, seed: int
) -> dict[int, Tensor]:
    return {
        i: column_scores(
            weight_of(model.net, i, site).float(), found.vectors(i, site), scorer, layer=i, site=site, seed=seed
        )
        for i in layers
    }


def need_statistics() -> Dense:
    """The statistics for the chosen model and windows; without any, what they cost, a button, and the end of the page.

    A bad setting is said, and ends the page.
    """
    model = need_model()
    s = settings()
    try:
        config = s.prune_config()
        found = current_collection(model, config)
        count = model.net.config.num_hidden_layers
        config.layer_indices(count)
        resolve_unit(config.unit, heads_of(model.net))
    except rcpu.RcpuError as error:
        say(error)
        raise PageEnd from error
    everything = range(count)
    measured = () if found is None else tuple(i for i in everything if not found.missing([i]))
    job = jobs().get(s.collect)
    if measured and not (job and job.active):
        return Dense(model, config, found, measured)
    if job and (job.active or job.state == "failed"):
        job_panel(job)
        if job.active:
            st.caption("The dense model is run once over the calibration windows; every view is instant after that.")
            raise PageEnd
    with st.container(border=True):
        st.markdown("#### The dense model was not measured on these windows yet")
        drawn = windows().get(model, config)
        layers = config.layer_indices(count)
        cost = "" if drawn is None else f" and {size(collection_bytes(model.net, drawn, layers, SITES))} on disk"
        chosen = "all layers" if len(layers) == count else f"layers {s.layers}"
        st.markdown(
            f"One pass over {s.samples} + {s.held_out} windows of {s.window} tokens keeps sums of every projection: "
            f"{chosen}{cost}. From then on every ratio, scorer, unit and compensator is answered at once, and the next "
            "start finds the sums again. If that is too much, take fewer layers:"
        )
        left, right = st.columns([2, 1], vertical_alignment="bottom")
        with left:
            control(st.text_input, "Layers", "layers", help=f"`all`, or numbers and ranges from 0 to {count - 1}")
        if right.button("Measure the dense model", type="primary", width="stretch"):
            start("collect", lambda: collect_job(model, config))
    raise PageEnd


def pick_removal() -> None:
    """Widgets for what would go: ratio, score, and unit of o_proj."""
    ratio, scorer, unit = st.columns(3, vertical_alignment="bottom")
    with ratio:
        control(
            st.slider,
            "Ratio",
            "ratio",
            min_value=0.0,
            max_value=0.9,
            step=RATIO_STEP,
            help="Share of units that go in every layer, rounded down",
        )
    with scorer:
        control(st.selectbox, "Importance score", "scorer", options=list(rcpu.SCORERS), format_func=called(SCORERS))
    with unit:
        control(st.selectbox, "Unit of o_proj", "unit", options=list(UNITS), format_func=called(UNITS))


def pick_projection(dense: Dense) -> Projection:
    """Widgets for site and layer, and the projection they name."""
    left, right = st.columns([2, 4], vertical_alignment="bottom")
    with left:
        site = control(st.segmented_control, "Projection", "site", options=list(SITES), width="stretch")
    with right:
        if len(dense.layers) > 1:
            layer = control(st.select_slider, "Layer", "layer", options=list(dense.layers))
        else:
            change(layer=dense.layers[0])
            layer = dense.layers[0]
            st.caption(f"Layer {layer}: the only one that was measured")
    return dense.projection(layer, site)


def size(count_of_bytes: float) -> str:
    """Bytes as people read them."""
    return count(count_of_bytes, "B")


def count(value: float, unit: str = "") -> str:
    """A number as people read it: 134.5 M and 6.7 B parameters, 269.0 MFLOPs, 513.1 MiB."""
    if unit == "B":
        for name, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
            if value >= scale:
                return f"{value / scale:,.1f} {name}"
        return f"{value:,.0f} B"
    for name, scale in (("G" if unit else "B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:,.1f} {name}{unit}"
    return f"{value:,.0f} {unit}".strip()
