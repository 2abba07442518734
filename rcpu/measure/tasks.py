"""Accuracy on tasks: lm-eval on the net in memory, with all that its numbers rest on kept item by item."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from rcpu.base.errors import RcpuError
from rcpu.measure.tasks_answers import Answers, net_digest
from rcpu.measure.tasks_results import Item, TaskResult
from rcpu.measure.tasks_sources import load_tasks, quiet_harness
from rcpu.text.texts import Text


@dataclass(frozen=True)
class TaskProgress:
    """How far one net is, and the seconds that the rest will take; the first one comes before it begins."""

    fraction: float
    seconds_left: float | None
    message: str = ""


def run_tasks(
    net: nn.Module,
    tokenizer,
    names: Sequence[str],
    *,
    folder: Path | None = None,
    limit: int | None = None,
    few_shot: int | None = None,
    batch: int | str = "auto",
    answers: Path | None = None,
    yaml: bool = True,
    text: Text | None = None,
    progress: Callable[[TaskProgress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, TaskResult]:
    """What a dense or compact net scores on tasks, by task; see :func:`rcpu.measure.tasks_sources.load_tasks`.

    ``limit``: the first items of each task only. ``batch``: requests at once, or auto. ``answers``: a folder in which
    the net's answers are kept, told by its weights, so that more items or another try ask for the rest only.

    Raises:
        RcpuError: no such task, no data, or a model whose probabilities are NaN.
        Cancelled: ``cancelled()`` was true between two batches.
    """
    check_numbers(limit, few_shot, batch)
    progress(TaskProgress(0.0, None, "reading tasks"))
    tasks = load_tasks(names, folder, few_shot, yaml=yaml, text=text)
    if not tasks:
        raise RcpuError("no task: name at least one, like 'embedded'")
    from lm_eval.evaluator import evaluate

    from rcpu.measure.tasks_model import NetInMemory

    kept = Answers(answers, net_digest(net, tokenizer) if answers else "")
    try:
        with quiet_harness():
            lm = NetInMemory(
                net,
                tokenizer,
                batch,
                kept,
                lambda share, left: progress(TaskProgress(share, left, ", ".join(tasks))),
                cancelled,
            )
            found = evaluate(lm, {"tasks": tasks, "groups": {}, "group_map": {}}, limit=limit, bootstrap_iters=0)
    finally:
        kept.close()
    return {name: _result(name, tasks[name], samples) for name, samples in found["samples"].items()}


def check_numbers(limit: int | None, few_shot: int | None, batch: int | str) -> None:
    """Raise ``RcpuError`` for numbers that make no sense, before anything is loaded."""
    if limit is not None and limit < 1:
        raise RcpuError(f"need at least one item a task, got a limit of {limit}")
    if few_shot is not None and not 0 <= few_shot <= 64:
        raise RcpuError(f"few-shot is the number of examples before each item, 0 to 64; got {few_shot}")
    if batch != "auto" and (not isinstance(batch, int) or batch < 1):
        raise RcpuError(f"batch is auto or a number of requests from 1, got {batch!r}")


def _result(name: str, task, samples: list[dict]) -> TaskResult:
    filters = {sample["filter"] for sample in samples}
    first = samples[0]["filter"]  # of several ways to read an answer, the task's first
    items = tuple(_item(name, task, s) for s in samples if len(filters) == 1 or s["filter"] == first)
    return TaskResult(name, items, task.config.num_fewshot or 0, str((task.config.metadata or {}).get("version", "")))


def _item(name: str, task, sample: dict) -> Item:
    doc, asked = sample["doc"], sample["arguments"]
    metrics = {m: v for m in sample["metrics"] if isinstance(v := sample[m], (int, float))}
    choices, lls, gold, context = (), (), None, asked[0][0]
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = tuple(map(str, task.doc_to_choice(doc)))
        lls = tuple(float(answer[0]) for answer in sample["filtered_resps"][: len(choices)])
        gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
        gold = choices.index(gold) if isinstance(gold, str) and gold in choices else gold
        context = asked[0][1] if task.multiple_input else context
    elif task.OUTPUT_TYPE == "loglikelihood":
        choices, lls, gold = (asked[0][1],), (float(sample["filtered_resps"][0][0]),), 0
    if any(map(math.isnan, lls)):
        raise RcpuError(f"the model's probabilities on {name} are NaN: its weights or dtype overflow; try fp32 or bf16")
    if not metrics:
        raise RcpuError(f"{name} has no score an item ({', '.join(sample['metrics'])}): choose another task")
    told = json.dumps([asked, sample["target"]], sort_keys=True, default=str)
    digest = hashlib.sha256(told.encode()).hexdigest()[:16]
    return Item(digest, context, choices, lls, gold if isinstance(gold, int) else None, metrics)
