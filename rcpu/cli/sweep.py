"""``python -m rcpu sweep``: a grid of runs on this machine or a Ray cluster."""

from __future__ import annotations

from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from rcpu.base.errors import RcpuError
from rcpu.cli.common import a_path, check_json, output, results
from rcpu.runs.engines import ENGINES
from rcpu.runs.sweep import Done, read_grid


def add(commands, _) -> None:
    """Declare the command's flags."""
    about = "Every cell is a run in the store: a second call does what is missing."
    sweep = commands.add_parser("sweep", help="run a grid of recipes, models and seeds", description=about)
    sweep.add_argument("grid", metavar="GRID.yaml", type=a_path, help="models, recipes, vary, seeds, measures")
    sweep.add_argument("--engine", default="local", choices=list(ENGINES), help="(default: %(default)s)")
    sweep.add_argument("--address", help="of a Ray cluster, like auto or ray://host:10001 (default: this machine)")
    sweep.add_argument("--at-once", type=int, metavar="N", help="cells at a time (default: as many as memory allows)")
    sweep.add_argument("--json", metavar="FILE", default=None, type=a_path, help="write the results as one JSON object")
    sweep.set_defaults(run=_sweep)


def _sweep(options, console: Console) -> None:
    check_json(options.json)
    if options.at_once is not None and options.at_once < 1:
        raise RcpuError(f"--at-once must be at least 1, got {options.at_once}")
    cells = read_grid(options.grid)
    options.stopped = "what was done is kept: the same command does what is missing"
    done: list[Done] = []
    for one in ENGINES[options.engine](cells, at_once=options.at_once, address=options.address):
        done.append(one)
        what = one.error or ("was there already" if one.found else "done")
        console.print(f"{len(done)} of {len(cells)}: {one.name}: {what}", markup=False)
        for note in one.notes:
            console.print(f"warning: {one.name}: {note}", markup=False)
    place = {cell.name: i for i, cell in enumerate(cells)}
    done.sort(key=lambda one: place[one.name])
    table = Table("cell", "run", "measured")
    for one in done:
        table.add_row(one.name, one.run or "–", one.error or "; ".join(_told(a) for a in one.answers) or "–")
    with results(options.json, {"engine": options.engine, "cells": [asdict(one) for one in done]}):
        output().print(table)
    if failed := [one for one in done if one.error]:
        raise RcpuError(f"{len(failed)} of {len(cells)} cells were not done; {failed[0].name}: {failed[0].error}")


def _told(answer: dict) -> str:
    if "perplexity" in answer:
        return f"perplexity {answer['perplexity']:.3f} on {answer['text']}"
    scores = [(name, found) for name, found in answer.items() if isinstance(found, dict) and "values" in found]
    return (
        "; ".join(f"{name} {sum(found['values']) / len(found['values']):.4f}" for name, found in scores) or "measured"
    )
