"""``python -m rcpu tasks``: accuracy of one or more models on tasks of lm-eval."""

from __future__ import annotations

import argparse
import contextlib

from rich.console import Console
from rich.table import Table

from rcpu.base.errors import RcpuError
from rcpu.cli.common import a_path, check_json, load_subject, model_flags, output, progress_bar, results
from rcpu.measure.tasks import TaskProgress, check_numbers, run_tasks
from rcpu.measure.tasks_answers import answers_folder
from rcpu.measure.tasks_results import TaskResult, compare_tasks, mean_accuracy, mean_difference
from rcpu.measure.tasks_sources import SETS, folder_tasks
from rcpu.measure.tasks_tables import is_share
from rcpu.runs import check_named, keep_task, open_store


def add(commands, _) -> None:
    """Declare the command's flags."""
    tasks = commands.add_parser(
        "tasks",
        parents=[model_flags()],  # of its own: it takes several models
        conflict_handler="resolve",
        help="accuracy on tasks of lm-eval, with intervals",
    )
    tasks.add_argument(
        "--model",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="embedded, a local folder, a hub id or run:NAME; of several, each is compared with the first (default: "
        "embedded)",
    )
    tasks.add_argument(
        "--tasks",
        metavar="LIST",
        help=f"names with commas: of lm-eval, of --tasks-dir, or a set: {', '.join(SETS)} (default: embedded, or all "
        "of --tasks-dir)",
    )
    tasks.add_argument(
        "--tasks-dir",
        type=a_path,
        metavar="DIR",
        help="a folder of lm-eval YAML files, whose code is run, and of JSONL rows with query, choices and gold or "
        "context_options, continuation and gold",
    )
    tasks.add_argument("--limit", type=int, metavar="N", help="the first N items of each task (default: all)")
    tasks.add_argument("--few-shot", type=int, metavar="K", help="examples before each item (default: the task's)")
    tasks.add_argument("--batch", default="auto", help="requests at once, or auto (default: auto)")
    tasks.add_argument("--no-cache", action="store_true", help="neither read nor keep a model's answers")
    tasks.set_defaults(run=_tasks)


def _tasks(options, console: Console) -> None:
    check_json(options.json)
    batch = _whole(options.batch)
    check_numbers(options.limit, options.few_shot, batch)
    names, models = _names(options), list(dict.fromkeys(options.model or ["embedded"]))
    for name in models:
        check_named(name)
    found: dict[str, dict[str, TaskResult]] = {}
    rows = []
    for name in models:
        model, subject = load_subject(argparse.Namespace(**vars(options) | {"model": name}), console)
        with progress_bar(console) as bar:
            line = bar.add_task(f"{name}: reading tasks", total=1.0)

            def told(p: TaskProgress, name=name, bar=bar, line=line) -> None:
                if not p.fraction and p.seconds_left is not None:
                    bar.console.print(f"{name}: {p.message}: about {_time(p.seconds_left)}", markup=False)
                left = "" if p.seconds_left is None else f", {_time(p.seconds_left)} left"
                bar.update(line, completed=p.fraction, description=f"{name}{left}")

            measured = run_tasks(
                model.net,
                model.tokenizer,
                names,
                folder=options.tasks_dir,
                limit=options.limit,
                few_shot=options.few_shot,
                batch=batch,
                answers=None if options.no_cache else answers_folder(),
                progress=told,
                cancelled=options.interrupted,
            )
        for result in measured.values():
            with contextlib.suppress(RcpuError):  # what was asked for is the number; it is told all the same
                keep_task(open_store(), subject, result, model.dtype)
        found[name] = measured
        rows.append({"model": name, "dtype": model.dtype, "fingerprint": model.fingerprint, "batch": batch})
        del model  # two at once may not fit
    first, *others = found
    for row, measured in zip(rows, found.values(), strict=True):
        row["tasks"] = {task: result.to_dict() for task, result in measured.items()}
        row["mean"] = mean_accuracy(list(measured.values()))
    comparisons = [
        {"first": first, "second": other, **compare_tasks(found[first][task], result, metric).to_dict()}
        for other in others
        for task, result in found[other].items()
        for metric in result.metrics
    ]
    with results(options.json, {"results": rows, "comparisons": comparisons}):
        _print(found)


def _names(options) -> list[str]:
    if options.tasks is None:
        return list(folder_tasks(options.tasks_dir)) if options.tasks_dir else ["embedded"]
    names = [name.strip() for name in options.tasks.split(",") if name.strip()]
    if not names:
        raise RcpuError("--tasks names none: give one or more with commas, like embedded or boolq,piqa")
    return names


def _whole(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() else text


def _against(first: TaskResult, result: TaskResult, metric: str) -> list[str]:
    made = compare_tasks(first, result, metric)
    return [str(made.difference), "–" if made.p is None else f"{made.p:.3g}"]


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _print(found: dict[str, dict[str, TaskResult]]) -> None:
    first, *others = found
    table = Table("model", "task", "metric", "value", "95% interval", "chance", "one answer", "items")
    if others:
        table.add_column(f"against {first}, paired 95%")
        table.add_column("p")
    for name, measured in found.items():
        for task, result in measured.items():
            for metric in result.metrics:
                score = result.score(metric)
                scale, sign = (100, "%") if is_share(metric) else (1, "")
                error = "" if score.error is None else f" ± {scale * score.error:.2f}"
                ends = score.interval
                row = [
                    name,
                    task,
                    metric,
                    f"{scale * score.value:.2f}{error}{sign}",
                    f"{scale * ends.low:.1f} – {scale * ends.high:.1f}" if ends else "–",
                    "–" if score.chance is None else f"{100 * score.chance:.1f}%",
                    "–" if score.constant is None else f"{100 * score.constant:.1f}%",
                    f"{score.items:,}",
                ]
                if others:
                    made = compare_tasks(found[first][task], result, metric) if name != first else None
                    row += (
                        ["", ""] if made is None else [str(made.difference), "–" if made.p is None else f"{made.p:.3g}"]
                    )
                table.add_row(*row)
        mean = mean_accuracy(list(measured.values()))
        if mean is not None and len(measured) > 1:
            row = [name, "mean", "", f"{100 * mean:.2f}%", "", "", "", ""]
            pairs = [(found[first][task], result) for task, result in measured.items()]
            table.add_row(*row, *([str(mean_difference(pairs)) if name != first else "", ""] if others else []))
    out = output()
    out.print(table)
    out.print(
        "± standard error; chance: a uniform guess; one answer: always the same one, the best of these; p: exact "
        "McNemar",
        markup=False,
    )
