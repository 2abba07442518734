"""What Compare asks to be done, and a run measures at its end: perplexity, continuations, losses of single tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import streamlit as st
from torch import Tensor

import rcpu
from app import demo, remembered
from app.jobs import Job
from app.labels import shortened
from app.remembered import text_asked
from app.runs import Variant
from app.shared import jobs
from app.texts import content_of, load_text
from rcpu.base import Answers
from rcpu.measure import NextToken, TokenView, compare_tokens, next_tokens, windows_digest
from rcpu.text import divided, held_out_windows, leak_note, overlap

HELD_OUT = "held-out"  # the text that a calibration text keeps back
KEPT = 256  # perplexities that are remembered, a few kilobytes each


def asked_models(variants: dict[str, Variant]) -> tuple:
    """Which models are compared."""
    return tuple((key, variant.identity) for key, variant in variants.items())


@dataclass(frozen=True)
class Measured:
    """Perplexities by text, as it is called in results, and by model; and warnings of what was calibrated on."""

    found: dict[str, dict[str, rcpu.Perplexity]]
    warnings: tuple[str, ...] = ()


def measure_job(
    tokenizer: object,
    variants: dict[str, Variant],
    text: str,
    window: int,
    max_windows: int,
    *,
    more: tuple[str, ...] = (),
    calibrations: tuple[tuple[str, int, int], ...] = (),
) -> Job:
    """Queue the perplexity of every variant on a text and ``more``; ``partial`` fills as they come.

    ``calibrations`` are text, samples and held-out windows that the variants were calibrated with, the newest last: its
    kept-back part is the text ``held-out``, and what the texts share with any of them is warned of.
    """
    texts = tuple(dict.fromkeys((text, *more)))
    for name in (*texts, *(name for name, *_ in calibrations)):
        if name != HELD_OUT:
            demo.check_text(name)
    demo.check_evaluation(max_windows, window)

    def cut(name: str) -> tuple[str, Tensor]:
        counts = {"window": window, "max_windows": max_windows}
        if name != HELD_OUT:
            source = load_text(name, "evaluation")
            return source.name, rcpu.evaluation_windows(source, tokenizer, **counts)
        if not calibrations:
            raise rcpu.RcpuError("held-out is the part of a calibration text that was kept back: choose a pruned model")
        source, samples, held_out = load_text(calibrations[-1][0], "calibration"), *calibrations[-1][1:]
        return f"{source.name}, held out", held_out_windows(
            source, tokenizer, samples=samples, held_out=held_out, **counts
        )

    def work(job: Job) -> Measured:
        job.report(0.0, "reading texts")
        drawn: dict[str, Tensor] = {}
        names: dict[str, str] = {}
        for name in texts:
            shown, ids = cut(name)
            shown = f"{shown} ({len(drawn) + 1})" if shown in drawn else shown
            drawn[shown], names[shown] = ids, name
        warnings = tuple(
            note
            for name, samples, held_out in calibrations
            for source in (load_text(name, "calibration"),)
            for seen in (divided(source, tokenizer, samples=samples, held_out=held_out)[0],)
            for shown, ids in drawn.items()
            if (note := leak_note(overlap(seen, ids), source.name, shown))
        )
        job.partial = Measured({}, warnings)
        steps = len(drawn) * len(variants)
        for i, ((shown, ids), (key, variant)) in enumerate(product(drawn.items(), variants.items())):
            progress = partial(told, job, i / steps, 1 / steps, f"{variant.label} on {shown}")
            result = measured(variant, ids, shown, job, progress)
            asked = text_asked(
                names[shown], calibrations[-1] if names[shown] == HELD_OUT else None, window, max_windows
            )
            remembered.keep_perplexity(variant, asked, result, dtype_of(variant), warnings)
            before = job.partial.found
            job.partial = Measured(before | {shown: before.get(shown, {}) | {key: result}}, warnings)
        return job.partial

    asks = asked_models(variants), text, window, max_windows, more, calibrations, contents(*texts)
    return jobs().submit("measure", f"Perplexity on {shortened(', '.join(texts))}", work, asks)


def dtype_of(variant: Variant) -> str:
    """The precision that a model is measured in."""
    return next(name for name, dtype in rcpu.DTYPES.items() if dtype == variant.net.dtype)


def these(job: Job, chosen: Mapping[str, Variant]) -> dict[str, Any]:
    """What a job found so far of the chosen models: "dense" may have been another one when it was asked."""
    of, found = dict(job.asks[0]), job.result or job.partial or {}
    found = found[0] if isinstance(found, tuple) else found
    return {k: found[k] for k, v in chosen.items() if k in found and of.get(k) == v.identity}


def contents(*texts: str) -> tuple:
    """What each of these texts is now."""
    return tuple(content_of(name) for name in texts if name != HELD_OUT)


def told(job: Job, start: float, share: float, message: str, fraction: float) -> None:
    """Progress of a part of a job: ``share`` of it, from ``start``."""
    job.report(start + share * fraction, message)


@st.cache_resource(show_spinner=False)
def perplexities() -> Answers:
    """What was measured, by all that it depends on: which model, and the very tokens."""
    return Answers(KEPT)


def measured(variant: Variant, ids: Tensor, text: str, job: Job, progress: Callable[[float], None]) -> rcpu.Perplexity:
    """The perplexity on these windows, which is measured once; ``text`` is what they are called."""
    return perplexities().ask(
        (variant.identity, windows_digest(ids), text),
        lambda: rcpu.perplexity(variant.net, ids, text=text, progress=progress, cancelled=job.cancelled),
    )


def generate_job(tokenizer: object, variants: dict[str, Variant], prompt: str, **options) -> Job:
    """Queue one continuation a variant, token by token in turn, so that they grow side by side in ``partial``."""
    demo.check_generation(prompt, options["max_new_tokens"])

    def work(job: Job) -> dict[str, rcpu.Generated]:
        for texts in side_by_side(variants, tokenizer, prompt, options, job):
            job.partial = texts
            done = max(t.tokens for t in texts.values())
            job.report(done / options["max_new_tokens"], f"{done} of {options['max_new_tokens']} tokens")
        remembered.keep_texts(variants, {"prompt": prompt, **options}, job.partial)
        return job.partial

    asks = asked_models(variants), prompt, tuple(options.items())
    return jobs().submit("generate", "Generate side by side", work, asks)


def side_by_side(
    variants: Mapping[str, Variant], tokenizer: object, prompt: str, options: Mapping[str, Any], job: Job
) -> Iterator[dict[str, rcpu.Generated]]:
    """All continuations so far, after every token of each model."""
    streams = {
        key: rcpu.stream(variant.net, tokenizer, prompt, cancelled=job.cancelled, **options)
        for key, variant in variants.items()
    }
    texts: dict[str, rcpu.Generated] = {}
    while streams:
        for key in list(streams):
            if (step := next(streams[key], None)) is None:
                del streams[key]
            else:
                texts = texts | {key: step}
        yield texts


def tokens_job(tokenizer: object, variants: dict[str, Variant], text: str, prompt: str) -> Job:
    """Queue what each variant makes of every token of a text, and of the one after the prompt."""
    demo.check_shown(text)
    demo.check_generation(prompt, 1)
    nets = {key: variant.net for key, variant in variants.items()}
    reference = next(iter(nets))

    def work(job: Job) -> tuple[dict[str, TokenView], tuple[NextToken, ...]]:
        views = compare_tokens(
            nets, tokenizer, text, reference=reference, progress=lambda f: job.report(f), cancelled=job.cancelled
        )
        rows = next_tokens(nets, tokenizer, prompt, reference=reference)
        remembered.keep_tokens(variants, text, prompt, views, rows)
        return views, rows

    return jobs().submit("tokens", "Losses token by token", work, (asked_models(variants), text, prompt))
