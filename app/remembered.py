"""What was measured of models, in the store under each of them, and found there again after a restart.

Questions are told by content: a text by its digest, or a long one's file and its mark, and never by its name alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import rcpu
from app.kept import place, store
from app.runs import DENSE, Variant
from app.texts import content_of
from rcpu.measure import NextToken, TaskResult, TokenView

Asked = dict[str, Any]


def _put(subject: str, kind: str, asked: Asked, value: dict) -> None:
    with contextlib.suppress(
        rcpu.RcpuError
    ):  # a full disk, a run that was deleted: the page has the answer all the same
        store().measures.put(subject, kind, asked, value)


def _get(subject: str, kind: str, asked: Asked) -> dict | None:
    for one in place().stores:
        with contextlib.suppress(rcpu.RcpuError):
            if found := one.measures.get(subject, kind, asked):
                return found.value
    return None


def text_asked(name: str, held_out: tuple[str, int, int] | None, window: int, most: int) -> Asked:
    """On which windows a perplexity is; ``held_out`` is the calibration whose kept-back part the text is."""
    what = [content_of(held_out[0]), *held_out[1:]] if held_out else content_of(name)
    return {"text": what, "window": window, "most": most}


def keep_perplexity(
    variant: Variant, asked: Asked, found: rcpu.Perplexity, dtype: str, warnings: Sequence[str]
) -> None:
    """Keep a perplexity: under the tokens that it is of, and under the question that a page asks."""
    value = found.to_dict(losses=True)
    _put(variant.subject, "perplexity", {"windows": found.digest, "dtype": dtype}, value)
    _put(variant.subject, "compared", asked, value | {"warnings": list(warnings)})


def perplexities(
    variants: Mapping[str, Variant], questions: Sequence[Asked]
) -> tuple[dict[str, dict[str, rcpu.Perplexity]], tuple[str, ...]]:
    """Known answers by text, as results call it, and by variant; and what they warn of."""
    found: dict[str, dict[str, rcpu.Perplexity]] = {}
    warnings: dict[str, None] = {}
    for asked in questions:
        for key, variant in variants.items():
            if value := _get(variant.subject, "compared", asked):
                found.setdefault(value["text"], {})[key] = rcpu.Perplexity.from_dict(value)
                warnings |= dict.fromkeys(value["warnings"])
    return found, tuple(warnings)


def keep_tasks(variant: Variant, asked: Asked, found: Mapping[str, TaskResult], dtype: str) -> None:
    """Keep results of tasks: each under its items, and their names under the question that a page asks."""
    for result in found.values():
        items = {"task": result.task, "items": result.digest, "dtype": dtype}
        _put(variant.subject, "task", items, result.to_dict())
    kept = [[result.task, result.digest] for result in found.values()]
    _put(variant.subject, "benchmarks", asked, {"tasks": kept, "dtype": dtype})


def task_results(variants: Mapping[str, Variant], asked: Asked) -> dict[str, dict[str, TaskResult]]:
    """Known answers by variant and task, of variants that have all of them."""
    found = {}
    for key, variant in variants.items():
        if value := _get(variant.subject, "benchmarks", asked):
            kept = {
                task: _get(variant.subject, "task", {"task": task, "items": items, "dtype": value["dtype"]})
                for task, items in value["tasks"]
            }
            if all(kept.values()):
                found[key] = {task: TaskResult.from_dict(one) for task, one in kept.items()}
    return found


def keep_texts(variants: Mapping[str, Variant], asked: Asked, texts: Mapping[str, rcpu.Generated]) -> None:
    """Keep continuations, each under its model."""
    for key, made in texts.items():
        _put(variants[key].subject, "generation", asked, asdict(made))


def texts(variants: Mapping[str, Variant], asked: Asked) -> dict[str, rcpu.Generated]:
    """Known continuations by variant."""
    found = {key: _get(variant.subject, "generation", asked) for key, variant in variants.items()}
    return {key: rcpu.Generated(**value) for key, value in found.items() if value}


def keep_tokens(
    variants: Mapping[str, Variant], text: str, prompt: str, views: Mapping[str, TokenView], rows: Sequence[NextToken]
) -> None:
    """Keep what models make of every token of a text, under the last of them, for they are told beside one another."""
    value = {"views": {key: asdict(view) for key, view in views.items()}, "rows": list(map(asdict, rows))}
    _put(*_tokens(variants, text, prompt), value)


def tokens(
    variants: Mapping[str, Variant], text: str, prompt: str
) -> tuple[dict[str, TokenView], tuple[NextToken, ...]] | None:
    """The known answer to exactly these models, this text and this prompt."""
    value = _get(*_tokens(variants, text, prompt))
    if value is None:
        return None
    views = {key: TokenView(**{k: tuple(v) for k, v in view.items()}) for key, view in value["views"].items()}
    return views, tuple(NextToken(**row) for row in value["rows"])


def _tokens(variants: Mapping[str, Variant], text: str, prompt: str) -> tuple[str, str, Asked]:
    runs = [variant.subject for key, variant in variants.items() if key != DENSE]
    subjects = [variant.subject for variant in variants.values()]
    return (runs or subjects)[-1], "tokens", {"text": text, "prompt": prompt, "models": subjects}
