"""What a session has set, kept in its URL, and what all sessions share: loaded models and the job queue."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import psutil
import streamlit as st
import torch

import rcpu
from app.jobs import Job, Jobs
from rcpu.models import free_memory

PREFIX = "set_"  # of widget keys that stand for a setting


@dataclass
class Settings:
    """Everything a person set; each field is one URL parameter, left out while it has its default."""

    model: str = "embedded"
    device: str = "auto"
    dtype: str = "auto"
    text: str = "embedded"
    samples: int = 128
    window: int = 128
    held_out: int = 16
    seed: int = 0
    ratio: float = 0.2
    scorer: str = "rcpu"
    compensation: str = "rotation"
    sites: str = "o_proj,down_proj"
    layers: str = "all"
    unit: str = "auto"
    order: str = "paper"
    ridge: str = "0.01"
    proper: bool = False
    layer: int = 0  # shown
    site: str = "o_proj"  # shown
    eval_text: str = "embedded"
    eval_window: int = 128
    eval_windows: int = 48
    prompt: str = "The old lighthouse keeper"
    tokens: int = 48
    temperature: float = 0.0
    top_p: float = 1.0
    gen_seed: int = 0
    load: str = ""  # job ids
    run: str = ""
    measure: str = ""
    generate: str = ""
    save: str = ""

    def prune_config(self) -> rcpu.PruneConfig:
        """The pruning run that these settings describe; raises ``RcpuError`` where they make no sense."""
        try:
            ridge = None if self.ridge == "auto" else float(self.ridge)
        except ValueError as error:
            raise rcpu.RcpuError(f"ridge must be a number or auto, got {self.ridge!r}") from error
        return rcpu.PruneConfig(
            model=self.model,
            text=self.text,
            samples=self.samples,
            window=self.window,
            held_out=self.held_out,
            seed=self.seed,
            ratio=self.ratio,
            scorer=self.scorer,
            compensation=self.compensation,
            sites=tuple(filter(None, self.sites.split(","))),
            layers=rcpu.parse_layers(self.layers),
            unit=self.unit,
            order=self.order,
            ridge=ridge,
            proper=self.proper,
        )


class PageEnd(Exception):
    """A page has nothing more to draw. Unlike ``st.stop()`` it lets main.py write the URL afterwards."""


def settings() -> Settings:
    """This session's settings; the first call reads them from the URL."""
    if "settings" not in st.session_state:
        loaded = Settings()
        for field in fields(Settings):
            if (text := st.query_params.get(field.name)) is None:
                continue
            default = getattr(loaded, field.name)
            try:
                value = text == "1" if isinstance(default, bool) else type(default)(text)
            except ValueError:
                continue  # an unreadable value in a link: keep the default
            setattr(loaded, field.name, value)
        st.session_state["settings"] = loaded
    return st.session_state["settings"]


def write_url() -> None:
    """Put every setting that differs from its default into the URL."""
    now, defaults = settings(), Settings()
    wanted = {}
    for field in fields(Settings):
        value = getattr(now, field.name)
        if value != getattr(defaults, field.name):
            wanted[field.name] = str(int(value)) if isinstance(value, bool) else str(value)
    if wanted != st.query_params.to_dict():
        st.query_params.from_dict(wanted)


def control(widget: Callable, label: str, name: str, **options) -> Any:
    """Draw ``widget`` for the setting ``name`` and return its value, which is the setting from now on.

    Options to choose from are given as ``options``; a setting that is not among them falls back to the first.
    """
    key, now = PREFIX + name, settings()
    value = st.session_state.get(key, getattr(now, name))
    choices = options.get("options")
    if choices is not None and value not in choices:
        value = next(iter(choices))
    low, high = options.get("min_value"), options.get("max_value")
    if low is not None:
        value = min(max(value, low), value if high is None else high)
    st.session_state[key] = value
    value = widget(label, key=key, **options)
    if value is None:  # a segmented control that was switched off
        value = getattr(now, name)
    setattr(now, name, value)
    return value


class ModelStore:
    """The loaded models of this process, by name, device and dtype; sessions read them and never change them."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str, str], rcpu.Model] = {}
        self._lock = threading.Lock()

    def get(self, key: tuple[str, str, str]) -> rcpu.Model | None:
        """The model, if it is loaded."""
        return self._models.get(key)

    def put(self, key: tuple[str, str, str], model: rcpu.Model) -> None:
        """Share a model with all sessions."""
        with self._lock:
            self._models[key] = model

    def drop(self, key: tuple[str, str, str]) -> None:
        """Forget a model; jobs that still use it keep it until they end."""
        with self._lock:
            self._models.pop(key, None)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@st.cache_resource(show_spinner=False)
def jobs() -> Jobs:
    """The one job queue of this process."""
    return Jobs()


@st.cache_resource(show_spinner=False)
def models() -> ModelStore:
    """The loaded models of this process."""
    return ModelStore()


def model_key() -> tuple[str, str, str]:
    """Which model this session has chosen."""
    s = settings()
    return s.model, s.device, s.dtype


def current_model() -> rcpu.Model | None:
    """The model this session has chosen, if it is loaded."""
    return models().get(model_key())


def load_model_job(key: tuple[str, str, str]) -> Job:
    """Queue the loading of a model, or join the job that loads it already."""
    name, device, dtype = key
    title = f"Load {name} ({device}, {dtype})"
    for job in jobs().all("load"):
        if job.active and job.title == title:
            return job

    steps = {"converting": 0.1, "asking": 0.05, "downloading": 0.1, "loading": 0.5, "checking": 0.8}
    store = models()

    def work(job: Job) -> None:
        def report(message: str) -> None:
            if job.cancelled():
                raise rcpu.Cancelled
            job.report(steps.get(message.split()[0], 0.0), message)

        store.put(key, rcpu.load_model(name, device, dtype, report=report))

    return jobs().submit("load", title, work)


@dataclass(frozen=True)
class PrunedRun:
    """A finished pruning with the dense model it came from and its uncompensated twin, which shares its parts."""

    model: rcpu.Model
    result: rcpu.PruneResult
    uncompensated: Any  # CompactLlamaForCausalLM

    def networks(self) -> dict[str, Any]:
        """The models to compare, by what they are called everywhere."""
        return {"dense": self.model.net, "pruned": self.uncompensated, "compensated": self.result.net}


def prune_job(model: rcpu.Model, config: rcpu.PruneConfig) -> Job:
    """Queue a pruning run; ``partial`` grows by one SiteResult at a time."""

    def work(job: Job) -> PrunedRun:
        job.report(0.0, "drawing calibration windows")
        windows = rcpu.calibration_windows(
            rcpu.load_text(config.text),
            model.tokenizer,
            samples=config.samples,
            window=config.window,
            held_out=config.held_out,
            seed=config.seed,
        )
        job.partial = ()

        def progress(p: rcpu.Progress) -> None:
            job.report(p.fraction, p.message)
            if p.site is not None:
                job.partial = (*job.partial, p.site)

        result = rcpu.prune(model.net, windows, config, progress=progress, cancelled=job.cancelled)
        return PrunedRun(model, result, result.uncompensated(model.net))

    title = f"Prune {model.name}: {config.ratio:.0%}, {config.scorer}, {config.compensation}"
    return jobs().submit("prune", title, work)


def save_job(run: PrunedRun, folder: str, padded: bool) -> Job:
    """Queue the writing of a pruned model to a new folder on the machine that serves the app."""
    target = rcpu.check_target(folder)
    return jobs().submit(
        "save", f"Save to {target}", lambda _: rcpu.save(run.model, run.result, target, as_padded=padded)
    )


def measure_job(run: PrunedRun, text: str, window: int, max_windows: int) -> Job:
    """Queue the perplexities of the dense, pruned and compensated model; ``partial`` fills as they come."""

    def work(job: Job) -> dict[str, rcpu.Perplexity]:
        source = rcpu.load_text(text)
        windows = rcpu.evaluation_windows(source, run.model.tokenizer, window=window, max_windows=max_windows)
        found: dict[str, rcpu.Perplexity] = {}
        for i, (name, net) in enumerate(run.networks().items()):
            found = found | {
                name: rcpu.perplexity(
                    net,
                    windows,
                    text=source.name,
                    progress=lambda f, i=i, name=name: job.report((i + f) / 3, name),
                    cancelled=job.cancelled,
                )
            }
            job.partial = found
        return found

    return jobs().submit("measure", f"Perplexity on {text}", work)


def generate_job(run: PrunedRun, prompt: str, **options) -> Job:
    """Queue one continuation a model, token by token in turn, so that they grow side by side in ``partial``."""

    def work(job: Job) -> dict[str, rcpu.Generated]:
        streams = {
            name: rcpu.stream(net, run.model.tokenizer, prompt, cancelled=job.cancelled, **options)
            for name, net in run.networks().items()
        }
        texts: dict[str, rcpu.Generated] = {}
        while streams:
            for name in list(streams):
                if (step := next(streams[name], None)) is None:
                    del streams[name]
                else:
                    texts = texts | {name: step}
            job.partial = texts
            done = max(t.tokens for t in texts.values())
            job.report(done / options["max_new_tokens"], f"{done} of {options['max_new_tokens']} tokens")
        return texts

    return jobs().submit("generate", "Generate side by side", work)


def memory(device: torch.device | None = None) -> dict[str, int]:
    """Bytes: this process, free on the machine, and free on the device if that is a GPU."""
    found = {"process": psutil.Process().memory_info().rss, "free": psutil.virtual_memory().available}
    if device is not None and device.type == "cuda":
        found["device free"] = free_memory(device)
    return found
