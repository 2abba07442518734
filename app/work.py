"""What pages ask to be done: each function queues one job. The work itself is the library's."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from torch import Tensor

import rcpu
from app import demo
from app.jobs import Job
from app.runs import PrunedRun, Variant, default_name
from app.shared import jobs, load_text, models, windows
from rcpu.measure import NextToken, TokenView, compare_tokens, next_tokens
from rcpu.statistics import Collection, collect
from rcpu.text import divided, held_out_windows, leak_note, overlap

HELD_OUT = "held-out"  # the text that a calibration text keeps back


def load_model_job(key: tuple[str, str, str]) -> Job:
    """Queue the loading of a model, or join the job that loads it already."""
    name, device, dtype = key
    demo.check_model(name, device, dtype)
    steps = {"converting": 0.1, "asking": 0.05, "downloading": 0.1, "loading": 0.5, "checking": 0.8}
    store = models()

    def work(job: Job) -> None:
        def report(message: str) -> None:
            if job.cancelled():
                raise rcpu.Cancelled
            job.report(steps.get(message.split()[0], 0.0), message)

        store.put(key, rcpu.load_model(name, device, dtype, report=report))

    return jobs().submit("load", f"Load {name} ({device}, {dtype})", work, key)


def windows_of(config: rcpu.Recipe) -> tuple:
    """What windows depend on beside the tokenizer."""
    return config.text, config.samples, config.held_out, config.window, config.seed


def asked_windows(model: rcpu.Model, config: rcpu.Recipe) -> tuple:
    """What statistics depend on: the model, its precision and place, and the windows."""
    return model.fingerprint, model.dtype, model.device, *windows_of(config)


def collect_job(model: rcpu.Model, config: rcpu.Recipe) -> Job:
    """Queue one pass of the dense model that keeps the statistics of the config's layers and sites, or join it."""
    demo.check_text(config.text)
    demo.check_calibration(config.samples, config.window, config.held_out)
    drawn = windows()

    def work(job: Job) -> Collection:
        job.report(0.0, "drawing calibration windows")
        layers = config.layer_indices(model.net.config.num_hidden_layers)
        return collect(
            model,
            drawn.get(model, config, patient=True),
            layers=layers,
            progress=lambda p: job.report(p.fraction, p.message),
            cancelled=job.cancelled,
        )

    title = f"Statistics of {model.name}"
    return jobs().submit("collect", title, work, (*asked_windows(model, config), config.layers))


def prune_job(model: rcpu.Model, config: rcpu.Recipe, name: str = "") -> Job:
    """Queue a pruning run; ``partial`` grows by one SiteResult at a time."""
    demo.check_text(config.text)
    demo.check_calibration(config.samples, config.window, config.held_out)
    drawn = windows()

    def work(job: Job) -> PrunedRun:
        job.report(0.0, "drawing calibration windows")
        calibration = drawn.get(model, config, patient=True)
        job.partial = ()

        def progress(p: rcpu.Progress) -> None:
            job.report(p.fraction, p.message)
            if p.site is not None:
                job.partial = (*job.partial, p.site)

        result = rcpu.prune(model.net, calibration, config, progress=progress, cancelled=job.cancelled)
        return PrunedRun(name or default_name(config), model, result, result.uncompensated(model.net))

    return jobs().submit("prune", f"Prune: {name or default_name(config)}", work)


def save_job(run: PrunedRun, folder: str, padded: bool) -> Job:
    """Queue the writing of a pruned model to a new folder on the machine that serves the app."""
    demo.check_saving()
    target = rcpu.check_target(folder)
    return jobs().submit(
        "save", f"Save to {target}", lambda _: rcpu.save(run.model, run.result, target, as_padded=padded)
    )


def asked_models(variants: dict[str, Variant]) -> tuple:
    """Which models are compared."""
    return tuple((key, id(variant.net)) for key, variant in variants.items())


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
            source = load_text(name, part="evaluation")
            return source.name, rcpu.evaluation_windows(source, tokenizer, **counts)
        if not calibrations:
            raise rcpu.RcpuError("held-out is the part of a calibration text that was kept back: choose a pruned model")
        source, samples, held_out = load_text(calibrations[-1][0], part="calibration"), *calibrations[-1][1:]
        return f"{source.name}, held out", held_out_windows(
            source, tokenizer, samples=samples, held_out=held_out, **counts
        )

    def work(job: Job) -> Measured:
        job.report(0.0, "reading texts")
        measured: dict[str, Tensor] = {}
        for shown, ids in map(cut, texts):
            measured[f"{shown} ({len(measured) + 1})" if shown in measured else shown] = ids
        warnings = tuple(
            note
            for name, samples, held_out in calibrations
            for source in (load_text(name, part="calibration"),)
            for seen in (divided(source, tokenizer, samples=samples, held_out=held_out)[0],)
            for shown, ids in measured.items()
            if (note := leak_note(overlap(seen, ids), source.name, shown))
        )
        job.partial = Measured({}, warnings)
        steps = len(measured) * len(variants)
        for i, ((shown, ids), (key, variant)) in enumerate(product(measured.items(), variants.items())):
            result = rcpu.perplexity(
                variant.net,
                ids,
                text=shown,
                progress=lambda f, i=i, told=f"{variant.label} on {shown}": job.report((i + f) / steps, told),
                cancelled=job.cancelled,
            )
            before = job.partial.found
            job.partial = Measured(before | {shown: before.get(shown, {}) | {key: result}}, warnings)
        return job.partial

    asks = asked_models(variants), text, window, max_windows, more, calibrations
    return jobs().submit("measure", f"Perplexity on {', '.join(texts)}", work, asks)


def generate_job(tokenizer: object, variants: dict[str, Variant], prompt: str, **options) -> Job:
    """Queue one continuation a variant, token by token in turn, so that they grow side by side in ``partial``."""
    demo.check_generation(prompt, options["max_new_tokens"])

    def work(job: Job) -> dict[str, rcpu.Generated]:
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
            job.partial = texts
            done = max(t.tokens for t in texts.values())
            job.report(done / options["max_new_tokens"], f"{done} of {options['max_new_tokens']} tokens")
        return texts

    asks = asked_models(variants), prompt, tuple(options.items())
    return jobs().submit("generate", "Generate side by side", work, asks)


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
        return views, next_tokens(nets, tokenizer, prompt, reference=reference)

    return jobs().submit("tokens", "Losses token by token", work, (asked_models(variants), text, prompt))
