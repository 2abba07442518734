"""The command line: ``python -m rcpu prune | perplexity | generate``.

Results go to standard output, progress and remarks to standard error. Exit codes: 0 done, 2 bad input, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import rcpu
from rcpu.errors import Cancelled, RcpuError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise RcpuError(f"{message} (see {self.prog} --help)")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; one plain sentence for bad input, never a traceback."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    interrupted = threading.Event()
    try:
        options = _parser().parse_args(arguments)
        options.interrupted = interrupted.is_set
        with _heeding(interrupted):
            options.run(options, errors)
    except RcpuError as error:
        errors.print(f"error: {error}", markup=False)
        return 2
    except (KeyboardInterrupt, Cancelled):
        errors.print("stopped; nothing was written", markup=False)
        return 130
    return 0


@contextlib.contextmanager
def _heeding(interrupted: threading.Event) -> Iterator[None]:
    """Ctrl-C raises as ever and is noted, too: an exception that meets a destructor or a callback is lost there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(*_) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m rcpu", description=rcpu.__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    defaults = rcpu.PruneConfig()

    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", default="embedded", help="embedded, a local folder or a hub id (default: embedded)")
    model.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    model.add_argument("--dtype", default="auto", help="fp32, bf16, fp16 or auto: fp32 on the CPU (default: auto)")
    model.add_argument("--json", type=Path, metavar="FILE", help="write the results as one JSON object too")

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

    measure = commands.add_parser("perplexity", parents=[model], help="perplexity on non-overlapping windows")
    measure.add_argument("--text", default="embedded", help="embedded, a UTF-8 file, wikitext2 or a hub id")
    measure.add_argument("--window", type=int, default=128, help="tokens a window (default: %(default)s)")
    measure.add_argument("--max-windows", type=int, metavar="N", help="stop after N windows (default: all)")
    measure.set_defaults(run=_perplexity)

    generate = commands.add_parser("generate", parents=[model], help="continue a prompt")
    generate.add_argument("--prompt", required=True)
    generate.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="(default: %(default)s)")
    generate.add_argument("--seed", type=int, default=0, help="of the sampling (default: %(default)s)")
    generate.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: %(default)s)")
    generate.add_argument("--top-p", type=float, default=1.0, help="nucleus sampling (default: %(default)s)")
    generate.set_defaults(run=_generate)
    return parser


def _bar(console: Console) -> Progress:
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, transient=not console.is_terminal)


def _load(options, console: Console) -> rcpu.Model:
    return rcpu.load_model(
        options.model,
        options.device,
        options.dtype,
        report=lambda m: console.print(f"{options.model}: {m}", markup=False),
    )


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
        ridge=None if options.ridge == "auto" else _number(options.ridge, "--ridge"),
        proper=options.proper_rotation,
    )
    folder = rcpu.check_target(options.out, options.overwrite)
    _check_json(options.json)
    text = rcpu.load_text(config.text)
    model = _load(options, console)
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
    with _bar(console) as bar:
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
    _write_json(options.json, record)


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
    out = _out()
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


def _perplexity(options, console: Console) -> None:
    _check_json(options.json)
    text = rcpu.load_text(options.text)
    model = _load(options, console)
    windows = rcpu.evaluation_windows(text, model.tokenizer, window=options.window, max_windows=options.max_windows)
    with _bar(console) as bar:
        task = bar.add_task("perplexity", total=1.0)
        result = rcpu.perplexity(
            model.net,
            windows,
            text=text.name,
            progress=lambda f: bar.update(task, completed=f),
            cancelled=options.interrupted,
        )
    table = Table("model", "perplexity", "window", "windows", "tokens", "text", "dtype")
    table.add_row(
        options.model,
        f"{result.perplexity:.3f}",
        str(result.window),
        f"{result.windows:,}",
        f"{result.tokens:,}",
        result.text,
        model.dtype,
    )
    _out().print(table)
    _write_json(options.json, {"model": options.model, "dtype": model.dtype, **result.to_dict()})


def _generate(options, console: Console) -> None:
    _check_json(options.json)
    model = _load(options, console)
    shown, last = None, None
    for last in rcpu.stream(
        model.net,
        model.tokenizer,
        options.prompt,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
        temperature=options.temperature,
        top_p=options.top_p,
        cancelled=options.interrupted,
    ):
        if shown is None:  # only now is the input known to be good
            sys.stdout.write(options.prompt)
        sys.stdout.write(last.text[shown or 0 :])
        sys.stdout.flush()
        shown = len(last.text)
    sys.stdout.write("\n")
    console.print(f"{last.tokens} tokens, {last.tokens_per_second:.1f} tokens/s decoding", markup=False)
    _write_json(
        options.json,
        {
            "model": options.model,
            "prompt": options.prompt,
            "text": last.text,
            "tokens": last.tokens,
            "tokens_per_second": last.tokens_per_second,
            "finished": last.finished,
        },
    )


def _out() -> Console:
    # Not a terminal, e.g. a pipe or a file: never fold a table.
    return Console(highlight=False, soft_wrap=True) if sys.stdout.isatty() else Console(highlight=False, width=140)


def _number(text: str, flag: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise RcpuError(f"{flag} must be a number or auto, got {text!r}") from error


def _check_json(path: Path | None) -> None:
    """Find out before a long run that a result could not be written after it."""
    if path is None:
        return
    if path.is_dir():
        raise RcpuError(f"--json {path} is a folder, expected a file")
    if not path.absolute().parent.is_dir():
        raise RcpuError(f"--json {path}: the folder {path.absolute().parent} does not exist")
    try:
        tempfile.TemporaryFile(dir=path.absolute().parent).close()
    except OSError as error:
        raise RcpuError(f"--json {path}: cannot write there: {error.strerror}") from error


def _write_json(path: Path | None, result: dict) -> None:
    if path is None:
        return
    temporary = path.with_name(path.name + ".tmp-json")
    temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.rename(path)
