"""``python -m rcpu study``: the paper's experiments on any model, with a verdict for each claim."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

import rcpu
from rcpu.base.errors import RcpuError
from rcpu.cli.common import check_json, load, model_flags, output, placed, progress_bar, results, text_with
from rcpu.runs import (
    STUDIES,
    Asked,
    Bench,
    Findings,
    Store,
    Study,
    gathered,
    load_study,
    numbers_of,
    open_store,
    run_study,
    sized,
)
from rcpu.runs.engines import ENGINES
from rcpu.runs.studies import SIZES
from rcpu.runs.sweep import study_cells
from rcpu.runs.tables import markdown, result_rows, setup, verdict_rows


def add(commands, _) -> None:
    """Declare the command's flags."""
    study = commands.add_parser(
        "study",
        parents=[model_flags()],
        help="run an experiment of the paper and say which of its claims hold here",
        description="Every cell is a run in the store: a second call goes on, and more seeds or ratios are added.",
    )
    study.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(STUDIES)}, or a YAML file; none: a list")
    study.add_argument("--size", default="small", help="; ".join(f"{k}: {v}" for k, v in SIZES.items()) + " (small)")
    study.add_argument("--text", default="embedded", help="to calibrate on (default: embedded)")
    study.add_argument("--evaluation", help="text to measure on (default: that of --text)")
    study.add_argument("--seeds", help="of the calibration windows, like 0,1,2")
    study.add_argument("--ratios", help="like 0.1,0.2,0.3")
    study.add_argument("--limit", type=int, metavar="N", help="windows to measure on, or items a task, at most")
    study.add_argument("--tasks", default="embedded", help="of a study of accuracy (default: embedded)")
    study.add_argument("--samples", type=int, help="calibration windows, where the study does not vary them")
    study.add_argument("--window", type=int, help="tokens a window")
    study.add_argument("--layers", type=rcpu.parse_layers, metavar="LIST", help="layers to prune (default: all)")
    study.add_argument("--measure-in", default="", metavar="DTYPE", help="measure in bf16, twice as fast on a CPU")
    study.add_argument("--keep-weights", action="store_true", help="keep the weights of every cell, too")
    study.add_argument("--engine", choices=list(ENGINES), help="run cells in several processes, or on a Ray cluster")
    study.add_argument("--address", help="of a Ray cluster (default: this machine)")
    study.add_argument("--show", action="store_true", help="what the store has of it; nothing is run")
    study.add_argument("--markdown", action="store_true", help="print Markdown instead of tables")
    study.add_argument(
        "--into",
        type=Path,
        metavar="FILE",
        help="write Markdown between <!-- study:NAME --> and <!-- /study:NAME -->",
    )
    study.set_defaults(run=_study)


def _study(options, console: Console) -> None:
    if not options.names:
        table = Table("study", "of the paper", "title", "question")
        for name, known in STUDIES.items():
            table.add_row(name, known.source, known.title, known.question)
        output().print(table)
        return
    check_json(options.json)
    studies, store = [load_study(name) for name in options.names], open_store()
    text_with(options.into, (f"study:{study.name}" for study in studies))  # a place that lacks is said now
    for study in studies if options.show else ():
        _sized(study, options)  # though nothing is run: a slip is told
    if options.show:
        found = [one for study in studies for one in _known(study, store)]
    else:
        found = _run(studies, options, store, console)
    with results(options.json, found[0].to_dict() if len(found) == 1 else {"studies": [f.to_dict() for f in found]}):
        for one in found:
            if options.into:
                text = placed(text_with(options.into, ()), f"study:{one.study.name}", markdown(one))
                options.into.write_text(text, encoding="utf-8")  # of what it is by now: a study takes hours
            elif options.markdown:
                sys.stdout.write(markdown(one) + "\n")
            else:
                _print(one)


def _known(study: Study, store: Store) -> list[Findings]:
    if known := gathered(store, study.name):
        return known
    raise RcpuError(f"the store has nothing of the study {study.name}: run it without --show")


def _sized(study: Study, options) -> Asked:
    return sized(
        study,
        options.size,
        model=options.model,
        text=options.text,
        evaluation=options.evaluation or options.text,
        seeds=numbers_of(options.seeds, int, "--seeds"),
        ratios=numbers_of(options.ratios, float, "--ratios"),
        limit=options.limit,
        tasks=tuple(t.strip() for t in options.tasks.split(",") if t.strip()),
    )


def _asked(study: Study, options) -> Asked:
    asked = _sized(study, options)
    own = {name: value for name in ("samples", "window", "layers") if (value := getattr(options, name)) is not None}
    asked = replace(asked, settings={**asked.settings, **own})
    study.cells(asked), study.asks(asked)  # what is wrong with them is said before a model is loaded
    return asked


def _run(studies: list[Study], options, store: Store, console: Console) -> list[Findings]:
    asked = [_asked(study, options) for study in studies]
    for text in {options.text, options.evaluation or options.text}:
        rcpu.load_text(text)
    if options.engine:
        for study, one in zip(studies, asked, strict=True):
            _on_engine(study, one, options, store, console)
    bench, known = Bench(load(options, console), options.measure_in), []
    for study, one in zip(studies, asked, strict=True):
        with progress_bar(console) as bar:
            task = bar.add_task(study.name, total=1.0)
            found = run_study(
                study,
                one,
                bench,
                store,
                keep_weights=options.keep_weights,
                progress=lambda p, task=task, bar=bar: bar.update(task, completed=p.fraction, description=p.message),
                cancelled=options.interrupted,
            )
        for note in (*found.series["warnings"], *found.failed):
            console.print(f"warning: {note}", markup=False)
        known.append(found)
    return known


def _on_engine(study: Study, asked: Asked, options, store: Store, console: Console) -> None:
    """Have an engine run the cells; what failed there is tried again, and told, when the study is gathered."""
    where = {name: getattr(options, name) for name in ("device", "dtype", "measure_in", "keep_weights")}
    cells = study_cells(study, asked, store.folder, **where)
    for nth, done in enumerate(ENGINES[options.engine](cells, address=options.address), 1):
        console.print(f"{nth} of {len(cells)}: {done.name}: {done.error or 'done'}", markup=False)


def _print(found: Findings) -> None:
    out = output()
    out.print(f"{found.study.title} ({found.study.source})\n{setup(found)}", markup=False)
    for note in (*found.cut, *found.study.notes):
        out.print(note, markup=False)
    for columns in (*(result_rows(found, q) for q in found.study.quantities), verdict_rows(found)):
        table = Table(*columns)
        for row in zip(*columns.values(), strict=True):
            table.add_row(*row)
        out.print(table)
