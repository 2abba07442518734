"""What all tests share. Nothing here reaches the network: models and texts are tiny and made on the spot."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# A cache of this checkout: what the user's holds would hide that the embedded model cannot be converted here.
os.environ.setdefault("RCPU_CACHE", str(Path(__file__).parent.parent / ".venv" / "cache"))
os.environ["RCPU_HOME"] = tempfile.mkdtemp(prefix="rcpu-tests-")  # never the user's own runs
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as rcpu sets it, but torch is imported first here
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy's; see _one_thread for torch's

import pytest
import torch
from transformers import LlamaForCausalLM

import rcpu
from tests import tiny

#: Of the embedded model, so that files that are tested side by side share the cores.
THREADS = max(1, torch.get_num_threads() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["RCPU_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def _one_thread(request):
    """Tiny tensors lose more by waiting for a second thread than they gain; the embedded model gets them all."""
    torch.set_num_threads(THREADS if request.node.get_closest_marker("embedded") else 1)


@pytest.fixture(autouse=True)
def _own_main(monkeypatch):
    """Streamlit leaves its script as ``__main__``, and every process that is spawned later would run it again."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture
def home(tmp_path_factory, monkeypatch) -> Path:
    """A run store of this test alone."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("RCPU_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def mha() -> LlamaForCausalLM:
    """One KV head for each query head."""
    return tiny.net("mha")


@pytest.fixture(scope="session")
def gqa() -> LlamaForCausalLM:
    """Six query heads on two KV heads."""
    return tiny.net("gqa")


@pytest.fixture(scope="session")
def biased() -> LlamaForCausalLM:
    """Biases on every projection."""
    return tiny.net("biased")


@pytest.fixture(scope="session")
def tied() -> LlamaForCausalLM:
    """The embedding serves as output matrix too."""
    return tiny.net("tied")


@pytest.fixture(scope="session")
def windows() -> rcpu.Windows:
    """Random calibration and held-out windows."""
    return tiny.calibration()


@pytest.fixture(scope="session")
def tokenizer():
    """A token a byte."""
    return tiny.tokenizer()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """The ``gqa`` model on disk, to load and never to change."""
    return tiny.save(tiny.net("gqa"), tmp_path_factory.mktemp("models") / "tiny-gqa")


@pytest.fixture(scope="session")
def model(model_folder) -> rcpu.Model:
    """The ``gqa`` model as ``load_model`` gives it."""
    return rcpu.load_model(str(model_folder), device="cpu")


@pytest.fixture(scope="session")
def text_file(tmp_path_factory) -> Path:
    """Twelve thousand characters of seeded gibberish, to read and never to change."""
    words = ["".join(chr(97 + c % 26) for c in row) for row in tiny.ids(2000, 5, seed=9).tolist()]
    path = tmp_path_factory.mktemp("texts") / "words.txt"
    path.write_text(" ".join(words) + "\n", encoding="utf-8")
    return path


READ_ALL = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: what lets root read every file
VERSION = 0x20080522  # of Linux's capability calls


@contextlib.contextmanager
def _without_privileges() -> Iterator[None]:
    """Modes of files hold for root too inside the block, as for anybody else."""
    libc, head, data = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(VERSION, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(head, data):
        pytest.skip("needs capabilities of Linux")
    had = data[0]
    data[0] = had & ~READ_ALL
    assert not libc.capset(head, data)
    try:
        yield
    finally:
        data[0] = had
        assert not libc.capset(head, data)


@pytest.fixture
def modes_hold() -> Iterator[None]:
    """Files that a mode closes are closed for this test, whoever runs it."""
    if sys.platform != "linux":
        pytest.skip("needs capabilities of Linux")
    with _without_privileges():
        yield
