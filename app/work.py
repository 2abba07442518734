"""What pages ask to be done: each function queues one job. The work itself is the library's."""

from __future__ import annotations

import rcpu
from app import demo
from app.jobs import Job
from app.runs import PrunedRun, Variant, default_name
from app.shared import jobs, load_text, models, windows
from rcpu.measure import NextToken, TokenView, compare_tokens, next_tokens
from rcpu.statistics import Collection, collect


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


def windows_of(config: rcpu.PruneConfig) -> tuple:
    """What windows depend on beside the tokenizer."""
    return config.text, config.samples, config.held_out, config.window, config.seed


def asked_windows(model: rcpu.Model, config: rcpu.PruneConfig) -> tuple:
    """What statistics depend on: the model, its precision and place, and the windows."""
    return model.fingerprint, model.dtype, model.device, *windows_of(config)


def collect_job(model: rcpu.Model, config: rcpu.PruneConfig) -> Job:
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


def prune_job(model: rcpu.Model, config: rcpu.PruneConfig, name: str = "") -> Job:
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


def measure_job(tokenizer: object, variants: dict[str, Variant], text: str, window: int, max_windows: int) -> Job:
    """Queue the perplexity of every variant; ``partial`` fills as they come."""
    demo.check_text(text)
    demo.check_evaluation(max_windows, window)

    def work(job: Job) -> dict[str, rcpu.Perplexity]:
        source = load_text(text)
        measured = rcpu.evaluation_windows(source, tokenizer, window=window, max_windows=max_windows)
        found: dict[str, rcpu.Perplexity] = {}
        for i, (key, variant) in enumerate(variants.items()):
            found = found | {
                key: rcpu.perplexity(
                    variant.net,
                    measured,
                    text=source.name,
                    progress=lambda f, i=i, name=variant.label: job.report((i + f) / len(variants), name),
                    cancelled=job.cancelled,
                )
            }
            job.partial = found
        return found

    return jobs().submit("measure", f"Perplexity on {text}", work, (asked_models(variants), text, window, max_windows))


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
