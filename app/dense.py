"""What pages need before they can answer: the chosen model, its statistics, and widgets that ask which part of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import streamlit as st
from torch import Tensor

import rcpu
from app.job_panels import job_panel, own_job, start
from app.jobs import Job
from app.labels import SCORERS, UNITS, called, shortened
from app.settings import PRUNING, WINDOWS, PageEnd, Settings, change, control, settings
from app.shared import answers, current_collection, current_model, jobs, model_key, models, projections, windows
from app.widgets import plain, say, size
from app.work import asked_windows, collect_job, load_model_job
from rcpu.explain import Projection
from rcpu.methods import AT_ONCE, Removal, column_scores, remove, resolve_unit, units_of
from rcpu.models import SITES, heads_of, site_named, weight_of
from rcpu.statistics import Collection, collection_bytes

DENSE_PATH = (
    "Describes the **dense model's own path**: every projection sees the inputs it has in the unpruned model. When a "
    "model is pruned, front to back, the layers before it have lost something already: its inputs, scores and errors "
    "then differ somewhat from these, more so with every layer."
)
RATIO_STEP = 0.05
PROJECTION = 240  # pixels: the rest of a row is for its layer


def need_model() -> rcpu.Model:
    """The model this session has chosen; without it how far it is, or the way to it, and the end of the page."""
    if model := current_model():
        if models().outdated(model_key()):
            st.warning(
                "The files of this model have changed since it was loaded, and everything is of the model as it was: "
                "unload it on the page Model and load it again.",
                icon=":material/sync_problem:",
            )
        return model
    s, job = settings(), jobs().asking("load", model_key()) or own_job("load")
    if job:
        job_panel(job)
        if job.active:
            st.caption("This page goes on by itself when the model is there.")
            raise PageEnd
    with st.container(border=True):
        st.markdown(f"#### No model is loaded\n\n{plain(shortened(s.model))} is not in memory.")
        left, right = st.columns([1, 2], vertical_alignment="center")
        if left.button("Load and measure it", type="primary", width="stretch"):
            start("load", lambda: load_model_job(model_key(), s.recipe("columns")))
        right.page_link("../pages/model.py", label="Choose another model", icon=":material/arrow_forward:")
    raise PageEnd


def measuring(model: rcpu.Model, config: rcpu.Recipe) -> Job | None:
    """The job that measures these windows, whoever started it, or this session's last one if that failed."""
    asked = asked_windows(model, config)
    running = (job for job in jobs().all("collect") if job.active and job.asks[:-1] == asked)
    if job := next(running, None):
        return job
    own = own_job("collect")
    return own if own and (own.active or own.state == "failed") else None


def layout_of(model: rcpu.Model, config: rcpu.Recipe, site: str) -> Tensor:
    """The input columns of each unit of a site, (strata, units, columns), see masking.py.

    Raises:
        RcpuError: a unit of o_proj that this model cannot have.
    """
    return units_of(model.net, site_named(model.net, site), config.unit)


@dataclass(frozen=True)
class Dense:
    """The statistics of the dense path that a page looks at."""

    model: rcpu.Model
    config: rcpu.Recipe
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
        scorer, seed = self.config.scorer, self.config.seed

        def made() -> dict[int, Tensor]:
            return {
                i: column_scores(
                    weight_of(self.model.net, i, site).float(),
                    self.found.vectors(i, site),
                    scorer,
                    layer=i,
                    site=site,
                    seed=seed,
                )
                for i in self.layers
            }

        return self.remember(("scores", site, scorer, seed), made)

    def remember(self, key: tuple, answer: Callable[[], Any]) -> Any:
        """The kept answer of all layers, or a new one, see :meth:`rcpu.base.Answers.ask`."""
        return answers().ask((self.found.folder, self.layers, *key), answer)

    def removal(self, projection: Projection) -> Removal:
        """What the settings would take from a projection."""
        scores = projection.scores(self.config.scorer, self.config.seed)
        return remove(scores, self.layout(projection.site), self.config.ratio_of(projection.layer))


def _at_once(config: rcpu.Recipe) -> rcpu.Recipe:
    """The same with a score that the sums kept here give at once: RCPU's where others need more."""
    return config if config.scorer in AT_ONCE else replace(config, scorer=rcpu.Recipe().scorer)


def need_statistics() -> Dense:
    """The statistics for the chosen model and windows; without any, what they cost, a button, and the end of the page.

    A bad setting, as a link may bring, is said with a way back, and ends the page.
    """
    model = need_model()
    s = settings()
    count = model.net.config.num_hidden_layers

    def check(config: rcpu.Recipe) -> None:
        config.layer_indices(count)
        resolve_unit(config.unit, heads_of(model.net))

    try:
        config = s.recipe("columns")
        check(config)
    except rcpu.RcpuError as error:
        say(error)
        offer_defaults(check)
        raise PageEnd from error
    try:
        found = current_collection(model, config)
    except rcpu.RcpuError as error:
        say(error)
        raise PageEnd from error
    everything, wanted = range(count), config.layer_indices(count)
    measured = () if found is None else tuple(i for i in everything if not found.missing([i]))
    job = measuring(model, config)
    if job:
        job_panel(job, partial(_until_there_is_one, found, len(measured)))
    if measured:
        if not job and not set(wanted) <= set(measured):  # it was cancelled, or other layers were chosen since
            told, button = st.columns([3, 1], vertical_alignment="center")
            told.info(
                f"Only layers {rcpu.format_layers(measured)} were measured: the rest is not shown.",
                icon=":material/info:",
            )
            if button.button("Measure the rest", width="stretch"):
                start("collect", lambda: collect_job(model, config))
        elif job and job.active:
            st.caption(f"Measured so far: layers {rcpu.format_layers(measured)}. The others come by themselves.")
        return Dense(model, _at_once(config), found, measured)
    if job and job.active:
        st.caption("The dense model is run once over the calibration windows; every view is instant after that.")
        raise PageEnd
    with st.container(border=True):
        st.markdown("#### The dense model was not measured on these windows yet")
        drawn = windows().get(model, config)
        cost = "" if drawn is None else f" and {size(collection_bytes(model.net, drawn, wanted, SITES))} on disk"
        chosen = "all layers" if len(wanted) == count else f"layers {s.layers}"
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


def _until_there_is_one(found: Collection | None, measured: int, job: Job) -> None:
    """Draw the page anew once there is a layer to show."""
    if found is not None and not measured and found.folder.is_dir() and any(found.folder.glob("*.safetensors")):
        st.rerun()


def offer_defaults(check: Callable[[rcpu.Recipe], object]) -> None:
    """A button that sets back what makes no sense, and no more: ``check`` raises ``RcpuError`` at what is refused."""
    for label, names in (
        ("Set back what is pruned and how", PRUNING),
        ("Set back the windows", WINDOWS),
        ("Set back the windows, and what is pruned and how", WINDOWS + PRUNING),
    ):
        back = {name: getattr(Settings(), name) for name in names}
        with contextlib.suppress(rcpu.RcpuError):
            check(replace(settings(), **back).recipe())
            st.button(label, on_click=partial(change, **back))
            return


def ratio_slider() -> float:
    """The widget for the ratio of all layers, and its value."""
    what = "Share of units that leave every chosen layer, rounded down"
    return control(st.slider, "Ratio", "ratio", min_value=0.0, max_value=0.9, step=RATIO_STEP, help=what)


def layer_slider(layers: tuple[int, ...]) -> int:
    """The widget for one of these layers, and its value."""
    if len(layers) > 1:
        return control(st.select_slider, "Layer", "layer", options=list(layers))
    change(layer=layers[0])
    st.caption(f"Layer {layers[0]}: the only one that was measured")
    return layers[0]


def pick_removal() -> None:
    """Widgets for what would go: ratio, score, and unit of o_proj."""
    with st.container(horizontal=True, key="removal"):
        ratio_slider()
        control(st.selectbox, "Importance score", "scorer", options=list(AT_ONCE), format_func=called(SCORERS))
        control(st.selectbox, "Unit of o_proj", "unit", options=list(UNITS), format_func=called(UNITS))


def pick_projection(dense: Dense) -> Projection:
    """Widgets for site and layer, and the projection they name."""
    with st.container(horizontal=True):
        site = control(st.segmented_control, "Projection", "site", options=list(SITES), width=PROJECTION)
        layer = layer_slider(dense.layers)
    own = dict(dense.config.ratios).get(layer)
    if own is not None:
        st.caption(f"Layer {layer} has a ratio of its own: {own:g}.")
    return dense.projection(layer, site)
