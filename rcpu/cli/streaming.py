"""``python -m rcpu prune --stream``: a model that is never in memory whole, by one process or those of torchrun."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

import rcpu
from rcpu.base.errors import RcpuError
from rcpu.cli.common import output, progress_bar, results
from rcpu.runs.split import launched
from rcpu.runs.streamed import prepare_stream, run_stream
from rcpu.runs.streaming import PART


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
    if options.round_to != 1:
        raise RcpuError("--round-to is for the stock shape, and a stream writes the compact one: leave it out")
    device = options.device
    if (nth := os.environ.get("LOCAL_RANK")) and device in ("auto", "cuda") and rcpu.models.accelerators():
        device = f"cuda:{nth}"
    share = options.target_parameters
    asked = prepare_stream(
        recipe,
        folder,
        device=device,
        dtype=options.dtype,
        save_dtype=options.save_dtype,
        target=None if share is None else (share, options.target_of),
        report=lambda m: console.print(f"{recipe.model}: {m}", markup=False),
    )
    options.stopped = f"the layers that are done are kept in {folder}{PART}: the same command goes on with them"
    warnings: list[str] = []

    def warn(note: str) -> None:
        warnings.append(note)
        console.print(f"note: {note}", markup=False)

    with launched() as split:
        console.quiet = console.quiet or not split.first
        if share is not None:
            told = f"ratio {asked.recipe.ratio:g} leaves {asked.left:.2%} of the {options.target_of}'s parameters"
            console.print(told, markup=False)
        console.print(
            f"streaming {asked.shards.count} layers of {asked.shards.layer_bytes(asked.dtype) / 2**30:.2f} GiB; about "
            f"{asked.need / 2**30:.1f} of {asked.free / 2**30:.1f} GiB free are needed, and {asked.disk / 2**30:.1f} "
            "GiB on the disk; how long it takes is told after a first layer",
            markup=False,
        )
        with progress_bar(console) as bar:
            task = bar.add_task("", total=1.0)
            record = run_stream(
                asked,
                evaluate=options.evaluate,
                resume=not options.overwrite,
                on_disk=options.states_on_disk,
                split=split,
                warn=warn,
                progress=lambda p: bar.update(task, completed=p.fraction, description=p.message),
                cancelled=options.interrupted,
            )
    if record is None:  # the first process tells it
        return
    for note in (note for note in record["notes"] if note not in warnings):
        console.print(f"note: {note}", markup=False)
    options.stopped = f"the model is in {folder}"
    with results(options.json, record):
        _print(record, folder)


def _print(record: dict, folder: Path) -> None:
    out = output()
    for name in ("dense", "pruned"):
        if (p := record[f"perplexity_{name}"]) is not None:
            out.print(
                f"perplexity, {name}: {p['perplexity']:.3f} ({p['windows']} × {p['window']} tokens)", markup=False
            )
    before, after = (record[f"parameters_{when}"] for when in ("before", "after"))
    out.print(f"parameters: {before / 1e6:,.1f} → {after / 1e6:,.1f} M ({100 * (after / before - 1):+.1f}%)")
    out.print(f"{record['seconds']:.1f} s; saved to {folder} (compact)", markup=False)
