"""``python -m rcpu perplexity``: perplexity on non-overlapping windows."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

import rcpu
from rcpu.cli.common import check_json, load, output, progress_bar, write_json


def add(commands, model) -> None:
    """Declare the command's flags."""
    measure = commands.add_parser("perplexity", parents=[model], help="perplexity on non-overlapping windows")
    measure.add_argument("--text", default="embedded", help="embedded, a UTF-8 file, wikitext2 or a hub id")
    measure.add_argument("--window", type=int, default=128, help="tokens a window (default: %(default)s)")
    measure.add_argument("--max-windows", type=int, metavar="N", help="stop after N windows (default: all)")
    measure.set_defaults(run=_perplexity)


def _perplexity(options, console: Console) -> None:
    check_json(options.json)
    text = rcpu.load_text(options.text)
    model = load(options, console)
    windows = rcpu.evaluation_windows(text, model.tokenizer, window=options.window, max_windows=options.max_windows)
    with progress_bar(console) as bar:
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
    output().print(table)
    write_json(options.json, {"model": options.model, "dtype": model.dtype, **result.to_dict()})
