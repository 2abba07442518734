"""``make compare``: every recipe with 10, 20 and 30 % less on the embedded model, one table. Not a test: hours.

    python -m tests.compare --ratios 0.2 --recipes best,rcpu-paper --text wiki.valid.tokens --evaluation wiki.test.raw

Seconds are those of the prune ÷ those of a bare forward of the same windows through the decoder layers, right before
it in the same process. Rows of one group have as many parameters in the decoder layers (``--by parameters``: 10 % less
and so on, as nearly as whole units allow) or the same ratio, whatever that means to each recipe (``--by ratio``).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import rcpu
from rcpu.models.families import embed, layers_of
from tests.bench_library import PeakMemory


@torch.no_grad()
def bare_forward(net, ids: torch.Tensor, batch: int = 8) -> float:
    """Seconds of all windows through the decoder layers, nothing measured."""
    entered, start = embed(net, ids), time.perf_counter()
    for layer in layers_of(net):
        for i in range(0, len(ids), batch):
            entered.hidden[i : i + batch] = layer(entered.hidden[i : i + batch], **entered.attention)
    return time.perf_counter() - start


def decoder_weights(net) -> int:
    """Parameters of the decoder layers that are not zero."""
    return sum(int(p.count_nonzero()) for layer in net.model.layers for p in layer.parameters())


@torch.no_grad()
def tokens_per_second(net, batch: int = 4, tokens: int = 128, times: int = 5) -> float:
    """Of a prefill, the median of some."""
    ids = torch.randint(net.config.vocab_size, (batch, tokens), generator=torch.Generator().manual_seed(0))
    found = []
    for _ in range(times):
        start = time.perf_counter()
        net.model(ids, use_cache=False)
        found.append(batch * tokens / (time.perf_counter() - start))
    return sorted(found)[times // 2]


def row(model: rcpu.Model, name: str, recipe: rcpu.Recipe, windows: rcpu.Windows, evaluation: torch.Tensor) -> dict:
    """Prune by one recipe and measure."""
    bare = bare_forward(model.net, torch.cat([windows.calibration, windows.held_out]))
    with PeakMemory() as memory:
        result = rcpu.prune(model.net, windows, recipe)
    found = rcpu.perplexity(result.net, evaluation, text="evaluation")
    return {
        "recipe": name,
        "ratio": recipe.ratio,
        "decoder": decoder_weights(result.net) / decoder_weights(model.net),
        "tokens_per_second": tokens_per_second(result.net) / tokens_per_second(model.net),
        "parameters": rcpu.cost(result.net).parameters,
        "perplexity": found.perplexity,
        "interval": [found.interval.low, found.interval.high],
        "forwards": result.seconds / bare,
        "peak_mib": memory.bytes / 2**20,
    }


def table(rows: list[dict], dense: tuple[int, float], title: str) -> Table:
    """Rows by how much is gone, the lowest perplexity of each first."""
    made = Table(title=title, title_justify="left")
    columns = ("less", "recipe", "ratio", "parameters", "decoder", "perplexity", "95 %", "tokens/s ÷ dense")
    for column in (*columns, "÷ bare forward", "peak MiB"):
        made.add_column(column, justify="left" if column == "recipe" else "right")
    made.add_row("", "dense", "", f"{dense[0]:,}", "100.0%", f"{dense[1]:.2f}", "", "1.00", "", "")
    for r in sorted(rows, key=lambda r: (r["less"], r["perplexity"])):
        low, high = r["interval"]
        made.add_row(
            f"{r['less']:.0%}",
            r["recipe"],
            f"{r['ratio']:.3f}",
            f"{r['parameters']:,}",
            f"{r['decoder']:.1%}",
            f"{r['perplexity']:.2f}",
            f"{low:.1f}–{high:.1f}",
            f"{r['tokens_per_second']:.2f}",
            f"{r['forwards']:.1f}",
            f"{r['peak_mib']:,.0f}",
        )
    return made


def main() -> None:
    """Print the table; with ``--json`` rows are kept as they come, and those that are there are not run again."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--ratios", default="0.1,0.2,0.3")
    ask.add_argument("--by", choices=("parameters", "ratio"), default="parameters")
    ask.add_argument("--recipes", default=",".join(rcpu.RECIPES))
    ask.add_argument("--text", default="embedded", help="calibration")
    ask.add_argument("--evaluation", default="embedded")
    ask.add_argument("--samples", type=int, default=128)
    ask.add_argument("--held-out", type=int, default=16)
    ask.add_argument("--windows", type=int, default=160, help="of the evaluation text")
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--unit", help="of o_proj, for every recipe that has columns")
    ask.add_argument("--json", type=Path, help="a file to keep rows in")
    asked = ask.parse_args()
    model, console = rcpu.load_model("embedded", "cpu", "fp32"), Console(width=140)
    windows = rcpu.calibration_windows(
        rcpu.load_text(asked.text), model.tokenizer, samples=asked.samples, held_out=asked.held_out, seed=asked.seed
    )
    evaluation = rcpu.evaluation_windows(
        rcpu.load_text(asked.evaluation), model.tokenizer, window=128, max_windows=asked.windows
    )
    rows = json.loads(asked.json.read_text()) if asked.json and asked.json.exists() else []
    there = {(r["recipe"], r["less"]) for r in rows}
    for ratio in map(float, asked.ratios.split(",")):
        for name in asked.recipes.split(","):
            if (name, ratio) in there:
                continue
            asked_of = {"ratio": ratio, "samples": asked.samples, "held_out": asked.held_out, "seed": asked.seed}
            recipe = replace(rcpu.load_recipe(name), **asked_of)
            if asked.unit and recipe.method == "columns" and recipe.unit == "auto":
                recipe = replace(recipe, unit=asked.unit)
            if asked.by == "parameters":
                recipe = rcpu.with_target(model.net, recipe, 1 - ratio)
            rows.append(row(model, name, recipe, windows, evaluation) | {"less": ratio})
            console.print(f"{name} at {ratio:.0%}: {rows[-1]['perplexity']:.2f}")
            if asked.json:
                asked.json.write_text(json.dumps(rows, indent=1) + "\n")
    dense = rcpu.cost(model.net).parameters, rcpu.perplexity(model.net, evaluation, text="evaluation").perplexity
    of = f"{asked.samples} × 128 tokens of {asked.text}, seed {asked.seed}; {asked.windows} of {asked.evaluation}"
    console.print(table(rows, dense, of))


if __name__ == "__main__":
    main()
