"""What pages ask to be done: each function queues one job. The work itself is the library's."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import rcpu
from app import demo
from app.jobs import Job
from app.kept import PrunedRun, bring, keep_story, store
from app.labels import shortened
from app.measuring import contents, measured, side_by_side, told
from app.runs import Variant, dense, pruned
from app.shared import jobs, models, windows
from app.story import Evaluation, Story
from app.texts import content_of, load_text
from rcpu.base import out_of_memory
from rcpu.compact import check_repository, upload
from rcpu.runs import default_name, new_id, prepare_stream, prune_into, run_stream
from rcpu.statistics import Collection, collect
from rcpu.text import divided, leak_note, overlap

Key = tuple[str, str, str]  # of a model: name, device, dtype


def load_model_job(key: Key, then: rcpu.Recipe | None = None, shared: bool = False) -> Job:
    """Queue the loading of a model, or join the job that loads it already; ``then`` measures its dense path."""
    name, device, dtype = key
    demo.check_model(name, device, dtype)

    def work(job: Job) -> None:
        model = loaded(job, key)
        if then is not None:
            with contextlib.suppress(rcpu.RcpuError):  # the page that needs it says so
                collect_job(model, then, shared)

    return jobs().submit("load", f"Load {shortened(name)} ({device}, {dtype})", work, key, shared=shared)


def loaded(job: Job, key: Key) -> rcpu.Model:
    """The model from memory, or else loaded and shared."""
    steps = {"converting": 0.1, "asking": 0.05, "downloading": 0.1, "loading": 0.5, "checking": 0.8}

    def report(message: str) -> None:
        if job.cancelled():
            raise rcpu.Cancelled
        job.report(steps.get(message.split()[0], 0.0), message)

    if (model := models().get(key)) is None:
        model = rcpu.load_model(*key, report=report)
        models().put(key, model)
    return model


def windows_of(config: rcpu.Recipe) -> tuple:
    """What windows depend on beside the tokenizer."""
    return content_of(config.text), config.samples, config.held_out, config.window, config.seed


def asked_windows(model: rcpu.Model, config: rcpu.Recipe) -> tuple:
    """What statistics depend on: the model, its precision and place, and the windows."""
    return model.fingerprint, model.dtype, model.device, *windows_of(config)


def collect_job(model: rcpu.Model, config: rcpu.Recipe, shared: bool = False) -> Job:
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

    title = f"Statistics of {shortened(model.name)}"
    asks = *asked_windows(model, config), config.layers
    return jobs().submit("collect", title, work, asks, shared=shared, yields=shared)


def prune_job(
    model: rcpu.Model | Key, config: rcpu.Recipe, name: str = "", evaluation: Evaluation | None = None
) -> Job:
    """Queue a pruning run, and what it is measured on; ``partial`` is the story so far.

    A model that is not loaded yet is loaded first. What goes wrong after the pruning costs what comes after it, and
    not the pruned model: it is among the notes of the story.
    """
    demo.check_text(config.text)
    demo.check_calibration(config.samples, config.window, config.held_out)
    if evaluation is not None:
        demo.check_text(evaluation.text)
        demo.check_evaluation(evaluation.windows, evaluation.window)
        demo.check_generation(evaluation.prompt, evaluation.tokens)
    if isinstance(model, tuple):
        demo.check_model(*model)
    drawn, title = windows(), name or default_name(config)
    share = 0.6 if evaluation else 1.0  # of the progress, that pruning is

    def work(job: Job) -> str:
        of = loaded(job, model) if isinstance(model, tuple) else model
        job.report(0.0, "drawing calibration windows")
        content = contents(config.text, *([evaluation.text] if evaluation else []))
        calibration = drawn.get(of, config, patient=True)
        source = evaluation and load_text(evaluation.text, "evaluation")
        if source:  # too little of it is known before anything is pruned
            rcpu.evaluation_windows(source, of.tokenizer, window=evaluation.window, max_windows=evaluation.windows)
        story = job.partial = Story(config, asked=evaluation, content=content)

        def progress(p: rcpu.Progress) -> None:
            job.report(share * p.fraction, p.message)
            if p.site is not None:
                job.partial = replace(job.partial, sites=(*job.partial.sites, p.site))

        digest = load_text(config.text, "calibration").digest
        kept = {"name": title, "run_id": job.id, "text_digest": digest}
        run, result = prune_into(store(), of, calibration, config, **kept, progress=progress, cancelled=job.cancelled)
        plain = result.uncompensated(of.net) if result.sites else None
        sizes = tuple(rcpu.cost(net).parameters for net in (of.net, result.net))
        story = replace(story, sites=result.sites, notes=result.notes, parameters=sizes, seconds=result.seconds)
        job.partial = story
        if evaluation is not None:
            two = pruned(job.id, title, plain, result.net)
            try:
                _evaluate(job, share, {v.role: v for v in (dense(of), *two)}, of.tokenizer, source)
            except rcpu.RcpuError as error:
                job.partial = noted(job.partial, str(error))
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                job.partial = noted(job.partial, "There was too little memory to measure.")
            except rcpu.Cancelled:
                job.partial = noted(job.partial, "Measuring was cancelled.")
        keep_story(run, job.partial)
        job.partial = bring(run, of, result, plain).story
        return job.id

    return jobs().submit("prune", f"Prune: {title}", work, job_id=new_id())


def noted(story: Story, *notes: str) -> Story:
    """The story with more that a reader should know."""
    return replace(story, notes=(*story.notes, *notes))


def _evaluate(job: Job, start: float, variants: dict[str, Variant], tokenizer: object, source: rcpu.Text) -> None:
    """Measure and continue, one model after the other; the story of the job grows from ``start`` of its progress."""
    asked, part = job.partial.asked, (1 - start) / (len(variants) + 1)
    drawn = rcpu.evaluation_windows(source, tokenizer, window=asked.window, max_windows=asked.windows)
    config = job.partial.config
    if asked.text != config.text or not source.disjoint:
        calibrated = load_text(config.text, "calibration")
        seen, _ = divided(calibrated, tokenizer, samples=config.samples, held_out=config.held_out)
        if note := leak_note(overlap(seen, drawn), calibrated.name, source.name):
            job.partial = noted(job.partial, note)
    for i, (role, variant) in enumerate(variants.items()):
        progress = partial(told, job, start + part * i, part, f"perplexity: {variant.label}")
        found = measured(variant, drawn, source.name, job, progress)
        job.partial = replace(job.partial, perplexity=job.partial.perplexity | {role: found})
    for texts in side_by_side(variants, tokenizer, asked.prompt, asked.sampling, job):
        job.partial = replace(job.partial, texts=texts)
        done = max(t.tokens for t in texts.values())
        job.report(1 - part + part * done / asked.tokens, f"writing: {done} of {asked.tokens} tokens")


def save_job(run: PrunedRun, folder: str, shape: str, numbers: Sequence[str] = ()) -> Job:
    """Queue the writing of a pruned model to a new folder on the machine that serves the app."""
    demo.check_saving()
    target = rcpu.check_target(folder)
    return jobs().submit(
        "save",
        f"Save to {target}",
        lambda _: rcpu.save(run.model, run.result, target, shape=shape, numbers=numbers),
    )


def push_job(folder: Path, repository: str, private: bool) -> Job:
    """Queue the upload of an export to the hub; the result is its address there."""
    demo.check_saving()
    check_repository(repository)
    return jobs().submit("push", f"Upload to {repository}", lambda _: upload(folder, repository, private))


def stream_job(key: Key, config: rcpu.Recipe, folder: str, windows: int) -> Job:
    """Queue the pruning of a model that does not fit, measured on so many windows, to a new folder."""
    demo.check_saving()
    demo.check_model(*key)
    demo.check_text(config.text)
    demo.check_calibration(config.samples, config.window, config.held_out)
    target, (_, device, dtype) = rcpu.check_target(folder), key
    asked = prepare_stream(config, target, device=device, dtype=dtype)

    def work(job: Job) -> dict:
        return run_stream(
            asked,
            text=load_text(config.text),
            evaluate=windows,
            progress=lambda p: job.report(p.fraction, p.message),
            cancelled=job.cancelled,
        )

    return jobs().submit("stream", f"Prune {shortened(config.model)} layer by layer", work, str(target))
