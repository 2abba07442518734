"""What all sessions of this process share: loaded models, statistics, windows, and the job queue."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import psutil
import streamlit as st
import torch

import rcpu
from app.ahead import Ahead
from app.demo import check_calibration, limits
from app.jobs import Jobs
from app.settings import settings
from app.texts import digest_now, load_text, quick
from rcpu.base import Answers
from rcpu.explain import Projection
from rcpu.models import free_memory, weight_of
from rcpu.statistics import Collection, collection_of

ANSWERS = 64  # about all layers that are remembered: scores of 13B take 4 MB


class ModelStore:
    """The loaded models of this process, by name, device and dtype; sessions read them and never change them."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str, str], tuple[rcpu.Model, tuple]] = {}
        self._lock = threading.Lock()

    def get(self, key: tuple[str, str, str]) -> rcpu.Model | None:
        """The model, if it is loaded."""
        found = self._models.get(key)
        return found and found[0]

    def put(self, key: tuple[str, str, str], model: rcpu.Model) -> None:
        """Share a model with all sessions."""
        with self._lock:
            self._models[key] = model, _marks(model.folder)

    def matching(self, fingerprint: str, dtype: str) -> rcpu.Model | None:
        """A loaded model of this content and precision, whatever it was asked for as."""
        for model, _ in list(self._models.values()):
            if (model.fingerprint, model.dtype) == (fingerprint, dtype):
                return model
        return None

    def outdated(self, key: tuple[str, str, str]) -> bool:
        """Whether the files of a loaded model were changed since."""
        found = self._models.get(key)
        return found is not None and found[1] != _marks(found[0].folder)

    def drop(self, key: tuple[str, str, str]) -> None:
        """Forget a model; jobs that still use it keep it until they end."""
        with self._lock:
            self._models.pop(key, None)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _marks(folder: Path) -> tuple:
    """What changes with every change of the files of a folder."""
    try:
        found = ((p.name, p.stat()) for p in sorted(folder.iterdir()) if p.is_file())
        return tuple((name, at.st_mtime_ns, at.st_size) for name, at in found)
    except OSError:
        return ()


class Windows:
    """Calibration windows that were drawn, by model, content of the text, and counts: a long text takes a while."""

    KEPT = 32  # sets that are remembered

    def __init__(self) -> None:
        self._drawn: OrderedDict[tuple, rcpu.Windows] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, model: rcpu.Model, config: rcpu.Recipe, patient: bool = False) -> rcpu.Windows | None:
        """The windows of a config, or None if drawing them takes longer than a page may wait, unless ``patient``.

        Raises:
            RcpuError: there is no such text, or too little of it.
        """
        check_calibration(config.samples, config.window, config.held_out)
        counts = {name: getattr(config, name) for name in ("samples", "window", "held_out", "seed")}

        def key(digest: str) -> tuple:
            return model.fingerprint, digest, *counts.values()

        if digest := digest_now(config.text, "calibration"):
            with self._lock:
                if found := self._drawn.get(key(digest)):
                    self._drawn.move_to_end(key(digest))
                    return found
        if not patient and not quick(config.text):
            return None
        text = load_text(config.text, "calibration")
        drawn = rcpu.calibration_windows(text, model.tokenizer, **counts)
        with self._lock:
            self._drawn[key(text.digest)] = drawn
            while len(self._drawn) > self.KEPT:
                self._drawn.popitem(last=False)
        return drawn


class Projections:
    """Projections that somebody asks about, ready to answer; those asked longest ago leave first."""

    BYTES = 1536 * 2**20

    def __init__(self) -> None:
        self._ready: OrderedDict[tuple[Path, int, str], Projection] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, model: rcpu.Model, found: Collection, layer: int, site: str) -> Projection:
        """One projection of the dense model; raises ``RcpuError`` if it was not measured."""
        key = (found.folder, layer, site)
        with self._lock:
            if key in self._ready:
                self._ready.move_to_end(key)
                return self._ready[key]
        made = Projection(weight_of(model.net, layer, site), found.get(layer, site), layer=layer, site=site)
        with self._lock:
            self._ready[key] = made
            while len(self._ready) > 2 and sum(p.bytes for p in self._ready.values()) > self.BYTES:
                self._ready.popitem(last=False)
        return made


@st.cache_resource(show_spinner=False)
def jobs() -> Jobs:
    """The one job queue of this process."""
    return Jobs(waiting=limits().waiting)


@st.cache_resource(show_spinner=False)
def windows() -> Windows:
    """Calibration windows that were drawn."""
    return Windows()


@st.cache_resource(show_spinner=False)
def projections() -> Projections:
    """Projections that are ready to answer."""
    return Projections()


@st.cache_resource(show_spinner=False)
def answers() -> Answers:
    """What was found of all layers of a model; a projection keeps what is of itself alone."""
    return Answers(ANSWERS)


@st.cache_resource(show_spinner=False)
def ahead() -> Ahead:
    """What works out answers before they are asked for."""
    queue = jobs()
    return Ahead(lambda: any(job.active for job in queue.all()))


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


def current_collection(model: rcpu.Model, config: rcpu.Recipe) -> Collection | None:
    """The statistics for these windows, complete or not; None if the windows were not drawn yet.

    Raises:
        RcpuError: there is no such text, or too little of it.
    """
    drawn = windows().get(model, config)
    return None if drawn is None else _collection(collection_of(model, drawn).folder)


@st.cache_resource(show_spinner=False, max_entries=32)
def _collection(folder: Path) -> Collection:
    return Collection(folder)  # one object a folder: it remembers the vectors it has read


def memory(device: torch.device | None = None) -> dict[str, int]:
    """Bytes: this process, free on the machine, and free on the device if that is a GPU."""
    found = {"process": psutil.Process().memory_info().rss, "free": free_memory(torch.device("cpu"))}
    if device is not None and device.type == "cuda":
        found["device free"] = free_memory(device)
    return found
