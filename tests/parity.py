"""Our methods against the authors' own code, on the same model and windows: not a test, an hour on two cores.

    python -m tests.parity --data FOLDER [--only flap,olica] [--json rows.json] [--into README.md]

FOLDER holds WikiText-2 as wiki.valid.tokens and wiki.test.raw. THEIRS are numbers that the authors' code gave on the
embedded model, or on its copy with a KV head for each query head: perplexity of the first 40 and 160 windows of 128
tokens, in fp32, calibrated on 128 windows. Their texts were read with the line ends of the file, so ours are here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

import rcpu
from rcpu.cli.common import placed, text_with
from rcpu.models.canonical import canonical
from rcpu.runs import markdown_table
from tests.compare import decoder_weights

MARK = "parity"

PLAIN = {"samples": 128, "window": 128, "held_out": 0, "seed": 0}


@dataclass(frozen=True)
class Theirs:
    """What the authors' code gave at these settings; perplexities by the number of windows."""

    recipe: str
    changes: Mapping[str, object]
    parameters: int  # of the whole model, those that are not zero
    perplexity: Mapping[int, float]
    shared: bool = False  # on the embedded model itself, whose query heads share KV heads


ROTATION = {"unit": "head"}
THEIRS = {
    "RCPU, rotation": Theirs("rcpu-paper", ROTATION, 127_447_488, {40: 101.18, 160: 83.88}),
    "FLAP, AL-AM": Theirs("flap", {}, 123_842_880, {40: 107.53, 160: 90.76}),
    "FLAP, AL-AM, 0.1": Theirs("flap", {"ratio": 0.1}, 135_883_008, {40: 74.11}),
    "FLAP, AL-AM, 0.3": Theirs("flap", {"ratio": 0.3}, 112_005_504, {40: 247.80}),
    "FLAP, UL-UM": Theirs("flap", {"allocation": "uniform", "unit": "head"}, 127_482_048, {40: 91.46}),
    "Wanda-sp of FLAP": Theirs("wanda-sp", {"scorer": "wanda_sp_l2", "unit": "head"}, 127_447_488, {40: 103.15}),
    "Olica": Theirs("olica", {}, 118_492_992, {40: 104.34, 160: 89.76}),
    "SliceGPT, width 460": Theirs("slicegpt", {}, 148_636_208, {40: 138.55, 160: 109.63}, shared=True),
    "Z-Pruner": Theirs("z-pruner", {}, 81_430_637, {40: 136.93}, shared=True),
}


def with_own_kv_heads(net: LlamaForCausalLM) -> LlamaForCausalLM:
    """The same function with a KV head for each query head: rows of k and v are repeated."""
    config = net.config.to_dict() | {"num_key_value_heads": net.config.num_attention_heads}
    groups = net.config.num_attention_heads // net.config.num_key_value_heads
    state = dict(net.state_dict())
    for name, weight in net.state_dict().items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            heads = weight.view(net.config.num_key_value_heads, -1, weight.shape[1])
            state[name] = heads.repeat_interleave(groups, 0).flatten(0, 1)
    drop = ("model_type", "architectures")
    plain = LlamaConfig(**{k: v for k, v in config.items() if k not in drop}, attn_implementation="sdpa")
    with torch.device("meta"):
        copy = LlamaForCausalLM(plain)
    copy.load_state_dict(state, assign=True)
    copy.tie_weights()
    copy.model.rotary_emb = net.model.rotary_emb
    return canonical(copy.eval().requires_grad_(False))


def windows_of(path: Path, tokenizer, count: int) -> torch.Tensor:
    """The first windows of 128 tokens of a file as it is, line ends included; int64 (count, 128)."""
    with path.open(encoding="utf-8", newline="") as file:
        ids = tokenizer(file.read(4 * 128 * 16 * count), add_special_tokens=False).input_ids
    return torch.tensor(ids[: count * 128]).view(count, 128)


def measured(net: LlamaForCausalLM, theirs: Theirs, name: str, drawn: rcpu.Windows, test: torch.Tensor) -> dict:
    """Ours at their settings, measured on as many windows as they were."""
    changes = PLAIN | {"ratio": 0.5 if theirs.recipe == "z-pruner" else 0.2} | dict(theirs.changes)
    result = rcpu.prune(net, drawn, replace(rcpu.load_recipe(theirs.recipe), **changes))
    whole = sum(p.numel() for layer in result.net.model.layers for p in layer.parameters())
    zeros = whole - decoder_weights(result.net) if theirs.recipe == "z-pruner" else 0
    return {
        "setting": name,
        "parameters": rcpu.cost(result.net).parameters - zeros,
        "perplexity": {
            str(count): rcpu.perplexity(result.net, test[:count], text="test").perplexity for count in theirs.perplexity
        },
    }


def change(ours: float, theirs: float) -> str:
    """In percent of theirs."""
    return f"{ours / theirs - 1:+.2%}".replace("-", "−").replace("−0.00", "+0.00")


def cells(rows: list[dict]) -> dict[str, list[str]]:
    """Columns of the table, theirs beside ours."""
    of = [THEIRS[r["setting"]] for r in rows]
    counts = sorted({count for theirs in of for count in theirs.perplexity})
    pairs = list(zip(rows, of, strict=True))
    found = {
        "setting": [r["setting"] for r in rows],
        "parameters": [f"{r['parameters']:,}" for r in rows],
        "theirs": [f"{t.parameters:,} ({change(r['parameters'], t.parameters)})" for r, t in pairs],
    }
    for n in counts:
        known = [(r["perplexity"][str(n)], t.perplexity[n]) if n in t.perplexity else None for r, t in pairs]
        found[f"{n} windows"] = [f"{pair[0]:.2f}" if pair else "" for pair in known]
        found[f"theirs, {n} windows"] = [f"{pair[1]:.2f} ({change(*pair)})" if pair else "" for pair in known]
    return found


def main(argv: list[str] | None = None) -> None:
    """Print the table, a row a setting; ``--json`` keeps rows, and those that are there are not run again."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--data", type=Path, required=True)
    ask.add_argument("--only", default="", help="parts of names, with commas between them")
    ask.add_argument("--json", type=Path)
    ask.add_argument("--into", type=Path, help=f"a file to write the table into, between <!-- {MARK} --> and its end")
    asked, console = ask.parse_args(argv), Console(width=140)
    text_with(asked.into, [MARK])
    rows = json.loads(asked.json.read_text()) if asked.json and asked.json.exists() else []
    parts, there = asked.only.lower().split(","), {r["setting"] for r in rows}
    todo = [name for name in THEIRS if name not in there and any(part in name.lower() for part in parts)]
    if todo:
        model = rcpu.load_model("embedded", "cpu", "fp32")
        drawn = rcpu.calibration_windows(
            rcpu.load_text(str(asked.data / "wiki.valid.tokens")), model.tokenizer, **PLAIN
        )
        test = windows_of(asked.data / "wiki.test.raw", model.tokenizer, 160)
        nets = {True: model.net, False: with_own_kv_heads(model.net)}
    for name in todo:
        found = measured(nets[THEIRS[name].shared], THEIRS[name], name, drawn, test)
        console.print(found)
        rows = sorted([*rows, found], key=lambda r: [*THEIRS].index(r["setting"]))
        if asked.json:
            asked.json.write_text(json.dumps(rows, indent=1) + "\n")
    made = "\n".join(markdown_table(cells(rows))) + "\n"
    console.print(made, markup=False)
    if asked.into:
        asked.into.write_text(placed(text_with(asked.into, [MARK]), MARK, made), encoding="utf-8")


if __name__ == "__main__":
    main()
