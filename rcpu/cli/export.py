"""``python -m rcpu export``: a run or a folder in another shape, or as a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

import rcpu
from rcpu.base import existing
from rcpu.base.errors import RcpuError, choose
from rcpu.cli.common import check_json, export_flags, model_flags, output, results, save_dtype_flag
from rcpu.compact.export import RECORD, check_room
from rcpu.compact.llamacpp import QUANTS, check_gguf, save_gguf
from rcpu.compact.loaders import loads_in
from rcpu.compact.shapes import SHAPES, check_shape, shape_problem, shaped
from rcpu.pruning.saving import bytes_to_write, write_export
from rcpu.runs import PREFIX, load_run, measured_lines, open_store

FORMS = (*SHAPES, "gguf")


def add(commands, _) -> None:
    """Declare the command's flags."""
    about = "write a run or a folder as compact, stock, padded or GGUF"
    export = commands.add_parser("export", parents=[model_flags(default=None)], help=about)
    export.add_argument("name", metavar="RUN_OR_FOLDER", help="a run's name or id, a folder, or embedded")
    export_flags(export, name="--as", forms=FORMS)
    export.add_argument("--quant", default="f16", choices=list(QUANTS), help="of a GGUF file (default: %(default)s)")
    export.add_argument("--out", required=True, metavar="PATH", help="folder, or file for GGUF")
    save_dtype_flag(export)
    export.add_argument("--overwrite", action="store_true", help="replace an earlier export there")
    export.set_defaults(run=_export)


def _export(options, console: Console) -> None:
    as_gguf, form = options.export == "gguf", options.export
    choose("dtype", options.save_dtype, rcpu.DTYPES | {"auto": None})
    check_json(options.json)
    path = check_gguf(options.out, options.overwrite) if as_gguf else None
    folder = None if as_gguf else rcpu.check_target(options.out, options.overwrite, [existing(options.name)])
    model, net, record, numbers = _source(options, console)
    if as_gguf:  # of a model whose layers are of one size if it can be, else with zeros
        form = next((f for f in ("stock", "padded") if not shape_problem(net.config, f)), "stock")
    elif model.net is net and form == "compact":
        raise RcpuError(f"{options.name} is no pruned model: as compact there is nothing to write")
    check_shape(net.config, form, options.round_to)
    made = shaped(net, form, options.round_to)
    parameters = rcpu.cost(made).parameters
    if as_gguf:
        check_room(path, 4 * parameters)
        save_gguf(made, model.tokenizer, path, options.quant, Path(options.name).name)
        told = {"path": str(path), "as": "gguf", "shape": form, "quant": options.quant, "bytes": path.stat().st_size}
    else:
        check_room(folder, bytes_to_write(model, parameters, options.save_dtype))
        record = record | {"shape": form, "padded": form == "padded"}
        write_export(
            model, made, folder, record, overwrite=options.overwrite, dtype=options.save_dtype, numbers=numbers
        )
        told = {"path": str(folder), "as": form, "shape": form}
    told |= {"parameters": parameters, "loads_in": loads_in(made.config, model.tokenizer)}
    with results(options.json, told):
        out = output()
        out.print(f"{options.name} written to {told['path']} ({told['as']}, {parameters / 1e6:,.1f} M parameters)")
        for program, reason in told["loads_in"].items():
            out.print(f"{program}: {f'no, {reason}' if reason else 'loads it'}", markup=False)


def _source(options, console: Console) -> tuple[rcpu.Model, object, dict, list[str]]:
    """The model that holds tokenizer and folder, the net to export, the record so far, and what was measured."""

    def report(message: str) -> None:
        console.print(f"{options.name}: {message}", markup=False)

    name = options.name.removeprefix(PREFIX)
    if options.name == "embedded" or (existing(options.name) and not options.name.startswith(PREFIX)):
        model = rcpu.load_model(options.name, options.device, options.dtype, report)
        record = _record(model.folder) or {"recipe": rcpu.Recipe(model=options.name, ratio=0).to_dict()}
        return model, model.net, {"versions": {}} | record, []
    store = open_store()
    run = store.named(name)
    if options.model:
        run.about["source"] = options.model
    model, result = load_run(run, store, options.device, options.dtype, report)
    return model, result.net, rcpu.run_record(model, result), measured_lines(store, run.id)


def _record(folder: Path) -> dict | None:
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
