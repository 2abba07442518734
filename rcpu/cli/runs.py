"""``python -m rcpu runs``: what is kept, one run in full, a run as a folder, and how to let go of some."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import rcpu
from rcpu.base import existing
from rcpu.base.errors import RcpuError, choose
from rcpu.cli.common import a_path, check_json, export_flags, model_flags, output, results, save_dtype_flag, write_json
from rcpu.compact.export import check_room
from rcpu.compact.loaders import shape_line
from rcpu.compact.shapes import check_shape
from rcpu.pruning.saving import bytes_to_write, file_sizes
from rcpu.runs import (
    Run,
    Store,
    compact_model,
    load_run,
    measured_lines,
    open_store,
    perplexities,
    sites_of,
)

UNFINISHED = ("failed", "cancelled", "interrupted")


def add(commands, _) -> None:
    """Declare the command and what it can do with a run."""
    runs = commands.add_parser("runs", help="list the runs that are kept; show, save or delete one")
    runs.add_argument("--json", metavar="FILE", default=None, type=a_path, help="write the results as one JSON object")
    runs.set_defaults(run=_list)
    what = runs.add_subparsers(metavar="COMMAND")
    show = what.add_parser("show", help="all that is kept of one run")
    show.add_argument("name", metavar="RUN", help="its name or id")
    show.add_argument("--json", metavar="FILE", default=None, type=a_path, help="write it as one JSON object, too")
    show.add_argument("--recipe", action="store_true", help="print its recipe as YAML and nothing else")
    show.set_defaults(run=_show)
    save = what.add_parser("save", parents=[model_flags(default=None)], help="write a run's model to a folder")
    save.add_argument("name", metavar="RUN", help="its name or id")
    save.add_argument("--out", metavar="DIR", required=True, help="folder for the pruned model")
    export_flags(save)
    save_dtype_flag(save)
    save.add_argument("--overwrite", action="store_true", help="replace an earlier export at --out")
    save.set_defaults(run=_save)
    delete = what.add_parser("delete", help="delete runs, with all that was measured of them")
    delete.add_argument("names", metavar="RUN", nargs="*", help="names or ids")
    delete.add_argument("--unfinished", action="store_true", help="all that failed, were cancelled or interrupted")
    delete.set_defaults(run=_delete)


def _list(options, console: Console) -> None:
    check_json(options.json)
    store = open_store()
    runs = store.runs()
    table = Table("name", "id", "state", "begun", "model", "method", "ratio", "parameters")
    for name in ("error", "perplexity", "MiB"):
        table.add_column(name, justify="right")
    rows = [_row(store, run) for run in runs]
    for run, row in zip(runs, rows, strict=True):
        table.add_row(
            escape(run.name),
            run.id,
            run.state,
            time.strftime("%Y-%m-%d %H:%M", time.localtime(run.created)),
            escape(run.about["model"]),
            run.recipe["method"],
            f"{run.recipe['ratio']:g}",
            "–" if row["parameters"] is None else f"{row['parameters'] / 1e6:,.1f} M",
            "–" if row["error"] is None else f"{row['error']:.4f}",
            "–" if row["perplexity"] is None else f"{row['perplexity']['perplexity']:.2f}",
            f"{row['bytes'] / 2**20:,.1f}",
        )
    with results(options.json, {"folder": str(store.folder), "bytes": store.bytes(), "runs": rows}):
        out = output()
        if runs:
            out.print(table)
        out.print(f"{len(runs)} runs, {store.bytes() / 2**20:,.1f} MiB in {store.folder}", markup=False)


def _row(store: Store, run: Run) -> dict:
    measured = perplexities(store, run.id)
    held_out = run.about.get("mean_error_compensated_held_out")
    return {
        "id": run.id,
        "name": run.name,
        "state": run.state,
        "created": run.created,
        "model": run.about["model"],
        "recipe": run.recipe,
        "tags": list(run.tags),
        "note": run.note,
        "parameters": run.about.get("parameters_after"),
        "error": run.about.get("mean_error_compensated") if held_out is None else held_out,
        "perplexity": measured[-1].to_dict() if measured else None,
        "bytes": store.bytes_of(run.id),
    }


def _show(options, console: Console) -> None:
    check_json(options.json)
    store = open_store()
    run = store.named(options.name)
    recipe = rcpu.Recipe.from_dict(run.recipe)
    out = output()
    if options.recipe:
        out.out(recipe.to_yaml(), end="", highlight=False)
        return
    out.print(f"{run.name} ({run.id}): {run.state}{': ' if run.error else ''}{run.error}", markup=False)
    for line in (run.note, ", ".join(run.tags)):
        if line:
            out.print(line, markup=False)
    out.print(recipe.to_yaml(), markup=False, end="")
    for name, value in run.about.items():
        if name == "shapes":
            for shape, found in value.items():
                out.print(shape_line(shape, found), markup=False)
        elif value not in (None, [], {}):
            out.print(f"{name.replace('_', ' ')}: {value}", markup=False)
    sites = sites_of(store, run.id)
    if sites:
        table = Table("layer", "site", "kept", "error none", "compensated", "held-out none", "held-out comp.")
        for s in sites:
            errors = (s.error_none, s.error_compensated, s.error_none_held_out, s.error_compensated_held_out)
            told = ("–" if e is None else f"{e:.4f}" for e in errors)
            table.add_row(str(s.layer), s.site, f"{s.kept}/{s.units}", *told)
        out.print(table)
    measures = store.measures.all(run.id)
    for line in measured_lines(store, run.id):
        out.print(line, markup=False)
    if run.state in UNFINISHED:
        out.print(f"go on with it: python -m rcpu prune --resume {run.id}", markup=False)
    write_json(
        options.json,
        {
            **_row(store, run),
            "error_message": run.error,
            "about": run.about,
            "sites": [s.summary() for s in sites],
            "measures": [{"kind": m.kind, "asked": m.asked, "value": m.value, "created": m.created} for m in measures],
        },
    )


def _save(options, console: Console) -> None:
    store = open_store()
    run = store.named(options.name)
    if options.model:
        run.about["source"] = options.model  # it may have moved; that it is the same one is checked
    choose("dtype", options.save_dtype, rcpu.DTYPES | {"auto": None})
    folder = rcpu.check_target(options.out, options.overwrite, [existing(run.about["source"])])
    check_json(options.json)
    model, result = load_run(
        run, store, options.device, options.dtype, lambda m: console.print(f"{run.about['source']}: {m}", markup=False)
    )
    parameters = rcpu.cost(model.net if options.export == "padded" else result.net).parameters
    check_shape(result.net.config, options.export, options.round_to)
    check_room(folder, bytes_to_write(model, parameters, options.save_dtype))
    how = {
        "shape": options.export,
        "multiple": options.round_to,
        "overwrite": options.overwrite,
        "dtype": options.save_dtype,
    }
    rcpu.save(model, result, folder, numbers=measured_lines(store, run.id), **how)
    record = rcpu.run_record(
        model, result, out=str(folder), shape=options.export, padded=options.export == "padded"
    ) | file_sizes(model, folder)
    with results(options.json, record):
        output().print(f"{compact_model(run, model, result).name} saved to {folder}", markup=False)


def _delete(options, console: Console) -> None:
    if not options.names and not options.unfinished:
        raise RcpuError("which runs? Give names or ids, or --unfinished")
    store = open_store()
    before = store.bytes()
    gone = [store.named(name) for name in options.names]
    if options.unfinished:
        gone += [run for run in store.runs() if run.state in UNFINISHED]
    for run in dict.fromkeys(run.id for run in gone):
        store.delete(run)
    freed = (before - store.bytes()) / 2**20
    output().print(f"{len({run.id for run in gone})} runs deleted, {freed:,.1f} MiB freed", markup=False)
