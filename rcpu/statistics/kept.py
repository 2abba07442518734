"""Statistics of the dense path: one pass through the dense layers, kept on disk, so that "what if" needs no other.

Every question about a ratio, a scorer, a unit or a compensator is then a question to sums (see whatif.py). A greedy
run differs from this path: there a layer gets its input from the layers already pruned.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rcpu.base.code import code_version
from rcpu.base.errors import RcpuError
from rcpu.models.embedded import cache_folder
from rcpu.models.families import SITES, layers_of, weight_of
from rcpu.models.loading import Model
from rcpu.statistics.passes import Pass, Progress
from rcpu.statistics.precision import full_fp32
from rcpu.statistics.sums import Accumulator, Statistics
from rcpu.text.windows import Windows

SAMPLE = 8  # calibration windows whose inputs are kept whole, to look at tokens and outputs
LIMIT = 32 * 2**30  # bytes of statistics on disk; the folders used longest ago leave first
FIELDS = ("gram", "total", "absolute", "square")


@dataclass(frozen=True, eq=False)
class SiteData:
    """What was kept of one projection's inputs on the dense path."""

    calibration: Statistics
    held_out: Statistics | None
    sample: Tensor  # (windows, window, d_in) bf16, inputs on the first calibration windows


@dataclass(frozen=True)
class Collection:
    """A folder of statistics that belong to one model and one set of windows; sites are read when asked for."""

    folder: Path

    def has(self, layer: int, site: str) -> bool:
        """Whether this site was measured."""
        return self._path(layer, site).is_file()

    def missing(self, layers: Sequence[int], sites: Sequence[str] = SITES) -> list[int]:
        """Layers in which one of these sites was not measured."""
        return [i for i in layers if not all(self.has(i, site) for site in sites)]

    def get(self, layer: int, site: str) -> SiteData:
        """The data of one site, mapped from disk rather than read; raises ``RcpuError`` if it is not there."""
        path = self._path(layer, site)
        try:
            with safe_open(path, "pt") as file:
                found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
                counts = file.metadata()
        except (OSError, SafetensorError) as error:
            raise RcpuError(f"no statistics of layer {layer}, {site}: measure the dense model first") from error
        os.utime(self.folder)

        def part(name: str) -> Statistics | None:
            tokens = int(counts[name])
            return Statistics(*(found[f"{name}.{f}"] for f in FIELDS), tokens) if tokens else None

        return SiteData(part("calibration"), part("held_out"), found["sample"])

    @cached_property
    def _read(self) -> dict[tuple[int, str], Statistics]:
        return {}

    def vectors(self, layer: int, site: str) -> Statistics:
        """The calibration sums of one site without its Gram matrix (which is empty), kept in memory."""
        if (layer, site) not in self._read:
            x = self.get(layer, site).calibration
            sums = (v.clone() for v in (x.total, x.absolute, x.square))
            self._read[layer, site] = Statistics(torch.empty(0, 0), *sums, x.tokens)
        return self._read[layer, site]

    def _path(self, layer: int, site: str) -> Path:
        return self.folder / f"{layer:03d}-{site}.safetensors"


def statistics_folder() -> Path:
    """Where statistics are kept."""
    return cache_folder() / "statistics"


def collection_of(model: Model, windows: Windows) -> Collection:
    """The place for statistics of this model on these very windows, whether or not it holds any yet.

    Its name is a digest of the model's fingerprint and precision, of the windows' tokens, and of the measuring code.
    """
    code = code_version("models", "statistics")
    of = f"{model.fingerprint} {model.dtype} {windows.digest} {SAMPLE} {code}"
    return Collection(statistics_folder() / hashlib.sha256(of.encode()).hexdigest()[:24])


def site_bytes(net: nn.Module, windows: Windows, layer: int, site: str) -> int:
    """Bytes on disk that the statistics of one site need."""
    d_in = weight_of(net, layer, site).shape[1]
    kinds = 1 + bool(len(windows.held_out))
    sample = min(SAMPLE, len(windows.calibration)) * windows.calibration.shape[1] * d_in * 2
    return kinds * (4 * d_in**2 + 24 * d_in) + sample


def collection_bytes(net: nn.Module, windows: Windows, layers: Sequence[int], sites: Sequence[str] = SITES) -> int:
    """Bytes on disk that the statistics of these layers need; during the pass one layer's are in memory."""
    return sum(site_bytes(net, windows, i, site) for i in layers for site in sites)


@torch.no_grad()
@full_fp32()
def collect(
    model: Model,
    windows: Windows,
    *,
    layers: Sequence[int] | None = None,
    sites: Sequence[str] = SITES,
    micro_batch: int | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Collection:
    """Run the windows through the dense layers and keep the sums of every chosen site that is not there yet.

    Each layer is written as soon as it is measured, whole or not at all; a cancelled pass keeps what it has.

    Raises:
        RcpuError: a layer that does not exist, NaN or Inf in activations, or too little room on the disk.
        Cancelled: ``cancelled()`` was true between two micro-batches.
    """
    net, found = model.net, collection_of(model, windows)
    all_layers = layers_of(net)
    wanted = range(len(all_layers)) if layers is None else sorted(set(layers))
    if wanted and not 0 <= wanted[0] <= wanted[-1] < len(all_layers):
        raise RcpuError(f"layer {wanted[-1]} does not exist: this model has layers 0 to {len(all_layers) - 1}")
    missing = found.missing(wanted, sites)
    if not missing:
        return found
    _make_room(found.folder, collection_bytes(net, windows, missing, sites))
    run = Pass(net, windows, micro_batch=micro_batch, passes=missing[-1] + 1, progress=progress, cancelled=cancelled)
    kept = min(SAMPLE, len(windows.calibration))
    for i in range(missing[-1] + 1):
        live = [name for name in sites if i in missing]
        sums = {s: tuple(Accumulator(weight_of(net, i, s).shape[1], run.device) for _ in range(2)) for s in live}
        samples: dict[str, list[Tensor]] = {s: [] for s in live}
        for seen in run.layer(net, i, f"layer {i}: {'measuring' if live else 'passing through'}"):
            name, part = seen.site.name, seen.part
            if name in live:
                sums[name][seen.held_out].add(seen.x)
                if part.start < kept:
                    samples[name].append(seen.x[: kept - part.start].to("cpu", torch.bfloat16))
        for name in live:
            _write(found, i, name, sums.pop(name), torch.cat(samples.pop(name)))
    about = {"model": model.name, "dtype": model.dtype, "text": windows.text, "windows": len(windows.calibration)}
    (found.folder / "about.json").write_text(json.dumps(about | {"window": windows.calibration.shape[1]}))
    return found


def _write(found: Collection, layer: int, site: str, sums: tuple[Accumulator, Accumulator], sample: Tensor) -> None:
    tensors, counts = {"sample": sample}, {}
    for name, accumulator in zip(("calibration", "held_out"), sums, strict=True):
        counts[name] = str(accumulator.tokens)
        if accumulator.tokens:
            x = accumulator.result()
            tensors |= {f"{name}.{f}": getattr(x, f).cpu().contiguous() for f in FIELDS}
            if not all(t.isfinite().all() for t in (x.absolute, x.square)):
                raise RcpuError(
                    f"layer {layer}, {site}: its inputs hold NaN or Inf: load the model in bf16 or fp32, or look for "
                    "broken weights in this layer"
                )
    path = found._path(layer, site)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f"{path.name}.tmp-", dir=path.parent)
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata=counts)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _make_room(folder: Path, need: int) -> None:
    """Remove the statistics used longest ago until ``need`` bytes fit LIMIT; raise if the disk has not that much."""
    root = folder.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RcpuError(
            f"cannot write statistics to {root}: {error.strerror}; set RCPU_CACHE to a folder that can be written"
        ) from error
    others = sorted((f for f in root.iterdir() if f.is_dir()), key=lambda f: f.stat().st_mtime)
    sizes = {f: sum(p.stat().st_size for p in f.iterdir()) for f in others}
    while others and sum(sizes.values()) + need > LIMIT and others[0] != folder:
        shutil.rmtree(others[0], ignore_errors=True)
        sizes.pop(others.pop(0))
    if need > (free := shutil.disk_usage(root).free):
        raise RcpuError(
            f"the statistics need {need / 2**30:.1f} GiB on the disk of {root}, which has {free / 2**30:.1f} GiB free: "
            "choose fewer layers, or set RCPU_CACHE to another disk"
        )
