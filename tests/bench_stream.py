"""A model of LLaMA-7B's shape on the disk, pruned layer by layer: peak memory, seconds a layer, read bandwidth.

Weights are random, so its perplexities say nothing. Run on purpose: ``python -m tests.bench stream``, or with fewer
layers, which take as much memory: ``python -m tests.bench stream --layers 4``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

import rcpu
from rcpu.models.shards import Shards
from rcpu.runs.streaming import stream
from tests import tiny
from tests.bench_library import PeakMemory

LAYERS = 32
#: What is pruned: the whole model without a decomposition, and two layers with the rotation, 4096 × 4096 in fp64.
RECIPES = {
    "bias": ("flap", "bias", None),
    "rotation": ("rcpu", "rotation", 2),
}


def make(folder: Path, layers: int) -> int:
    """Write a random model in bf16, a file a layer, and have the disk forget its pages; returns its bytes."""
    config = LlamaConfig(num_hidden_layers=layers, dtype="bfloat16")  # the defaults are LLaMA-7B's sizes
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in LlamaForCausalLM(config).state_dict().items()}
    draw, places, total, drawn = torch.Generator().manual_seed(0), {}, 0, {}
    for i in range(-1, layers):
        prefix, name = f"model.layers.{i}.", f"model-{i + 1:05}.safetensors"
        mine = [k for k in shapes if (k.startswith(prefix) if i >= 0 else not k.startswith("model.layers."))]
        tensors = {}
        for k in mine:
            part = k.removeprefix(prefix)
            if part in drawn:  # moved on by some rows: as random, and much faster than to draw anew
                drawn[part] = drawn[part].roll(i, 0)
            else:
                drawn[part] = torch.empty(shapes[k], dtype=torch.bfloat16).normal_(0, 0.02, generator=draw)
            tensors[k] = drawn[part].fill_(1) if "norm" in k else drawn[part]
        save_file(tensors, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(mine, name)
        total += (folder / name).stat().st_size
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    tiny.tokenizer().save_pretrained(folder)
    return total


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench stream", description=__doc__)
    parser.add_argument("--layers", type=int, default=LAYERS, help="of the model (default: %(default)s)")
    parser.add_argument("--only", choices=list(RECIPES), help="one of the two recipes")
    asked = parser.parse_args(sys.argv[2:])
    layers = asked.layers
    place = Path(tempfile.mkdtemp(prefix="rcpu-stream-"))
    table = Table(
        "what", "seconds a layer", "of processor time", "read (MB/s)", "peak memory above the start (GB)", "aim"
    )
    try:
        for name in [asked.only] if asked.only else RECIPES:
            scorer, compensation, most = RECIPES[name]
            count = min(layers, most or layers)
            folder = place / f"dense-{count}"
            need = 2.2 * (0.53e9 + count * 0.405e9)
            if shutil.disk_usage(place).free < need:
                sys.exit(f"{need / 1e9:.0f} GB of disk are needed in {place.parent}: set TMPDIR to another one")
            folder.mkdir()
            size, read = make(folder, count), []
            recipe = rcpu.Recipe(scorer=scorer, compensation=compensation, samples=4, held_out=0, window=128)
            windows = rcpu.Windows(tiny.ids(4, 128, 1), tiny.ids(0, 128), "random tokens")
            with PeakMemory() as memory:
                begun = time.process_time()
                shards = Shards(folder)
                shards.read = partial(_timed, shards.read, read)
                found = stream(
                    shards,
                    windows,
                    recipe,
                    place / f"out-{count}",
                    device=torch.device("cpu"),
                    dtype=torch.bfloat16,
                    storage=torch.bfloat16,
                    evaluation=tiny.ids(4, 128, 2),
                    text="random tokens",
                    progress=lambda p: print(f"\r{p.message:60}", end="", file=sys.stderr, flush=True),
                )
                worked = (time.process_time() - begun) / count
            speed = shards.layer_bytes(torch.bfloat16) / statistics.median(read) / 1e6
            seconds = statistics.median(found.seconds)
            label = f"{name}: {count} layers, {size / 1e9:.1f} GB"
            row = label, f"{seconds:.1f}", f"{worked:.1f}", f"{speed:,.0f}", f"{memory.bytes / 1e9:.2f}", "3"
            table.add_row(*row)
            print(f"\n{', '.join(row)}", file=sys.stderr)  # the next takes long
            shutil.rmtree(folder)
            shutil.rmtree(found.folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(file=sys.stderr)
    Console(width=120).print(table)


def _timed(call, taken: list[float], *args) -> None:
    start = time.perf_counter()
    call(*args)
    taken.append(time.perf_counter() - start)
