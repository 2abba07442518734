"""A pruned model on disk with the record of its run."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch
import transformers

from rcpu.base.errors import RcpuError
from rcpu.base.quiet import quiet_transformers
from rcpu.compact.assembly import padded
from rcpu.compact.export import RECORD, check_target
from rcpu.models.loading import Model
from rcpu.models.sizes import cost
from rcpu.pruning.result import PruneResult


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
    model: Model, result: PruneResult, folder: Path | str, *, as_padded: bool = False, overwrite: bool = False
) -> Path:
    """Write the compact model, or with ``as_padded`` a stock LLaMA with zeros in place that any loader takes.

    Files go to a temporary folder beside the target, which is renamed at the end: an error or an interrupt leaves
    nothing behind, and what was there before stays until then.

    Raises:
        RcpuError: see :func:`check_target`; or writing failed, e.g. the disk is full.
    """
    folder = check_target(folder, overwrite)
    made = [p for p in folder.parents if not p.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".rcpu.tmp-", dir=folder.parent))
    aside = temporary.with_name(temporary.name + "-old")
    try:
        net = padded(model.net, result.cuts) if as_padded else result.net
        with quiet_transformers():
            net.save_pretrained(temporary)
            model.tokenizer.save_pretrained(temporary)
        record = json.dumps(run_record(model, result, padded=as_padded), indent=1)
        (temporary / RECORD).write_text(record + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        if folder.exists():
            folder.rename(aside)
        temporary.rename(folder)
    except BaseException as error:
        if aside.exists():
            aside.rename(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:
            parent.rmdir()
        if isinstance(error, OSError):
            raise RcpuError(f"could not write {folder}: {error.strerror or error}") from error
        raise
    shutil.rmtree(aside, ignore_errors=True)
    return folder
