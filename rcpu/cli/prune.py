"""``python -m rcpu prune``: prune, repair and save a model."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

import rcpu
from rcpu.base import existing
from rcpu.base.errors import RcpuError, choose, out_of_memory
from rcpu.cli.common import (
    check_json,
    export_flags,
    load,
    model_flags,
    output,
    progress_bar,
    results,
    save_dtype_flag,
    store_or_note,
    text_field_flag,
)
from rcpu.cli.flags import FIELDS, all_options, field_flags, flag, idle, option_flags, recipe_of
from rcpu.cli.streaming import add_flags, run_streamed
from rcpu.compact.export import check_room
from rcpu.compact.shapes import SHAPES, check_multiple
from rcpu.models import HUB_ID, footprint
from rcpu.models.loading import Footprint, locate
from rcpu.pruning.exports import check_export
from rcpu.pruning.plan import LOOKING
from rcpu.pruning.saving import bytes_to_write, file_sizes
from rcpu.pruning.target import OF as TARGETS
from rcpu.pruning.target import check_share
from rcpu.runs import Run, Store, new_id, open_store, prune_into, resume_into


def add(commands, model) -> None:
    """Declare the command's flags: fields of a recipe, options of every method, where the result goes."""
    prune = commands.add_parser("prune", parents=[model_flags(default=None)], help="prune, repair and save a model")
    prune.add_argument("--recipe", metavar="NAME_OR_FILE", help=f"settings to start from: {', '.join(rcpu.RECIPES)}")
    prune.add_argument("--print-recipe", action="store_true", help="print the recipe as YAML and do nothing else")
    prune.add_argument("--method", help=f"{', '.join(rcpu.METHODS)}; `python -m rcpu methods` says more")
    field_flags(prune)
    text_field_flag(prune)
    prune.add_argument(
        "--target-parameters",
        type=float,
        metavar="SHARE",
        help="share of parameters that stay, like 0.8: the ratio that gives it is found, for any method",
    )
    prune.add_argument("--target-of", default="decoder", help="what the share is of: decoder (layers) or model")
    prune.add_argument(
        "--layer-ratios", default=None, metavar="LIST", help="layers with a ratio of their own, like 0-3=0.1,29=0"
    )
    option_flags(prune)
    prune.add_argument("--proper-rotation", dest="proper", action="store_const", const="true", help="as --proper")
    prune.add_argument("--name", help="what the run is called in the store (default: what it does)")
    prune.add_argument("--no-store", action="store_true", help="do not keep the run; `python -m rcpu runs` lists those")
    prune.add_argument("--resume", metavar="RUN", help="go on with a run that ended early, by name or id")
    prune.add_argument("--out", metavar="DIR", help="folder for the pruned model, beside the run that is kept")
    export_flags(prune)
    add_flags(prune)
    save_dtype_flag(prune)
    prune.add_argument("--overwrite", action="store_true", help="replace an earlier export at --out")
    prune.set_defaults(run=_prune)


def _prune(options, console: Console) -> None:
    store, begun = _store(options, console)
    config = rcpu.Recipe.from_dict(begun.recipe) if begun else recipe_of(options)
    if options.target_parameters is not None and options.ratio is not None:
        raise RcpuError("--target-parameters finds the ratio, and --ratio gives one: leave out one of them")
    choose("target", options.target_of, TARGETS)
    if options.target_parameters is not None:
        check_share(options.target_parameters)
    check_multiple(options.round_to)
    for note in [] if begun else idle(options, config):
        console.print(f"note: {note}", markup=False)
    if options.print_recipe:
        if options.target_parameters is not None:
            raise RcpuError(
                "--target-parameters looks at the model, which --print-recipe does not: leave out one of them"
            )
        sys.stdout.write(config.to_yaml())
        return
    options.model = options.model or (begun.about["source"] if begun else config.model)
    choose("dtype", options.save_dtype, rcpu.DTYPES | {"auto": None})
    read = [existing(config.model), existing(config.text.partition("#")[0])]
    folder = rcpu.check_target(options.out, options.overwrite, read) if options.out else None
    if not folder and (options.export != "compact" or options.round_to != 1):
        raise RcpuError("--export, --padded and --round-to say how a model is written: give --out DIR, too")
    check_json(options.json)
    text = rcpu.load_text(config.text, part="calibration")
    if _streamed(options, config, folder, console):
        return
    model = load(options, console)
    if options.target_parameters is not None and not begun:
        config = rcpu.with_target(model.net, config, options.target_parameters, options.target_of)
        left = rcpu.planned_share(model.net, config, options.target_of)
        about = "about " if config.method == "flop" or getattr(config, "allocation", "") in LOOKING else ""
        told = f"ratio {config.ratio:g} leaves {about}{left:.2%} of the {options.target_of}'s parameters"
        console.print(told, markup=False)
    todo = rcpu.plan(model.net, config)
    for note in todo.notes:
        console.print(f"note: {note}", markup=False)
    if folder:
        check_export(model.net, config, options.export, options.round_to)
        parameters = (todo.before if options.export == "padded" else todo.after).parameters
        check_room(folder, bytes_to_write(model, parameters, options.save_dtype))
    counts = {name: getattr(config, name) for name in ("samples", "window", "held_out", "seed")}
    windows = rcpu.calibration_windows(text, model.tokenizer, **counts)
    with progress_bar(console) as bar:
        task = bar.add_task("", total=1.0)
        watch = {
            "progress": lambda p: bar.update(task, completed=p.fraction, description=p.message),
            "cancelled": options.interrupted,
        }
        run = None
        if begun:
            options.stopped = f"what was done is kept: go on with --resume {begun.id}"
            run, result = resume_into(store, begun, model, windows, **watch)
        elif store:
            run_id = new_id()
            options.stopped = f"what was done is kept: go on with --resume {run_id}"
            kept = {"name": options.name or "", "run_id": run_id, "text_digest": text.digest}
            run, result = prune_into(store, model, windows, config, **kept, **watch)
        else:
            result = rcpu.prune(model.net, windows, config, **watch)
        kept = f"the run {run.name} is kept" if run else ""
        refused = None
        if folder:
            options.stopped = f"{kept}, but not written to {folder}" if run else "nothing was written"
            bar.update(task, completed=1.0, description="writing")
            how = {"shape": options.export, "multiple": options.round_to, "dtype": options.save_dtype}
            try:
                rcpu.save(model, result, folder, overwrite=options.overwrite, **how)
            except (RcpuError, MemoryError, RuntimeError) as error:
                if not isinstance(error, RcpuError) and not out_of_memory(error):
                    raise
                told = error if isinstance(error, RcpuError) else f"could not write {folder}: out of memory"
                refused = f"{told}; {_elsewhere(run, model, result, how)}"
    for note in result.notes:
        if note not in todo.notes:
            console.print(f"note: {note}", markup=False)
    written = None if refused else folder
    options.stopped = f"the model is in {written}" if written else kept or "nothing was written"
    record = rcpu.run_record(
        model,
        result,
        out=str(written) if written else None,
        shape=options.export,
        padded=options.export == "padded",
        run=None if run is None else {"id": run.id, "name": run.name},
        **(file_sizes(model, written) if written else {}),
    )
    with results(options.json, record):
        _print_prune(record)
    if refused:
        raise RcpuError(refused)


def _streamed(options, config: rcpu.Recipe, folder: Path | None, console: Console) -> bool:
    """Whether the run was a stream: as asked for, or because the model does not fit."""
    if not options.stream:
        size = None if options.resume else _footprint(options, console)
        if size is None or size.fits:
            return False
        console.print(f"{options.model} does not fit {size.device}: it is streamed, a layer at a time", markup=False)
    if folder is None:
        raise RcpuError("a stream writes as it goes: give --out DIR")
    if options.name or options.resume:
        raise RcpuError("a stream is kept in its folder, not in the store: leave out --name and --resume")
    run_streamed(options, replace(config, model=options.model), folder, console)
    return True


def _footprint(options, console: Console) -> Footprint | None:
    """What the model takes, for which one of the hub is brought here, as loading it would; None of a run."""
    name = options.model
    if existing(name) is None and HUB_ID.fullmatch(name):
        name = str(locate(name, lambda m: console.print(f"{options.model}: {m}", markup=False)))
    return footprint(name, options.device, options.dtype)


def _elsewhere(run: Run | None, model: rcpu.Model, result: rcpu.PruneResult, how: dict) -> str:
    """Where a run still is that could not be written to where it was asked for."""
    if run:
        return f"the run is kept: `python -m rcpu runs save {run.id} --out DIR` writes it elsewhere"
    try:
        return f"it is in {rcpu.save(model, result, Path(tempfile.mkdtemp(prefix='rcpu-')) / 'model', **how)} instead"
    except (OSError, RcpuError, MemoryError, RuntimeError):
        return "without the store (--no-store) nothing of it is kept"


def _store(options, console: Console) -> tuple[Store | None, Run | None]:
    """Where the run is kept, if it is, and the run to go on with, if there is one.

    Raises:
        RcpuError: flags that exclude one another, no such run to go on with, or a name that is taken.
    """
    if options.resume:
        if options.no_store or options.name or options.recipe:
            raise RcpuError("--resume goes on with a run as it began: leave out --no-store, --name and --recipe")
        store = open_store()
        begun = store.named(options.resume)
        given = ["method", "layer_ratios", "target_parameters", "text_field", *FIELDS, *all_options()]
        if changed := [flag(name) for name in given if getattr(options, name) is not None]:
            raise RcpuError(f"--resume goes on with a run as it began: leave out {', '.join(changed)}")
        return store, begun
    if options.no_store:
        if options.name:
            raise RcpuError("--name is what a run is called in the store: leave it out, or --no-store")
        return None, None
    if options.print_recipe:
        return None, None
    store = store_or_note(console, "this run")
    if store and options.name and any(options.name in (run.id, run.name) for run in store.runs()):
        raise RcpuError(
            f"there is a run called {options.name!r} already: choose another name, or delete that one with "
            f"`python -m rcpu runs delete`"
        )
    return store, None


LABELS = {"bytes": "bytes in memory", "file_bytes": "bytes on disk", "flops_per_token": "FLOPs per token"}


def _print_prune(record: dict) -> None:
    table = Table(title="Relative error ‖Y − Ŷ‖ / ‖Y‖ of every pruned projection", title_justify="left")
    for name in (
        "layer",
        "site",
        "unit",
        "kept",
        "none",
        "compensated",
        "held-out none",
        "held-out comp.",
        "det Q",
    ):
        table.add_column(name, justify="left" if name in ("site", "unit") else "right")
    for s in record["sites"]:
        errors = (
            s["error_none"],
            s["error_compensated"],
            s["error_none_held_out"],
            s["error_compensated_held_out"],
        )
        table.add_row(
            str(s["layer"]),
            s["site"],
            s["unit"],
            f"{s['kept']}/{s['units']}",
            *("–" if e is None else f"{e:.4f}" for e in errors),
            "–" if s["determinant"] is None else f"{s['determinant']:+d}",
        )
    out = output()
    out.print(table)
    for name, unit, scale in (
        ("parameters", "M", 1e6),
        ("bytes", "MiB", 2**20),
        ("file_bytes", "MiB", 2**20),
        ("flops_per_token", "MFLOP", 1e6),
    ):
        if f"{name}_before" not in record:
            continue
        before, after = record[f"{name}_before"], record[f"{name}_after"]
        change = 100 * (after / before - 1)
        label = LABELS.get(name, name)
        out.print(f"{label}: {before / scale:,.1f} → {after / scale:,.1f} {unit} ({change:+.1f}%)", markup=False)
    shape = SHAPES[record["shape"]]
    told = [f"{record['seconds']:.1f} s"]
    if run := record["run"]:
        told.append(f"kept as {run['name']!r} ({run['id']})")
    if record["out"]:
        told.append(f"saved to {record['out']} ({shape})")
    out.print("; ".join(told), markup=False)
