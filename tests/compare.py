"""``make compare``: every recipe with 10, 20 and 30 % less on the embedded model, one table. Not a test: hours.

    python -m tests.compare --ratios 0.2 --recipes best,rcpu-paper --text wiki.valid.tokens --evaluation wiki.test.raw

Seconds are those of the processor (all threads, whatever else the machine does): of the prune ÷ of a bare forward of
the same windows through the decoder layers, right before it in the same process. Rows of one group have as many
parameters in the decoder layers (``--by parameters``: 10 % less and so on, as nearly as whole units allow) or the same
ratio, whatever that means to each recipe (``--by ratio``).
``--against NAME`` says by how much each row's perplexity differs from that recipe's, over the same windows (paired).
``make compare`` keeps the rows in assets/compare.json, which the field guide shows, and writes them into README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch
import yaml
from rich.console import Console
from rich.table import Table

import rcpu
from rcpu.cli.common import placed, text_with
from rcpu.measure.perplexity import difference
from rcpu.models.families import embed, layers_of
from rcpu.runs import markdown_table
from tests.bench_library import PeakMemory

MARK = "compare"


@torch.no_grad()
def bare_forward(net, ids: torch.Tensor, batch: int = 8) -> float:
    """Processor seconds of all windows through the decoder layers, nothing measured."""
    entered, start = embed(net, ids), time.process_time()
    for layer in layers_of(net):
        for i in range(0, len(ids), batch):
            entered.hidden[i : i + batch] = layer(entered.hidden[i : i + batch], **entered.attention)
    return time.process_time() - start


def decoder_weights(net) -> int:
    """Parameters of the decoder layers that are not zero."""
    return sum(int(p.count_nonzero()) for layer in net.model.layers for p in layer.parameters())


@torch.no_grad()
def speed(net, dense, batch: int = 4, tokens: int = 128, pairs: int = 9) -> float:
    """Tokens a second of a prefill ÷ the dense model's: both in turn, the median of the quotients."""
    ids = torch.randint(dense.config.vocab_size, (batch, tokens), generator=torch.Generator().manual_seed(0))

    def seconds(of) -> float:
        start = time.perf_counter()
        of.model(ids, use_cache=False)
        return time.perf_counter() - start

    return sorted(seconds(dense) / seconds(net) for _ in range(pairs))[pairs // 2]


def row(model: rcpu.Model, name: str, recipe: rcpu.Recipe, windows: rcpu.Windows, evaluation: torch.Tensor) -> dict:
    """Prune by one recipe and measure."""
    bare = bare_forward(model.net, torch.cat([windows.calibration, windows.held_out]))
    start = time.process_time()
    with PeakMemory() as memory:
        result = rcpu.prune(model.net, windows, recipe)
    seconds = time.process_time() - start
    found = rcpu.perplexity(result.net, evaluation, text="evaluation")
    return {
        "recipe": name,
        "ratio": recipe.ratio,
        "decoder": decoder_weights(result.net) / decoder_weights(model.net),
        "tokens_per_second": speed(result.net, model.net),
        "parameters": rcpu.cost(result.net).parameters,
        "perplexity": found.perplexity,
        "interval": [found.interval.low, found.interval.high],
        "forwards": seconds / bare,
        "peak_mib": memory.bytes / 2**20,
        "found": found,
    }


def dense_row(model: rcpu.Model, evaluation: torch.Tensor, of: str) -> dict:
    """What all others are held against, and what they are measured with."""
    found = rcpu.perplexity(model.net, evaluation, text="evaluation")
    same = {"recipe": "dense", "less": 0.0, "ratio": 0.0, "decoder": 1.0, "tokens_per_second": 1.0}
    measured = {"parameters": rcpu.cost(model.net).parameters, "perplexity": found.perplexity}
    ends = [found.interval.low, found.interval.high]
    return same | measured | {"interval": ends, "forwards": None, "peak_mib": None, "of": of, "found": found}


def cells(rows: list[dict]) -> dict[str, list[str]]:
    """Columns of the table: by how much is gone, the lowest perplexity of each first."""
    form = {
        "less": lambda r: "" if r["recipe"] == "dense" else f"{r['less']:.0%}",
        "recipe": lambda r: r["recipe"],
        "ratio": lambda r: f"{r['ratio']:.3f}" if r["less"] else "",
        "parameters": lambda r: f"{r['parameters']:,}",
        "decoder": lambda r: f"{r['decoder']:.1%}",
        "perplexity": lambda r: f"{r['perplexity']:.2f}",
        "95 %": lambda r: "–".join(f"{end:.1f}" for end in r["interval"]),
        "tokens/s ÷ dense": lambda r: f"{r['tokens_per_second']:.2f}",
        "÷ bare forward": lambda r: "" if r["forwards"] is None else f"{r['forwards']:.1f}",
        "peak MiB": lambda r: "" if r["peak_mib"] is None else f"{r['peak_mib']:,.0f}",
    }
    if against := next((r["against"] for r in rows if r.get("against")), ""):
        form[f"against {against}, paired"] = lambda r: r.get("difference", "")
    ordered = sorted(rows, key=lambda r: (r["less"], r["perplexity"]))
    return {name: [say(r) for r in ordered] for name, say in form.items()}


def table(rows: list[dict], title: str) -> Table:
    """For the terminal."""
    made, columns = Table(title=title, title_justify="left"), cells(rows)
    for name in columns:
        made.add_column(name, justify="left" if name == "recipe" else "right")
    for line in zip(*columns.values(), strict=True):
        made.add_row(*line)
    return made


def section(rows: list[dict], of: str) -> str:
    """For a README."""
    return "\n".join([f"Embedded model, {of}.", "", *markdown_table(cells(rows))]) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Print the table; with ``--json`` rows are kept as they come, and those that are there are not run again."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--ratios", default="0,0.1,0.2,0.3", help="with 0 there is a row for what learns, nothing removed")
    ask.add_argument("--by", choices=("parameters", "ratio"), default="parameters")
    ask.add_argument("--recipes", default=",".join(rcpu.RECIPES), help="names or files; with changes: best:step=0.01")
    ask.add_argument("--model", default="embedded")
    ask.add_argument("--text", default="embedded", help="calibration")
    ask.add_argument("--evaluation", default="embedded")
    ask.add_argument("--samples", type=int, default=128)
    ask.add_argument("--held-out", type=int, default=16)
    ask.add_argument("--windows", type=int, default=160, help="of the evaluation text")
    ask.add_argument("--skip", type=int, default=0, help="so many windows of the evaluation text before those")
    ask.add_argument("--against", default="", metavar="NAME", help="a recipe among these, or dense")
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--dtype", default="fp32")
    ask.add_argument("--unit", help="of o_proj, for every recipe that has columns")
    ask.add_argument("--json", type=Path, help="a file to keep rows in")
    ask.add_argument("--into", type=Path, help=f"a file to write the table into, between <!-- {MARK} --> and its end")
    asked = ask.parse_args(argv)
    text_with(asked.into, [MARK])
    rows = json.loads(asked.json.read_text()) if asked.json and asked.json.exists() else []
    of = f"{asked.samples} × 128 tokens of {asked.text}, seed {asked.seed}; {asked.windows} of {asked.evaluation}"
    of += f" from window {asked.skip} on" * bool(asked.skip)
    of += f"; {asked.dtype}" * (asked.dtype != "fp32")
    of += f"; {asked.model}" * (asked.model != "embedded")
    if any(r.get("of", of) != of for r in rows):
        raise SystemExit(f"{asked.json} has rows of {rows[0]['of']}, not of {of}: give another file")
    there = {(r["recipe"], r["less"]) for r in rows}
    wanted = [(name, less) for less in map(float, asked.ratios.split(",")) for name in asked.recipes.split(",")]
    wanted = [(name, less) for name, less in wanted if less or learns(recipe_of(name))]
    todo, console = [pair for pair in wanted if pair not in there], Console(width=190)
    if todo or ("dense", 0.0) not in there:
        perplexities: dict[tuple[str, float], rcpu.Perplexity] = {}
        for found in measured(asked, todo, ("dense", 0.0) in there, of):
            perplexities[found["recipe"], found["less"]] = found.pop("found")
            rows = sorted([*rows, found], key=lambda r: "of" not in r)
            console.print(f"{found['recipe']} at {found['less']:.0%}: {found['perplexity']:.2f}")
            if asked.json:
                asked.json.write_text(json.dumps(rows, indent=1) + "\n")
        rows = [r | told(r, perplexities, asked.against) for r in rows]
    console.print(table(rows, of))
    if asked.into:
        asked.into.write_text(placed(text_with(asked.into, [MARK]), MARK, section(rows, of)), encoding="utf-8")


def told(row: dict, known: Mapping[tuple[str, float], rcpu.Perplexity], against: str) -> dict:
    """By how much a row of this call differs from another with as many parameters, or from the dense model."""
    key, other = (row["recipe"], row["less"]), (against, 0.0 if against == "dense" else row["less"])
    if key == other or not {key, other} <= known.keys():
        return {}
    return {"against": against, "difference": str(difference(known[other], known[key]))}


def recipe_of(name: str) -> rcpu.Recipe:
    """A recipe by name or file, with other options where they follow: rcpu-paper:step=0.003."""
    name, *changes = name.split(":")
    return replace(rcpu.load_recipe(name), **{k: yaml.safe_load(v) for k, v in (c.split("=") for c in changes)})


def learns(recipe: rcpu.Recipe) -> bool:
    """Whether it changes weights where nothing is removed."""
    return recipe.method == "columns" and recipe.step > 0


def measured(asked: argparse.Namespace, todo: list[tuple[str, float]], dense_known: bool, of: str) -> Iterator[dict]:
    """Rows as they come, that of the dense model first; each in a process of its own, so that its peak is its own."""
    jobs = [("dense", 0.0)] * (not dense_known) + todo
    for found in each_alone(one, [asked] * len(jobs), jobs, [of] * len(jobs)):
        if isinstance(found, str):  # the others are measured all the same
            print(found, file=sys.stderr)
        else:
            yield found


def each_alone(call: Callable, *arguments: Sequence) -> Iterator:
    """As ``map``, each call in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        yield from pool.map(call, *arguments)


def one(asked: argparse.Namespace, job: tuple[str, float], of: str) -> dict | str:
    """A row, or why there is none."""
    name, less = job
    model = rcpu.load_model(asked.model, "cpu", asked.dtype)
    evaluation = rcpu.evaluation_windows(
        rcpu.load_text(asked.evaluation), model.tokenizer, window=128, max_windows=asked.skip + asked.windows
    )[asked.skip :]
    if name == "dense":
        return dense_row(model, evaluation, of)
    amount = {"samples": asked.samples, "held_out": asked.held_out, "seed": asked.seed}
    windows = rcpu.calibration_windows(rcpu.load_text(asked.text), model.tokenizer, **amount)
    recipe = replace(recipe_of(name), ratio=less, **amount)
    if asked.unit and recipe.method == "columns" and recipe.unit == "auto":
        recipe = replace(recipe, unit=asked.unit)
    try:
        if asked.by == "parameters":
            recipe = rcpu.with_target(model.net, recipe, 1 - less)
        return row(model, name, recipe, windows, evaluation) | {"less": less}
    except rcpu.RcpuError as error:
        return f"{name} at {less:.0%}: {error}"


if __name__ == "__main__":
    main()
