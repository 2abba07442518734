"""``python -m rcpu prune``: prune, repair and save a model."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

import rcpu
from rcpu.cli.common import check_json, load, number, output, progress_bar, write_json


def add(commands, model) -> None:
    """Declare the command's flags."""
    defaults = rcpu.PruneConfig()
    prune = commands.add_parser("prune", parents=[model], help="prune, repair and save a model")
    prune.add_argument("--text", default="embedded", help="calibration: embedded, a UTF-8 file, wikitext2 or a hub id")
    prune.add_argument(
        "--samples", type=int, default=defaults.samples, help="calibration windows (default: %(default)s)"
    )
    prune.add_argument("--window", type=int, default=defaults.window, help="tokens a window (default: %(default)s)")
    prune.add_argument(
        "--held-out",
        type=int,
        default=defaults.held_out,
        help="further windows, disjoint, to report errors on (default: %(default)s)",
    )
    prune.add_argument("--seed", type=int, default=defaults.seed, help="of the windows (default: %(default)s)")
    prune.add_argument("--ratio", type=float, default=defaults.ratio, help="share of units to remove (default: 0.2)")
    prune.add_argument(
        "--layer-ratios", default="", metavar="LIST", help="layers with a ratio of their own, like 0-3=0.1,29=0"
    )
    prune.add_argument("--scorer", default=defaults.scorer, help=", ".join(rcpu.SCORERS))
    prune.add_argument("--compensation", default=defaults.compensation, help=", ".join(rcpu.COMPENSATORS))
    prune.add_argument("--sites", default=",".join(defaults.sites), help="o_proj,down_proj or one of them")
    prune.add_argument("--layers", default="all", help="all, or numbers and ranges like 0-3,7 (default: all)")
    prune.add_argument("--unit", default=defaults.unit, help=f"of o_proj: {', '.join(rcpu.UNITS)}")
    prune.add_argument("--order", default=defaults.order, help=" or ".join(rcpu.ORDERS))
    prune.add_argument(
        "--ridge",
        default=str(defaults.ridge),
        help="least squares: λ relative to the mean diagonal, or auto on held-out windows (default: %(default)s)",
    )
    prune.add_argument("--proper-rotation", action="store_true", help="rotation without reflection, det Q = +1")
    prune.add_argument("--out", required=True, metavar="DIR", help="folder for the pruned model")
    prune.add_argument("--padded", action="store_true", help="write a stock LLaMA with zeros in place")
    prune.add_argument("--overwrite", action="store_true", help="replace an earlier export at --out")
    prune.set_defaults(run=_prune)


def _prune(options, console: Console) -> None:
    config = rcpu.PruneConfig(
        model=options.model,
        text=options.text,
        samples=options.samples,
        window=options.window,
        held_out=options.held_out,
        seed=options.seed,
        ratio=options.ratio,
        ratios=rcpu.parse_ratios(options.layer_ratios),
        scorer=options.scorer,
        compensation=options.compensation,
        sites=tuple(dict.fromkeys(s.strip() for s in options.sites.split(","))),
        layers=rcpu.parse_layers(options.layers),
        unit=options.unit,
        order=options.order,
        ridge=None if options.ridge == "auto" else number(options.ridge, "--ridge"),
        proper=options.proper_rotation,
    )
    folder = rcpu.check_target(options.out, options.overwrite)
    check_json(options.json)
    text = rcpu.load_text(config.text)
    model = load(options, console)
    for note in rcpu.plan(model.net, config).notes:
        console.print(f"note: {note}", markup=False)
    windows = rcpu.calibration_windows(
        text,
        model.tokenizer,
        samples=config.samples,
        window=config.window,
        held_out=config.held_out,
        seed=config.seed,
    )
    with progress_bar(console) as bar:
        task = bar.add_task("", total=1.0)
        result = rcpu.prune(
            model.net,
            windows,
            config,
            progress=lambda p: bar.update(task, completed=p.fraction, description=p.message),
            cancelled=options.interrupted,
        )
        bar.update(task, completed=1.0, description="writing")
        rcpu.save(model, result, folder, as_padded=options.padded, overwrite=options.overwrite)
    record = rcpu.run_record(model, result, out=str(folder), padded=options.padded)
    _print_prune(record)
    write_json(options.json, record)


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
            f"{s['determinant']:+d}",
        )
    out = output()
    out.print(table)
    for name, unit, scale in (
        ("parameters", "M", 1e6),
        ("bytes", "MiB", 2**20),
        ("flops_per_token", "MFLOP", 1e6),
    ):
        before, after = record[f"{name}_before"], record[f"{name}_after"]
        change = 100 * (after / before - 1)
        label = name.replace("_", " ").replace("flops", "FLOPs")
        out.print(f"{label}: {before / scale:,.1f} → {after / scale:,.1f} {unit} ({change:+.1f}%)", markup=False)
    shape = "padded, stock shape: what is saved holds the zeros too" if record["padded"] else "compact"
    out.print(f"{record['seconds']:.1f} s; saved to {record['out']} ({shape})", markup=False)
