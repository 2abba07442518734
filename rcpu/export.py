"""A pruned model on disk: safetensors, configuration, tokenizer and the record of the run, all or nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
import transformers

from rcpu.compact import padded
from rcpu.errors import RcpuError
from rcpu.evaluate import cost
from rcpu.models import Model
from rcpu.prune import PruneResult
from rcpu.quiet import quiet_transformers

RECORD = "rcpu_run.json"


def check_target(folder: Path | str, overwrite: bool = False) -> Path:
    """The folder to write to, absolute; call it before a long run.

    Raises:
        RcpuError: it exists and ``overwrite`` is not set, it exists and is not an export of ours, or its parent
            cannot take it.
    """
    try:
        folder = Path(folder).expanduser().resolve()  # a link stays, and what it points at is replaced
        if folder.exists():
            if not overwrite:
                raise RcpuError(f"{folder} exists: choose another name, or allow it to be overwritten (--overwrite)")
            if not (folder / RECORD).is_file() and (not folder.is_dir() or any(folder.iterdir())):
                raise RcpuError(f"{folder} is not an earlier export (it has no {RECORD}): it is not overwritten")
        parent = next(p for p in folder.parents if p.exists())
        tempfile.TemporaryFile(dir=parent).close()
        if any(
            len(os.fsencode(name)) > os.pathconf(parent, "PC_NAME_MAX") for name in folder.relative_to(parent).parts
        ):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    except RcpuError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # ValueError: a null byte
        raise RcpuError(f"cannot write to {folder}: {getattr(error, 'strerror', None) or error}") from error
    return folder


def run_record(model: Model, result: PruneResult, **extra) -> dict:
    """Everything needed to say how a pruned model was made: settings, model, software, and a summary of each site."""
    before, after = cost(model.net), cost(result.net)
    return {
        "config": result.config.to_dict(),
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
