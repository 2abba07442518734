"""A layer of LLaMA-7B's shape by the recipe ``best``: peak memory and time. Weights and tokens are random.

Run on purpose, some minutes: ``python -m tests.bench layer [--recipe NAME] [--dtype bf16] [--windows 32]``.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

import rcpu
from rcpu.models import DTYPES
from tests.bench_library import PeakMemory
from tests.compare import bare_forward


def main() -> None:
    """Print a line for what it took."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--recipe", default="best", choices=rcpu.RECIPES)
    ask.add_argument("--dtype", default="bf16", choices=DTYPES)
    ask.add_argument("--windows", type=int, default=32, help="of 128 tokens")
    asked = ask.parse_args(sys.argv[2:])
    config = LlamaConfig(num_hidden_layers=1, vocab_size=1024, dtype=DTYPES[asked.dtype])  # else LLaMA-7B's sizes
    torch.manual_seed(0)
    net = LlamaForCausalLM(config).to(DTYPES[asked.dtype]).eval().requires_grad_(False)
    ids = torch.randint(config.vocab_size, (asked.windows, 128))
    windows = rcpu.Windows(ids, ids[:0], "random")
    bare = bare_forward(net, ids)
    recipe = replace(rcpu.load_recipe(asked.recipe), samples=asked.windows, held_out=0)
    start = time.process_time()
    with PeakMemory() as memory:
        result = rcpu.prune(net, windows, recipe)
    seconds = time.process_time() - start
    weights = sum(p.numel() for p in net.model.layers[0].parameters()) * net.dtype.itemsize
    Console(width=110, soft_wrap=True).print(
        f"{asked.recipe}, a layer of LLaMA-7B in {asked.dtype} ({weights / 1e9:.2f} GB), {asked.windows} × 128 tokens: "
        f"{memory.bytes / 1e9:.2f} GB above the model; {seconds:.0f} s of the processor, {seconds / bare:.1f} bare "
        f"forwards; {rcpu.cost(result.net).parameters / rcpu.cost(net).parameters:.1%} of the parameters"
    )
