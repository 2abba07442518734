"""A pruned model on disk with the record of its run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel

from rcpu.base.errors import RcpuError, choose
from rcpu.base.paths import existing
from rcpu.compact.assembly import padded
from rcpu.compact.card import CARD, licence_of, model_card
from rcpu.compact.export import RECORD, check_target, weight_bytes, writing
from rcpu.compact.loaders import loads_in
from rcpu.compact.shapes import check_shape, shaped
from rcpu.compact.stock import write_stock
from rcpu.models.devices import DTYPES
from rcpu.models.loading import Model
from rcpu.models.sizes import cost
from rcpu.pruning.recipe import Recipe
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
    shape: str = "compact",
    multiple: int = 1,
    overwrite: bool = False,
    dtype: str = "auto",
    numbers: Sequence[str] = (),
) -> Path:
    """Write the pruned model in one of SHAPES, with tokenizer, record and model card, which shows ``numbers``.

    ``dtype`` is that of the files: the checkpoint's own unless it is said here, or was when the model was loaded.
    ``multiple`` rounds the MLP's width of a stock model up, with zeros.

    Raises:
        RcpuError: see :func:`check_target`; or the model cannot have this shape, there is no such dtype, or writing
            failed, e.g. the disk is full.
    """
    check_shape(result.net.config, shape, multiple)
    record = run_record(model, result, shape=shape, padded=shape == "padded")
    net = _in_shape(model, result, shape, multiple)
    return write_export(model, net, folder, record, overwrite=overwrite, dtype=dtype, numbers=numbers)


def write_export(
    model: Model,
    net: PreTrainedModel,
    folder: Path | str,
    record: dict,
    *,
    overwrite: bool = False,
    dtype: str = "auto",
    numbers: Sequence[str] = (),
) -> Path:
    """Write ``net``, made of ``model``, as a folder with the record of how."""
    stored = choose("dtype", model.storage if dtype == "auto" else dtype, DTYPES)
    folder = check_target(folder, overwrite, [model.folder])
    with writing(folder) as new:
        write_stock(net, model.tokenizer, new, stored)
        record = record | file_sizes(model, new) | {"loads_in": loads_in(net.config, model.tokenizer)}
        (new / CARD).write_text(card_of(model.folder, record, numbers), encoding="utf-8")
        record["files"] = sorted(path.name for path in new.iterdir())
        (new / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return folder


def _in_shape(model: Model, result: PruneResult, shape: str, multiple: int) -> PreTrainedModel:
    """Of a LLaMA that lost columns the zeros of a padded model lie where those were; elsewhere behind what stays."""
    if shape == "padded" and result.sites and model.net.config.model_type == "llama":
        with contextlib.suppress(RcpuError):  # more than columns went
            return padded(model.net, result.cuts)
    return shaped(result.net, shape, multiple)


def card_of(folder: Path, record: dict, numbers: Sequence[str]) -> str:
    """The model card of what was made of the model in ``folder``."""
    recipe, source = Recipe.from_dict(record["recipe"]), existing(record["recipe"]["model"])
    base = source.resolve().name if source else recipe.model
    return model_card(
        base=base,
        on_hub=source is None and "/" in base,
        licence=licence_of(folder, recipe.model),
        shape=record["shape"],
        recipe=replace(recipe, model=base, text=_without_folder(recipe.text)).to_yaml(),
        record=record,
        loads=record["loads_in"],
        numbers=numbers,
    )


def _without_folder(text: str) -> str:
    """A text as its recipe names it, without where it lay."""
    return Path(text).name if existing(text.partition("#")[0]) else text


def file_sizes(model: Model, folder: Path) -> dict[str, int]:
    """Bytes of the weight files that were read, and of those that were written."""
    return {"file_bytes_before": weight_bytes(model.folder), "file_bytes_after": weight_bytes(folder)}


def bytes_to_write(model: Model, parameters: int, dtype: str = "auto") -> int:
    """About how many bytes an export of so many parameters takes."""
    others = sum(path.stat().st_size for path in model.folder.glob("tokenizer*")) + OTHER_FILES
    return parameters * choose("dtype", model.storage if dtype == "auto" else dtype, DTYPES).itemsize + others
