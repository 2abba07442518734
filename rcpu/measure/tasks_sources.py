"""Which tasks a name means: those made here, rows or YAML of a folder, and every task of lm-eval.

``embedded`` needs no network; ``paper`` is the set of the pruning papers, zero-shot. lm-eval is imported when asked.
"""

from __future__ import annotations

import difflib
import json
import logging
import random
import re
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import numpy as np
from huggingface_hub import constants

from rcpu.base.errors import RcpuError
from rcpu.base.hub import unreachable
from rcpu.measure.tasks_embedded import continuation_rows, last_word_rows
from rcpu.text.texts import Text, load_text

#: The tasks of the pruning papers, and where lm-eval has them: its whole index takes many seconds to read.
PAPER = {
    "boolq": "super_glue/boolq",
    "piqa": "piqa",
    "hellaswag": "hellaswag",
    "winogrande": "winogrande",
    "arc_easy": "arc",
    "arc_challenge": "arc",
    "openbookqa": "openbookqa",
}
EMBEDDED = ("last_word", "continuation")
SETS = {"embedded": EMBEDDED, "paper": tuple(PAPER)}
ROWS = {  # of JSONL files: what each must have
    "query": ("query", "choices", "gold"),
    "context_options": ("context_options", "continuation", "gold"),
}
NAME = re.compile(r"[\w.:/+*-]+")
MAX_BYTES = 256 * 2**20


def expanded(names: Sequence[str]) -> tuple[str, ...]:
    """The names with sets replaced by what they stand for, each once."""
    return tuple(dict.fromkeys(one for name in names for one in SETS.get(name, (name,))))


def folder_tasks(folder: Path) -> dict[str, Path]:
    """The tasks that a folder holds: a JSONL file is one, by its name; a YAML file says its own.

    Raises:
        RcpuError: there is no such folder, or no task in it.
    """
    import yaml

    if not folder.is_dir():
        raise RcpuError(f"{folder} is not a folder: expected one with lm-eval YAML files or JSONL files of rows")
    found = {}
    for path in sorted((*folder.glob("*.jsonl"), *folder.glob("*.yaml"), *folder.glob("*.yml"))):
        if path.suffix == ".jsonl":
            found[path.stem] = path
            continue
        told = re.search(r"^task:\s*(\S+)\s*$", _text(path), re.MULTILINE)  # tags like !function are lm-eval's to read
        if told and (name := yaml.safe_load(told[1])):
            found[str(name)] = path
    if not found:
        raise RcpuError(f"{folder} holds no task: expected lm-eval YAML files with a line 'task: NAME', or JSONL files")
    return found


def load_tasks(
    names: Sequence[str],
    folder: Path | None = None,
    few_shot: int | None = None,
    *,
    yaml: bool = True,
    text: Text | None = None,
) -> dict[str, object]:
    """lm-eval's task objects by name; groups and tags come as the tasks they consist of.

    ``yaml``: take YAML of the folder too, which can run code: not for a folder that somebody else named. ``text`` is
    what ``embedded`` is made from, its evaluation part; the embedded one unless said otherwise.

    Raises:
        RcpuError: an unknown name, rows that are none, or data that cannot be had.
    """
    local = folder_tasks(folder) if folder else {}
    made: dict[str, Callable[[], dict[str, object]]] = {}
    others = []
    for name in expanded(names):
        if name in local and local[name].suffix == ".jsonl":
            made[name] = partial(_rows_task, name, _rows(local[name]))
        elif name in local and not yaml:
            raise RcpuError(
                f"{local[name].name} is YAML, which can run code: use it on the command line; here, JSONL rows"
            )
        elif name in local:
            made[name] = partial(_harness_task, name, local[name].parent)
        elif name in EMBEDDED:
            made[name] = partial(_embedded_task, name, text or load_text("embedded"))
        else:
            others.append(name)
            made[name] = partial(_harness_task, name, None)
    _check_names(others, local)
    found: dict[str, object] = {}
    with quiet_harness():
        random.seed(0)  # some tasks shuffle their choices: the same for every model, as lm-eval does it
        np.random.seed(1234)
        for make in made.values():
            found |= make()
    for task in found.values():
        if few_shot is not None and task.get_config("num_fewshot") != 0:
            task.set_config(key="num_fewshot", value=few_shot)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=1234)
    return found


@contextmanager
def quiet_harness():
    """No bars and no advice of lm-eval and datasets inside the block."""
    import datasets
    import lm_eval.api.task

    logger, bars = logging.getLogger("lm_eval"), lm_eval.api.task.tqdm
    level = logger.level
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    lm_eval.api.task.tqdm = partial(bars.func if isinstance(bars, partial) else bars, disable=True)
    try:
        yield
    finally:
        logger.setLevel(level)
        lm_eval.api.task.tqdm = bars


def _check_names(names: Sequence[str], local: dict[str, Path]) -> None:
    unknown = [name for name in names if name not in PAPER]
    if not unknown:
        return
    known = _index().all_tasks
    for name in unknown:
        if name not in known:
            near = difflib.get_close_matches(name, [*SETS, *EMBEDDED, *local, *known], 3, 0.6)
            hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            raise RcpuError(
                f"unknown task {name[:80]!r}: {hint}give a task of lm-eval, "
                f"{', '.join(map(repr, SETS))} or one of the folder of tasks"
            )


@cache
def _index(folder: Path | None = None):
    """lm-eval's index: all of it, many seconds, or that of one folder, at once."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(folder) if folder else None, include_defaults=folder is None)


def _harness_task(name: str, folder: Path | None) -> dict[str, object]:
    if folder is None and name in PAPER:
        import lm_eval.tasks

        manager = _index(Path(lm_eval.tasks.__file__).parent / PAPER[name])
    else:
        manager = _index(folder)
    away = unreachable()
    try:
        if folder is None and away and not constants.HF_HUB_OFFLINE:  # datasets would retry for half a minute
            raise ConnectionError(away)
        return manager.load([name])["tasks"]
    except Exception as error:  # lm-eval, datasets and the hub client raise all kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if folder is None:
            raise RcpuError(
                f"cannot get the data of the task {name!r} from the hub ({away or reason}): check the network, set "
                "HF_HUB_OFFLINE=1 if it is in the local cache, or give 'embedded' or a folder of tasks"
            ) from error
        raise RcpuError(f"cannot read the task {name!r} of {folder}: {type(error).__name__}: {reason}") from error


def _embedded_task(name: str, text: Text) -> dict[str, object]:
    rows = {"last_word": last_word_rows, "continuation": continuation_rows}[name](text.evaluation)
    if not rows:
        raise RcpuError(f"{text.name} has too little prose for the task {name!r}: give a longer text")
    if name == "continuation":
        return _rows_task(name, rows, text.name)
    return _made(
        name,
        rows,
        text.name,
        output_type="loglikelihood",
        doc_to_text=lambda doc: doc["context"],
        doc_to_target=lambda doc: " " + doc["word"],
        metric_list=[
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    )


def _rows_task(name: str, rows: list[dict], version: str = "rows") -> dict[str, object]:
    """Multiple choice from rows; a row that asks a question gets ``Answer:`` on a line of its own, as in lm-eval.

    Where every row has the same choices, like yes and no, their lengths mean nothing: no accuracy by length.
    """
    options = "context_options" in rows[0]
    own = not options and any(row["choices"] != rows[0]["choices"] for row in rows)

    def asked(doc: dict) -> str | int:
        if options:
            return doc["gold"]
        return doc["query"] + ("\nAnswer:" if "Question:" in doc["query"] else "")

    return _made(
        name,
        rows,
        version,
        output_type="multiple_choice",
        doc_to_text=asked,
        doc_to_target=lambda doc: doc["continuation" if options else "gold"],
        doc_to_choice=lambda doc: doc["context_options" if options else "choices"],
        metric_list=[
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in (["acc", "acc_norm"] if own else ["acc"])
        ],
    )


def _made(name: str, rows: list[dict], version: str, **config) -> dict[str, object]:
    import datasets
    from lm_eval.api.task import ConfigurableTask

    data = {"items": datasets.Dataset.from_list(rows)}
    task = ConfigurableTask(
        config={
            "task": name,
            "custom_dataset": lambda **_: data,
            "test_split": "items",
            "fewshot_split": "items",
            "metadata": {"version": version},
            **config,
        }
    )
    return {name: task}


def _rows(path: Path) -> list[dict]:
    """The rows of a JSONL file; an error names the line and what it lacks."""
    found: list[dict] = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RcpuError(f"{path.name}, line {number}: not JSON ({error}); expected one row a line") from error
        told = _wrong(row, found[0] if found else None)
        if told:
            raise RcpuError(f"{path.name}, line {number}: {told}")
        found.append({key: row[key] for key in next(k for n, k in ROWS.items() if n in row)})
    if not found:
        raise RcpuError(f"{path.name} is empty: expected a row of JSON a line")
    return found


def _wrong(row: object, first: dict | None) -> str:
    """What a row lacks; nothing if it is a question that can be asked."""
    kinds = "query, choices and gold, or context_options, continuation and gold"
    if not isinstance(row, dict):
        return f"a {type(row).__name__}, expected an object with {kinds}"
    kind = next((name for name in ROWS if name in row), None)
    if kind is None:
        return f"has {', '.join(map(str, row)) or 'nothing'}, expected {kinds}"
    if missing := [key for key in ROWS[kind] if key not in row]:
        return f"has no {' and no '.join(missing)}: a row with {kind} needs {', '.join(ROWS[kind])}"
    choices = row["choices" if kind == "query" else kind]
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c for c in choices):
        return f"{'choices' if kind == 'query' else kind} must be two or more texts"
    words = row["query" if kind == "query" else "continuation"]
    if not isinstance(words, str) or not words:
        return f"{'query' if kind == 'query' else 'continuation'} must be a text"
    if isinstance(row["gold"], bool) or not isinstance(row["gold"], int) or not 0 <= row["gold"] < len(choices):
        return f"gold is {row['gold']!r}, expected the number of a choice, 0 to {len(choices) - 1}"
    if first is not None and kind not in first:
        return f"has {kind}, but the lines before it do not: a file holds rows of one kind"
    return ""


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RcpuError(f"{path.name} has more than {MAX_BYTES // 2**20} MiB: take a smaller file")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RcpuError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}") from error
