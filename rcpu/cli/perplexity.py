"""``python -m rcpu perplexity``: perplexity on non-overlapping windows, of one or more models on one or more texts."""

from __future__ import annotations

import argparse
import contextlib
import json
from functools import cache

from rich.console import Console
from rich.table import Table
from torch import Tensor

import rcpu
from rcpu.base.errors import RcpuError
from rcpu.cli.common import (
    check_json,
    load_subject,
    model_flags,
    output,
    progress_bar,
    results,
    text_field_flag,
    with_field,
)
from rcpu.compact.export import RECORD
from rcpu.measure.intervals import Difference
from rcpu.measure.perplexity import difference
from rcpu.runs import PREFIX, check_named, keep_perplexity, open_store
from rcpu.text import check_windows, divided, held_out_windows, leak_note, overlap

HELD_OUT = "held-out"
text_of = cache(rcpu.load_text)  # several models are measured on the same ones


def add(commands, _) -> None:
    """Declare the command's flags."""
    measure = commands.add_parser(
        "perplexity",
        parents=[model_flags()],  # of its own: it takes several models
        conflict_handler="resolve",
        help="perplexity with 95%% intervals on non-overlapping windows",
    )
    several = {"nargs": "+", "action": "extend", "metavar": "NAME"}
    measure.add_argument(
        "--model",
        **several,
        help="embedded, a local folder, a hub id or run:NAME; of several, each is compared with the first (default: "
        "embedded)",
    )
    measure.add_argument(
        "--text",
        **several,
        help="embedded, a UTF-8 file, wikitext2 or a hub id; held-out is what the calibration text of the (first) "
        "pruned model keeps back: beside another text it shows over-fitting (default: embedded)",
    )
    text_field_flag(measure)
    measure.add_argument("--window", type=int, default=128, help="tokens a window (default: %(default)s)")
    measure.add_argument("--max-windows", type=int, metavar="N", help="stop after N windows a text (default: all)")
    measure.set_defaults(run=_perplexity)


def _perplexity(options, console: Console) -> None:
    check_json(options.json)
    names, texts = (list(dict.fromkeys(given or ["embedded"])) for given in (options.model, options.text))
    texts = [text if text == HELD_OUT else with_field(text, options.text_field) for text in texts]
    for text in texts:
        if text != HELD_OUT:
            text_of(text, part="evaluation")  # what there is none of is said before a model is loaded
    check_windows(options.window, options.max_windows)
    for name in names:
        check_named(name)
    calibration: tuple | None = None
    first: dict[str, rcpu.Perplexity] = {}
    measured = []
    for name in names:
        model, subject = load_subject(argparse.Namespace(**vars(options) | {"model": name}), console)
        own = _calibration(model, console)
        calibration = calibration or own
        windows = {text: _windows(text, model, calibration, options) for text in texts}
        if own is not None:
            for shown, ids in windows.values():
                _warn(own, model, shown, ids, console)
        with progress_bar(console) as bar:
            task = bar.add_task(name, total=len(windows))
            for i, (text, (shown, ids)) in enumerate(windows.items()):
                found = rcpu.perplexity(
                    model.net,
                    ids,
                    text=shown,
                    progress=lambda f, task=task, i=i: bar.update(task, completed=i + f),
                    cancelled=options.interrupted,
                )
                _keep(subject, found, model.dtype)
                gap = _gap(first[text], found, console) if text in first else None
                first.setdefault(text, found)
                measured.append((name, model.dtype, found, gap))
        del model  # two at once may not fit
    rows = [
        {"model": name, "dtype": dtype, **found.to_dict(), **({"difference": gap.to_dict()} if gap else {})}
        for name, dtype, found, gap in measured
    ]
    with results(options.json, rows[0] if len(rows) == 1 else {"results": rows}):
        _print(measured)


def _keep(subject: str, found: rcpu.Perplexity, dtype: str) -> None:
    with contextlib.suppress(RcpuError):  # what was asked for is the number; it is told all the same
        keep_perplexity(open_store(), subject, found, dtype)


def _calibration(model: rcpu.Model, console: Console) -> tuple | None:
    """Text, samples and held-out windows that a pruned model was calibrated with, where its folder and they tell."""
    if model.name.startswith(PREFIX):
        made = open_store().named(model.name.removeprefix(PREFIX)).recipe
    elif (record := model.folder / RECORD).is_file():
        try:
            made = json.loads(record.read_text(encoding="utf-8"))
            made = rcpu.Recipe.from_dict(made.get("recipe") or made["config"]).to_dict()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            told = getattr(error, "strerror", None) or error
            console.print(f"note: {record} does not tell what was calibrated on: {told}", markup=False)
            return None
    else:
        return None
    try:
        return text_of(made["text"], part="calibration"), made["samples"], made["held_out"]
    except RcpuError as error:
        console.print(
            f"note: {model.name}: an overlap with its calibration text is not looked for: {error}", markup=False
        )
        return None


def _windows(name: str, model: rcpu.Model, calibration: tuple | None, options) -> tuple[str, Tensor]:
    """What a text is called in results, and its windows."""
    counts = {"window": options.window, "max_windows": options.max_windows}
    if name != HELD_OUT:
        return (text := text_of(name, part="evaluation")).name, rcpu.evaluation_windows(text, model.tokenizer, **counts)
    if calibration is None:
        raise RcpuError(
            "held-out is the part of a calibration text that was kept back, and no model here says what it was "
            "calibrated on: name a pruned one first, or another text"
        )
    text, samples, held_out = calibration
    return f"{text.name}, held out", held_out_windows(
        text, model.tokenizer, samples=samples, held_out=held_out, **counts
    )


def _warn(calibration: tuple, model: rcpu.Model, shown: str, windows: Tensor, console: Console) -> None:
    text, samples, held_out = calibration
    seen, _ = divided(text, model.tokenizer, samples=samples, held_out=held_out)
    if note := leak_note(overlap(seen, windows), text.name, shown):
        console.print(f"warning: {model.name}: {note}", markup=False)


def _gap(first: rcpu.Perplexity, found: rcpu.Perplexity, console: Console) -> Difference | None:
    try:
        return difference(first, found)
    except RcpuError as error:  # another tokenizer
        console.print(f"note: {error}", markup=False)
        return None


def _print(results: list[tuple[str, str, rcpu.Perplexity, Difference | None]]) -> None:
    several = len({name for name, *_ in results}) > 1
    table = Table("model", "text", "perplexity", "95% interval", "windows × tokens", "predictions", "dtype")
    if several:
        table.add_column(f"more than {results[0][0]}, paired 95%")
    for name, dtype, found, gap in results:
        ends = found.interval
        row = [
            name,
            found.text,
            f"{found.perplexity:.3f}",
            f"{ends.low:.3f} – {ends.high:.3f}" if ends else "–",
            f"{found.windows:,} × {found.window:,}",
            f"{found.tokens:,}",
            dtype,
        ]
        table.add_row(*row, *([str(gap or "–")] if several else []))
    output().print(table)
