"""Pricing every layer and site of a model: one job, asked for by the Allocation page."""

from __future__ import annotations

from dataclasses import replace

import rcpu
from app import demo
from app.jobs import Job
from app.shared import jobs, windows
from app.work import asked_windows
from rcpu.explain import Pricing, price_model

#: The repair that is priced.
OPTIONS = {"compensation": "least_squares", "ridge": 0.3, "centred": True, "scorer": "obs", "repaired": "both"}


def _priced(recipe: rcpu.Recipe) -> rcpu.Recipe:
    return replace(recipe, ratios=(), allocation="prices", target=0.0, **OPTIONS)


def price_asked(model: rcpu.Model, recipe: rcpu.Recipe) -> tuple:
    """What prices and the allocation depend on; raises ``RcpuError`` for settings that do not combine."""
    recipe = _priced(recipe)
    rcpu.plan(model.net, recipe)
    return (*asked_windows(model, recipe), recipe.ratio, recipe.layers, recipe.sites, recipe.options)


def price_job(model: rcpu.Model, recipe: rcpu.Recipe) -> Job:
    """Queue the pass that prices every site."""
    asked, recipe = price_asked(model, recipe), _priced(recipe)
    demo.check_text(recipe.text)
    demo.check_calibration(recipe.samples, recipe.window, recipe.held_out)
    drawn = windows()

    def work(job: Job) -> Pricing:
        job.report(0.0, "drawing calibration windows")
        calibration = drawn.get(model, recipe, patient=True)
        return price_model(
            model,
            calibration,
            recipe,
            progress=lambda p: job.report(min(1.0, p.fraction / 0.4), p.message),
            cancelled=job.cancelled,
        )

    return jobs().submit("prices", f"Price {model.name}", work, asked)
