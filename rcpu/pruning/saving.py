"""A pruned model on disk with the record of its run."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers

from rcpu.base.errors import choose
from rcpu.compact.assembly import padded
from rcpu.compact.export import RECORD, check_target, weight_bytes, writing
from rcpu.compact.stock import write_stock
from rcpu.models.devices import DTYPES
from rcpu.models.loading import Model
from rcpu.models.sizes import cost
from rcpu.pruning.result import PruneResult

OTHER_FILES = 2**16  # bytes, about, of configuration and record


def run_record(model: Model, result: PruneResult, **extra) -> dict:
    """Everything needed to say how a pruned model was made: settings, model, software, and a summary of each site."""
    before, after = cost(model.net), cost(result.net)
    return {
        "recipe": result.recipe.to_dict(),
        "fingerprint": model.fingerprint,
        "dtype": model.dtype,
        "device": str(model.device),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "parameters_before": before.parameters,
        "parameters_after": after.parameters,
        "bytes_before": before.bytes,
        "bytes_after": after.bytes,
        "flops_per_token_before": before.flops_per_token,
        "flops_per_token_after": after.flops_per_token,
        "seconds": result.seconds,
        "notes": list(result.notes),
        "sites": [site.summary() for site in result.sites],
        **extra,
    }


def save(
    model: Model,
    result: PruneResult,
    folder: Path | str,
    *,
    as_padded: bool = False,
    overwrite: bool = False,
    dtype: str = "auto",
) -> Path:
    """Write the compact model, or with ``as_padded`` a stock LLaMA with zeros in place that any loader takes.

    ``dtype`` is that of the files: the checkpoint's own unless it is said here, or was when the model was loaded.

    Raises:
        RcpuError: see :func:`check_target`; or there is no such dtype, or writing failed, e.g. the disk is full.
    """
    stored = choose("dtype", model.storage if dtype == "auto" else dtype, DTYPES)
    folder = check_target(folder, overwrite, [model.folder])
    with writing(folder) as new:
        write_stock(padded(model.net, result.cuts) if as_padded else result.net, model.tokenizer, new, stored)
        record = run_record(model, result, padded=as_padded) | file_sizes(model, new)
        record["files"] = sorted(path.name for path in new.iterdir())
        (new / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return folder


def file_sizes(model: Model, folder: Path) -> dict[str, int]:
    """Bytes of the weight files that were read, and of those that were written."""
    return {"file_bytes_before": weight_bytes(model.folder), "file_bytes_after": weight_bytes(folder)}


def bytes_to_write(model: Model, parameters: int, dtype: str = "auto") -> int:
    """About how many bytes an export of so many parameters takes."""
    others = sum(path.stat().st_size for path in model.folder.glob("tokenizer*")) + OTHER_FILES
    return parameters * choose("dtype", model.storage if dtype == "auto" else dtype, DTYPES).itemsize + others
