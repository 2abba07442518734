"""What all sessions of this process share: loaded models, statistics, handed-over texts, and the job queue."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import psutil
import streamlit as st
import torch

import rcpu
from app.ahead import Ahead
from app.demo import UPLOAD, check_calibration, check_text, check_upload, limits
from app.jobs import Jobs
from app.settings import settings
from rcpu.base import Answers, existing
from rcpu.explain import Projection
from rcpu.models import HUB_ID, free_memory, weight_of
from rcpu.statistics import Collection, collection_of
from rcpu.text import NAMED

ANSWERS = 64  # about all layers that are remembered: scores of 13B take 4 MB
UPLOADS = 32  # texts that are remembered


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


class TextStore:
    """Texts that people uploaded or pasted, by the digest of their content; the oldest leave first."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, rcpu.Text] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, name: str, data: bytes) -> str:
        """Check and keep a text; returns the name that ``load_text`` here takes, ``upload:`` and a digest.

        Raises:
            RcpuError: empty, or not UTF-8.
        """
        check_upload(len(data))
        text = rcpu.from_upload(name, data)
        key = UPLOAD + text.digest
        with self._lock:
            self._texts[key] = text
            self._texts.move_to_end(key)
            while len(self._texts) > UPLOADS:
                self._texts.popitem(last=False)
        return key

    def get(self, key: str) -> rcpu.Text:
        """The text; raises ``RcpuError`` if it is not kept any more."""
        if found := self._texts.get(key):
            return found
        raise rcpu.RcpuError("this text was handed over by hand and is no longer in memory: upload or paste it again")


class Windows:
    """Calibration windows that were drawn, by model, text and counts: a long text takes a while to tokenize."""

    KEPT, INLINE = 32, 4 * 2**20  # sets that are remembered; bytes of a file that a page may tokenize itself

    def __init__(self) -> None:
        self._drawn: OrderedDict[tuple, rcpu.Windows] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, model: rcpu.Model, config: rcpu.Recipe, patient: bool = False) -> rcpu.Windows | None:
        """The windows of a config, or None if drawing them takes longer than a page may wait, unless ``patient``.

        Raises:
            RcpuError: there is no such text, or too little of it.
        """
        check_calibration(config.samples, config.window, config.held_out)
        check_text(config.text)  # before anything looks for a file of that name
        key = (model.fingerprint, config.text, config.samples, config.window, config.held_out, config.seed)
        with self._lock:
            if key in self._drawn:
                self._drawn.move_to_end(key)
                return self._drawn[key]
        if not patient and not self._quick(config.text):
            return None
        counts = {name: getattr(config, name) for name in ("samples", "window", "held_out", "seed")}
        drawn = rcpu.calibration_windows(load_text(config.text, part="calibration"), model.tokenizer, **counts)
        with self._lock:
            self._drawn[key] = drawn
            while len(self._drawn) > self.KEPT:
                self._drawn.popitem(last=False)
        return drawn

    def _quick(self, text: str) -> bool:
        if text == "embedded" or text.startswith(UPLOAD):
            return True
        if path := existing(text) or existing(text := text.partition("#")[0]):  # without the name of a field
            return path.stat().st_size < self.INLINE
        return text not in NAMED and not HUB_ID.fullmatch(text.partition(":")[0])  # there is none: that is said at once


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
    allowed = limits()
    return Jobs(waiting=allowed.waiting, kept={"prune": allowed.runs})


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


@st.cache_resource(show_spinner=False)
def uploads() -> TextStore:
    """The texts people handed over."""
    return TextStore()


def load_text(name: str, part: str | None = None) -> rcpu.Text:
    """A text of the library, or one that was handed over; raises ``RcpuError`` as ``rcpu.load_text`` does."""
    check_text(name)
    return uploads().get(name) if name.startswith(UPLOAD) else rcpu.load_text(name, part=part)


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
