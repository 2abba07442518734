"""What a person has set, kept in the URL: a copied link shows the same view. Widgets are drawn through ``control``."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

import rcpu
from app.labels import SITES
from rcpu.base import Option, choose, options_of
from rcpu.runs import SIZES, STUDIES

PREFIX = "set_"  # of widget keys that stand for a setting
#: Settings that say what a figure is of. Others, like the ratio, move what it shows along the same axes.
SUBJECT = (
    *("model", "device", "dtype", "text", "samples", "window", "held_out", "seed", "heat"),
    *("scorer", "unit", "layer", "site", "relative", "overlay", "multiples"),
    *("run", "compare", "measure", "bench", "view_tokens", "drift", "curve", "ladder", "orders"),
)
WINDOWS = ("samples", "window", "held_out", "seed")
#: What a link may ask for where there are only some words, or numbers within bounds; pages may have less to offer.
WORDS = {
    "method": tuple(rcpu.METHODS),
    "scorer": tuple(rcpu.SCORERS),
    "compensation": tuple(rcpu.COMPENSATORS),
    "unit": tuple(rcpu.UNITS),
    "order": tuple(rcpu.ORDERS),
    "sites": tuple(SITES),
    "study": tuple(STUDIES),
    "study_size": tuple(SIZES),
    "study_precision": ("", *rcpu.DTYPES),
}
BOUNDS = {"ratio": (0.0, 0.95), "target": (0.05, 1.0), "t": (0.0, 1.0)}
#: Settings that hold ids of jobs or of what they made.
RESULTS = (
    *("load", "collect", "prices", "sides", "gradients", "run", "runs", "measure", "bench", "generate", "experiment"),
    *("view_tokens", "all_layers_job", "drift", "curve", "ladder", "orders", "save", "push", "stream", "open"),
)


@dataclass
class _Settings:
    """Everything a person set; each field is one URL parameter, left out while it has its default."""

    model: str = "embedded"
    device: str = "auto"
    dtype: str = "auto"
    # calibration
    text: str = "embedded"
    samples: int = 128
    window: int = 128
    held_out: int = 16
    seed: int = 0
    shown_window: int = 0
    heat: str = "mean_absolute"
    calibration_view: str = "windows"
    # pruning
    method: str = "columns"
    ratio: float = 0.2
    target: float = 0.8  # share of the decoder's parameters that is to stay
    ratios: str = ""  # of single layers, like 0-3=0.1,29=0
    scorer: str = "rcpu"
    compensation: str = "rotation"
    sites: str = "o_proj,down_proj"
    layers: str = "all"
    unit: str = "auto"
    order: str = "paper"
    ridge: str = "0.01"
    proper: bool = False
    name: str = ""  # of the next run
    evaluate: bool = True  # measure perplexity and write texts in the same run
    picked: str = ""  # layers on the map of Prune
    picked_ratio: float = 0.2  # that they may get
    # what is looked at
    layer: int = 0
    site: str = "o_proj"
    view: str = "cut"  # of Importance
    shown_unit: int = -1
    relative: bool = True  # heat map of Importance: to the layer's median
    spectrum: str = "spectrum"  # the view of Spectrum and rotation
    overlay: str = "0,0.5"  # further ratios
    t: float = 1.0
    matrix: str = "down_proj"  # of the gradients
    multiples: str = "spectrum"  # what the small multiples of all layers show
    # comparing
    compare: str = ""  # run ids, with :plain for the same removal not repaired
    eval_text: str = "embedded"
    eval_more: str = ""  # further texts
    eval_window: int = 128
    eval_windows: int = 48
    tasks: str = "embedded"  # names with commas
    tasks_folder: str = ""
    task_items: int = 40
    few_shot: int = 0
    metric: str = ""  # the main one of each task
    first: str = ""  # of two models that are compared
    second: str = ""
    items_of: str = ""  # the task whose items are shown
    item: int = 1
    prompt: str = "The old lighthouse keeper"
    tokens: int = 48
    temperature: float = 0.0
    top_p: float = 1.0
    gen_seed: int = 0
    probe: str = "The with statement wraps a block with methods defined by a context manager."
    colour: str = "loss"
    kept: str = ""  # the run to save, unless it is the newest
    folder: str = ""
    shape: str = "compact"  # of the folder
    repository: str = ""  # on the hub
    # experiments
    study: str = "table3"
    study_size: str = "small"
    study_ratios: str = ""  # those of the size, unless numbers stand here
    study_seeds: str = ""
    study_limit: int = 64
    study_precision: str = ""  # of measuring; the model's own
    study_quantity: str = ""
    study_relative: bool = True
    study_series: str = ""  # which of several that the store has
    experiment: str = ""
    # runs
    runs_find: str = ""
    runs_state: str = "all"
    runs_on: str = ""  # digest of the windows whose perplexity is shown
    runs_x: str = "parameters"
    runs_y: str = "perplexity"
    runs_relative: bool = True  # divided by the dense model's
    picked_runs: str = ""  # that are looked at
    # lessons
    lesson: int = 0
    points: str = ""  # of the 2-D picture
    lesson_after: bool = False  # draw what is left
    curve_ridge: str = "0.0001"  # λ of the least squares that is drawn
    # jobs and results, by id: see RESULTS
    load: str = ""
    collect: str = ""
    prices: str = ""
    sides: str = ""
    gradients: str = ""
    run: str = ""
    runs: str = ""
    measure: str = ""
    bench: str = ""  # tasks of Benchmarks
    generate: str = ""
    view_tokens: str = ""
    all_layers_job: str = ""
    drift: str = ""  # lesson: drift of all layers
    curve: str = ""  # lesson: errors over the number of windows
    ladder: str = ""  # lesson: errors after each ingredient
    orders: str = ""  # lesson: both orders
    save: str = ""
    push: str = ""
    stream: str = ""
    open: str = ""  # runs whose models are rebuilt

    @property
    def subject(self) -> str:
        """What figures are of: the same text as long as their axes mean the same."""
        return " ".join(str(getattr(self, name)) for name in SUBJECT)

    def recipe(self, method: str | None = None) -> rcpu.Recipe:
        """The run that these settings describe, or what they say of another method; ``RcpuError`` if it makes no sense.

        Views of scores and rotations ask for ``columns``, whatever is to be run.
        """
        method = method or self.method
        rows = options_of(choose("method", method, rcpu.METHODS).options)
        return rcpu.Recipe(
            method,
            model=self.model,
            text=self.text,
            samples=self.samples,
            window=self.window,
            held_out=self.held_out,
            seed=self.seed,
            ratio=self.ratio,
            ratios=rcpu.parse_ratios(self.ratios),
            sites=tuple(filter(None, self.sites.split(","))),
            layers=rcpu.parse_layers(self.layers),
            **{name: self.option(row) for name, row in rows.items()},
        )

    def option(self, row: Option) -> Any:
        """What is set for one option of a method; raises ``RcpuError`` where it cannot be read."""
        value = getattr(self, field_of(row.name))
        if isinstance(value, bool):
            return value
        return row.parse(value) if value else row.default


#: Options of methods whose setting goes by the option's own name: what pages have used since before there were others.
PLAIN = ("scorer", "compensation", "unit", "order", "ridge", "proper")


def field_of(option: str) -> str:
    """The setting that holds an option of a method: empty while it has the method's default."""
    return option if option in PLAIN else f"opt_{option}"


def _with_options(plain: type) -> type:
    """The settings, and one for every option of every method that has none yet."""
    options = {field_of(name): "" for method in rcpu.METHODS.values() for name in options_of(method.options)}
    new = [(name, str, field(default=value)) for name, value in options.items() if not hasattr(plain, name)]
    return make_dataclass("Settings", new, bases=(plain,), namespace={"__doc__": plain.__doc__})


Settings = _with_options(_Settings)
#: What leaves a model and how it is repaired.
OPTIONS = tuple(f.name for f in fields(Settings) if f.name.startswith("opt_"))
PRUNING = ("method", "ratio", "ratios", "sites", "layers", *PLAIN, *OPTIONS)


class PageEnd(Exception):
    """A page has nothing more to draw. Unlike ``st.stop()`` it lets main.py write the URL afterwards."""


def settings() -> Settings:
    """This session's settings; the first call reads them from the URL."""
    if "settings" not in st.session_state:
        st.session_state["settings"], st.session_state["unread"] = read_url()
    return st.session_state["settings"]


def read_url() -> tuple[Settings, list[str]]:
    """The settings that the URL asks for, and a sentence on each that cannot be read and has its default."""
    loaded, unreadable = Settings(), []
    for f in fields(Settings):
        if (text := st.query_params.get(f.name)) is None:
            continue
        default = getattr(loaded, f.name)
        try:
            value = {"0": False, "1": True}[text] if isinstance(default, bool) else type(default)(text)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError
            if value not in WORDS.get(f.name, (value,)):
                raise ValueError
            low, high = BOUNDS.get(f.name, (value, value))
            if not low <= value <= high:
                raise ValueError
        except (KeyError, ValueError):
            asked = f"{f.name}={text[:40]}"
            unreadable.append(f"The link asks for {asked}, which cannot be used: it is {default} here.")
            continue
        setattr(loaded, f.name, value)
    return loaded, unreadable


def follow_history() -> None:
    """After Back or Forward in the browser, what was set is what the URL says; what jobs made stays."""
    if not get_script_run_ctx().is_history_navigation:
        return
    now, then = settings(), read_url()[0]
    back = {f.name: getattr(then, f.name) for f in fields(Settings) if f.name not in RESULTS}
    change(**{name: value for name, value in back.items() if value != getattr(now, name)})


def unread() -> list[str]:
    """What could not be read in the link that this session began with, said once."""
    return st.session_state.pop("unread", [])


def write_url() -> None:
    """Put every setting that differs from its default into the URL."""
    now, defaults = settings(), Settings()
    wanted = {}
    for f in fields(Settings):
        value = getattr(now, f.name)
        if value != getattr(defaults, f.name):
            wanted[f.name] = str(int(value)) if isinstance(value, bool) else str(value)
    if wanted != st.query_params.to_dict():
        st.query_params.from_dict(wanted)


def part(draw: Callable[[], None]) -> Callable[[], None]:
    """A part of a page that is drawn anew alone when something is set in it: navigation and text around it stand."""

    @st.fragment
    def drawn() -> None:
        with contextlib.suppress(PageEnd):
            draw()
        write_url()

    return drawn


def change(**values: Any) -> None:
    """Set some settings from code, their widgets included; before those are drawn in this run of the page."""
    for name, value in values.items():
        setattr(settings(), name, value)
        st.session_state.pop(PREFIX + name, None)


def control(widget: Callable, label: str, name: str, **options) -> Any:
    """Draw ``widget`` for the setting ``name`` and return its value, which is the setting from now on.

    Options to choose from are given as ``options``; a setting that is not among them becomes the nearest number of
    them, or its default, or the first.
    """
    key, now = PREFIX + name, settings()
    value = st.session_state.get(key, getattr(now, name))
    choices = options.get("options")
    if choices is not None and value not in choices:
        numbers = all(isinstance(number, int) for number in (value, *choices))
        usual = getattr(Settings(), name)
        value = min(choices, key=lambda choice: abs(choice - value)) if numbers else usual
        value = value if value in choices else next(iter(choices))
    low, high = options.get("min_value"), options.get("max_value")
    if low is not None:
        value = min(max(value, low), value if high is None else high)
    st.session_state[key] = value
    value = widget(label, key=key, **options)
    if value is None:  # a segmented control that was switched off
        value = getattr(now, name)
    setattr(now, name, value)
    return value


def control_list(
    widget: Callable, label: str, name: str, options: Sequence[str], usual: Sequence[str] = (), **others
) -> list[str]:
    """As :func:`control` for a widget that chooses several ``options``; the setting joins them with commas.

    A link that chooses none of those that there are shows what is ``usual``, for which the setting is empty.
    """
    key, now = PREFIX + name, settings()
    value = st.session_state.get(key)
    if value is None:
        value = [v for v in getattr(now, name).split(",") if v in options] or usual
    st.session_state[key] = [v for v in value if v in options][: others.get("max_selections")]
    value = widget(label, key=key, options=options, **others)
    setattr(now, name, "" if set(value) == set(usual) else ",".join(value))
    return value


def control_names(label: str, name: str, offered: Sequence[str], **options) -> tuple[str, ...]:
    """A widget for names of which some are offered and others typed; the setting joins them with commas."""
    key, now = PREFIX + name, settings()
    chosen = st.session_state.get(key)
    chosen = [one for one in getattr(now, name).split(",") if one] if chosen is None else chosen
    st.session_state[key] = chosen
    picked = st.multiselect(label, list(dict.fromkeys((*offered, *chosen))), key=key, **options)
    setattr(now, name, ",".join(picked))
    return tuple(one for one in getattr(now, name).split(",") if one)
