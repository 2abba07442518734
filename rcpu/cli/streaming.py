"""``python -m rcpu prune --stream``: a model that is never in memory whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
import transformers
from rich.console import Console
from transformers import GenerationConfig

import rcpu
from rcpu.base.errors import RcpuError, choose
from rcpu.cli.common import output, progress_bar, results
from rcpu.compact.card import CARD
from rcpu.compact.export import RECORD, check_room, weight_bytes, writing
from rcpu.compact.loaders import loads_in
from rcpu.compact.stock import write_beside
from rcpu.models import resolve_device
from rcpu.models.compact_llama import CompactLlamaForCausalLM
from rcpu.models.devices import dtype_name, free_memory, resolve_dtype
from rcpu.models.loading import locate
from rcpu.models.shards import Shards
from rcpu.models.sizes import flops_per_token, parameter_count, streamed_bytes
from rcpu.models.tokenizers import load_tokenizer
from rcpu.pruning.saving import card_of
from rcpu.runs.streaming import PART, Streamed, move_weights, stream


def add_flags(parser) -> None:
    """What a stream can be told beside a recipe."""
    group = parser.add_argument_group("models larger than memory")
    group.add_argument("--stream", action="store_true", help="read, prune, write and let go one layer at a time")
    about = "windows of the text's evaluation part that travel along, for both perplexities; 0 for none (default: 64)"
    group.add_argument("--evaluate", type=int, default=64, metavar="N", help=about)
    group.add_argument("--states-on-disk", action="store_true", help="hidden states in mapped files")


def run_streamed(options, recipe: rcpu.Recipe, folder: Path, console: Console) -> None:
    """Prune as the recipe says and write the result to ``folder``; goes on where an earlier call was stopped."""
    if options.export != "compact":
        raise RcpuError("a stream writes the compact shape: make the others of it with `python -m rcpu export`")
    source = locate(recipe.model, lambda m: console.print(f"{recipe.model}: {m}", markup=False))
    shards, device = Shards(source), resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device, shards.own)
    stored = shards.stored if options.save_dtype == "auto" and options.dtype == "auto" else options.save_dtype
    storage = choose("dtype", dtype_name(dtype) if stored in ("auto", None) else stored, rcpu.DTYPES)
    need, free = streamed_bytes(shards.own, dtype), free_memory(device)
    before = parameter_count(shards.own)
    console.print(
        f"streaming {shards.count} layers of {shards.layer_bytes(dtype) / 2**30:.2f} GiB; about {need / 2**30:.1f} of "
        f"{free / 2**30:.1f} GiB free are needed, and {before * storage.itemsize / 2**30:.1f} GiB on the disk",
        markup=False,
    )
    if need > free:
        raise RcpuError(
            f"one layer does not fit: it needs about {need / 2**30:.1f} GiB and {free / 2**30:.1f} are free"
        )
    check_room(folder, before * storage.itemsize)
    tokenizer, text = load_tokenizer(source), rcpu.load_text(recipe.text)
    counts = {name: getattr(recipe, name) for name in ("samples", "window", "held_out", "seed")}
    windows = rcpu.calibration_windows(text, tokenizer, **counts)
    evaluation = None
    if options.evaluate:
        evaluation = rcpu.evaluation_windows(text, tokenizer, window=recipe.window, max_windows=options.evaluate)
    options.stopped = f"the layers that are done are kept in {folder}{PART}: the same command goes on with them"
    with progress_bar(console) as bar:
        task = bar.add_task("", total=1.0)
        found = stream(
            shards,
            windows,
            recipe,
            folder,
            device=device,
            dtype=dtype,
            storage=storage,
            evaluation=evaluation,
            text=text.name,
            resume=not options.overwrite,
            on_disk=options.states_on_disk,
            progress=lambda p: bar.update(task, completed=p.fraction, description=p.message),
            cancelled=options.interrupted,
        )
    record = finish(found, shards, tokenizer, recipe, folder, storage)
    options.stopped = f"the model is in {folder}"
    with results(options.json, record):
        out = output()
        for name in ("dense", "pruned"):
            if (p := record[f"perplexity_{name}"]) is not None:
                out.print(
                    f"perplexity, {name}: {p['perplexity']:.3f} ({p['windows']} × {p['window']} tokens)", markup=False
                )
        share = 100 * (record["parameters_after"] / before - 1)
        out.print(f"parameters: {before / 1e6:,.1f} → {record['parameters_after'] / 1e6:,.1f} M ({share:+.1f}%)")
        out.print(f"{sum(found.seconds):.1f} s; saved to {folder} (compact)", markup=False)


def finish(found: Streamed, shards: Shards, tokenizer, recipe: rcpu.Recipe, folder: Path, storage: torch.dtype) -> dict:
    """Make an export of what was streamed: names, tokenizer, record, card; only then is the part folder let go."""
    with torch.device("meta"):
        net = CompactLlamaForCausalLM(found.config)
    net.generation_config = GenerationConfig.from_model_config(shards.own)
    if (shards.folder / "generation_config.json").is_file():
        net.generation_config = GenerationConfig.from_pretrained(shards.folder, local_files_only=True)
    measured = {"dense": found.dense, "pruned": found.pruned}
    record = {
        "recipe": recipe.to_dict(),
        "fingerprint": shards.digest,
        "dtype": dtype_name(storage),
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
        "loads_in": loads_in(found.config, tokenizer),
        **{f"perplexity_{name}": p and p.to_dict() for name, p in measured.items()},
    }
    numbers = [
        f"perplexity {p.perplexity:.3f} ({name}) on {p.text}, {p.windows:,} windows of {p.window:,} tokens"
        for name, p in measured.items()
        if p is not None
    ]
    with writing(folder) as new:
        move_weights(found.folder, new)
        write_beside(net, tokenizer, new, storage)
        (new / CARD).write_text(card_of(shards.folder, record, numbers), encoding="utf-8")
        record["files"] = sorted(path.name for path in new.iterdir())
        (new / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(found.folder, ignore_errors=True)
    return record
