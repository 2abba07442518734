"""A stream from a model's name to an export: what it will take, the sweep, and the folder that it leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers
from transformers import GenerationConfig

from rcpu.base.errors import RcpuError, choose
from rcpu.compact.card import CARD
from rcpu.compact.export import RECORD, check_room, weight_bytes, writing
from rcpu.compact.loaders import loads_in
from rcpu.compact.stock import write_beside
from rcpu.models.compact_llama import CompactLlamaForCausalLM
from rcpu.models.devices import DTYPES, dtype_name, free_memory, resolve_device, resolve_dtype
from rcpu.models.loading import locate
from rcpu.models.shards import Shards
from rcpu.models.sizes import flops_per_token, parameter_count, streamed_bytes
from rcpu.models.tokenizers import load_tokenizer
from rcpu.pruning.recipe import Recipe
from rcpu.pruning.saving import card_of
from rcpu.pruning.target import planned_share, with_target
from rcpu.runs.split import Alone, Split
from rcpu.runs.streaming import Streamed, check_streamed, move_weights, stream
from rcpu.statistics.passes import Progress
from rcpu.text.leaks import leak_note, overlap
from rcpu.text.texts import Text, load_text
from rcpu.text.windows import calibration_windows, evaluation_windows


@dataclass(frozen=True, eq=False)
class Stream:
    """A run that was looked at before it begins, and what it takes: bytes on the device, about, and on the disk."""

    shards: Shards
    recipe: Recipe
    folder: Path
    device: torch.device
    dtype: torch.dtype
    storage: torch.dtype
    need: int
    free: int
    disk: int
    left: float  # of the decoder's parameters, or of what a target is a share of


def prepare_stream(
    recipe: Recipe,
    folder: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    save_dtype: str = "auto",
    target: tuple[float, str] | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Stream:
    """Look at the model's files and the recipe; ``target`` is a share of parameters that stays, and of what.

    Raises:
        RcpuError: files that are none of a dense model, a recipe that needs the whole model, or one layer or the
            result for which there is no room.
    """
    source, place = locate(recipe.model, report), resolve_device(device)
    shards = Shards(source)
    kind = resolve_dtype(dtype, place, shards.own)
    stored = shards.stored if save_dtype == "auto" and dtype == "auto" else save_dtype
    storage = choose("dtype", dtype_name(kind) if stored in ("auto", None) else stored, DTYPES)
    empty = shards.empty()
    if target is not None:
        recipe = with_target(empty, recipe, *target)
    check_streamed(empty, recipe)
    need, free = streamed_bytes(shards.own, kind), free_memory(place)
    if need > free:
        raise RcpuError(
            f"one layer does not fit: it needs about {need / 2**30:.1f} GiB and {free / 2**30:.1f} are free on {place}"
        )
    disk = parameter_count(shards.own) * storage.itemsize
    check_room(folder, disk)
    left = planned_share(empty, recipe, target[1] if target else "decoder")
    return Stream(shards, recipe, folder, place, kind, storage, need, free, disk, left)


def run_stream(
    asked: Stream,
    *,
    text: Text | None = None,
    evaluate: int = 64,
    resume: bool = True,
    on_disk: bool = False,
    split: Split | Alone | None = None,
    warn: Callable[[str], None] = lambda _: None,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict | None:
    """Prune, measure on ``evaluate`` windows and write the export; its record, None in processes but the first.

    ``text`` stands for the recipe's, where that is known by another name. ``warn`` is told of an evaluation on what
    is calibrated on before the work starts; the record's notes have it, too.

    Raises:
        RcpuError: see :func:`rcpu.runs.streaming.stream`.
        Cancelled: as there; the same call goes on.
    """
    recipe, shards, split = asked.recipe, asked.shards, split or Alone()
    tokenizer, text = load_tokenizer(shards.folder), text or load_text(recipe.text)
    counts = {name: getattr(recipe, name) for name in ("samples", "window", "held_out", "seed")}
    windows = calibration_windows(text, tokenizer, **counts)
    evaluation, leak = None, None
    if evaluate:
        evaluation = evaluation_windows(text, tokenizer, window=recipe.window, max_windows=evaluate)
        leak = leak_note(overlap(windows.calibration.flatten(), evaluation), text.name, "the evaluation text")
    if leak:
        warn(leak)
    found = stream(
        shards,
        windows,
        recipe,
        asked.folder,
        device=asked.device,
        dtype=asked.dtype,
        storage=asked.storage,
        evaluation=evaluation,
        text=text.name,
        resume=resume,
        on_disk=on_disk,
        split=split,
        progress=progress,
        cancelled=cancelled,
    )
    if leak:
        found = replace(found, notes=(*found.notes, leak))
    return _finish(found, asked, tokenizer) if split.first else None


def _finish(found: Streamed, asked: Stream, tokenizer) -> dict:
    """Make an export of what was streamed: names, tokenizer, record, card; only then is the part folder let go."""
    shards = asked.shards
    with torch.device("meta"):
        net = CompactLlamaForCausalLM(found.config)
    net.generation_config = GenerationConfig.from_model_config(shards.own)
    if (shards.folder / "generation_config.json").is_file():
        net.generation_config = GenerationConfig.from_pretrained(shards.folder, local_files_only=True)
    measured = {"dense": found.dense, "pruned": found.pruned}
    record = {
        "recipe": asked.recipe.to_dict(),
        "fingerprint": shards.digest,
        "dtype": dtype_name(asked.storage),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "parameters_before": parameter_count(shards.own),
        "parameters_after": parameter_count(found.config),
        "flops_per_token_before": flops_per_token(shards.config),
        "flops_per_token_after": flops_per_token(found.config),
        "file_bytes_before": weight_bytes(shards.folder),
        "file_bytes_after": weight_bytes(found.folder),
        "seconds": sum(found.seconds),
        "notes": list(found.notes),
        "sites": list(found.sites),
        "shape": "compact",
        "padded": False,
        "streamed": True,
        "out": str(asked.folder),
        "loads_in": loads_in(found.config, tokenizer),
        **{f"perplexity_{name}": p and p.to_dict() for name, p in measured.items()},
    }
    numbers = [f"{name}: {p.line}" for name, p in measured.items() if p is not None]
    with writing(asked.folder) as new:
        move_weights(found.folder, new)
        write_beside(net, tokenizer, new, asked.storage)
        (new / CARD).write_text(card_of(shards.folder, record, numbers), encoding="utf-8")
        record["files"] = sorted(path.name for path in new.iterdir())
        (new / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(found.folder, ignore_errors=True)
    return record
