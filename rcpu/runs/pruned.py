"""Pruning into the store and out of it: a part a layer as it is done, and the compact model rebuilt from the edits.

A layer's part holds its edits and what was found there, and stays as it is when the run is finished. Until then a part
more holds the hidden states that the next layer starts from: from both, a run that ended early goes on. A whole method
that goes round has no layers that are done; it keeps the state of its last round.
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Iterable

import torch
import transformers
from torch import Tensor

from rcpu.base import code_version, existing
from rcpu.base.errors import RcpuError
from rcpu.compact import Edits, rebuild
from rcpu.compact.assembly import edits_of
from rcpu.compact.loaders import shapes_load_in
from rcpu.methods.catalog import METHODS
from rcpu.models.families import architecture_of
from rcpu.models.loading import Model
from rcpu.pruning.loop import prune
from rcpu.pruning.recipe import Recipe
from rcpu.pruning.result import Checkpoint, PruneResult
from rcpu.pruning.saving import run_record
from rcpu.pruning.site import SiteResult
from rcpu.pruning.survey import Looks
from rcpu.runs.found import SITES, read_site, site_part
from rcpu.runs.records import Run, digest_of
from rcpu.runs.store import Store, UnderWay
from rcpu.statistics.passes import Progress
from rcpu.text.windows import Windows

LAYER, HIDDEN, STATE, REST, FOUND = "layer-", "hidden", "state", "rest", "found"
EVERY = 5.0  # seconds at least between two rounds that are written while all goes well
#: Rooms whose code a result depends on.
CODE = ("models", "statistics", "methods", "compact", "pruning")


def default_name(recipe: Recipe) -> str:
    """What a run is called unless it was given a name."""
    if recipe.method == "columns":
        return f"{recipe.compensation.replace('_', ' ')} {recipe.ratio:.0%} {recipe.scorer}"
    return f"{METHODS[recipe.method].label} {recipe.ratio:.0%}"


def content_of(model: Model, windows: Windows, recipe: Recipe) -> str:
    """A digest of all that the result depends on: names of models and texts are not, their content is."""
    settings = {k: v for k, v in recipe.to_dict().items() if k not in ("model", "text")}
    place = [model.fingerprint, model.dtype, model.device.type]
    return digest_of([settings, place, windows.digest, code_version(*CODE)])


def prune_into(
    store: Store,
    model: Model,
    windows: Windows,
    recipe: Recipe,
    *,
    name: str = "",
    run_id: str = "",
    text_digest: str = "",
    keep_weights: bool = True,
    looks: Looks | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[Run, PruneResult]:
    """:func:`rcpu.prune`, and the run with all it found in the store, layer by layer.

    Without ``keep_weights`` the store has all but the new weights, which are nearly all of its bytes: such a run can be
    looked at and measured here and now, not rebuilt later; a choice of columns begins anew where it ended early.

    Raises:
        RcpuError: as ``prune``, or the store cannot be written.
        Cancelled: as ``prune``; what was done by then can be resumed.
    """
    about = {
        "model": model.name,
        "source": str(path.resolve()) if model.name != "embedded" and (path := existing(model.name)) else model.name,
        "dtype": model.dtype,
        "device": str(model.device),
        "text": windows.text,
        "text_digest": text_digest,
        "windows": windows.digest,
        "layers": len(recipe.layer_indices(model.net.config.num_hidden_layers)),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    } | ({} if keep_weights else {"weights": False})
    with store.begin(
        name=name or default_name(recipe),
        recipe=recipe.to_dict(),
        content=content_of(model, windows, recipe),
        fingerprint=model.fingerprint,
        about=about,
        run_id=run_id,
    ) as under_way:
        result = _pruned(under_way, model, windows, recipe, None, looks, progress, cancelled, keep_weights)
    return store.get(under_way.id), result


def resume_into(
    store: Store,
    run: Run,
    model: Model,
    windows: Windows,
    *,
    looks: Looks | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[Run, PruneResult]:
    """Go on with a run that ended early; the result is the same, to the last bit, as if it had not.

    Raises:
        RcpuError: model, windows or code are not those that it began with, or it is finished or under way.
    """
    recipe = Recipe.from_dict(run.recipe)
    if content_of(model, windows, recipe) != run.content:
        raise RcpuError(_differs(run, model, windows))
    with store.resume(run.id) as under_way:
        start = _checkpoint_of(store, run.id)
        for site in start.sites if start else ():
            progress(Progress(0.0, f"layer {site.layer}: {site.site} was solved before", site))
        result = _pruned(under_way, model, windows, recipe, start, looks, progress, cancelled, has_weights(run))
    return store.get(run.id), result


def sites_of(store: Store, run_id: str, *, weights: bool = False, layer: int | None = None) -> tuple[SiteResult, ...]:
    """What was found at every site of a run, or of one layer, in the order of layers; no model is needed.

    Raises:
        RcpuError: a part of the run is broken.
    """
    found = []
    wanted = LAYER if layer is None else f"{LAYER}{layer:03d}"
    for part in (part for part in store.parts(run_id) if part.startswith(wanted)):
        tensors = store.read(run_id, part, lambda name: weights or not name.endswith(".weight"))
        found += [read_site(plain, tensors) for plain in store.notes(run_id, part)]
    return tuple(found)


def found_of(store: Store, run_id: str) -> dict[str, Tensor]:
    """Small results of a whole method, to look at; none for a choice of columns."""
    return store.read(run_id, FOUND) if FOUND in store.parts(run_id) else {}


def how_far(store: Store, run: Run) -> str:
    """How much of a run that ended early is there, like "2 of 30 layers" or "12 of 64 steps"."""
    method, recipe, parts = METHODS.get(run.recipe.get("method")), run.recipe, store.parts(run.id)
    if method is None or not method.rounds:
        return f"{sum(part.startswith(LAYER) for part in parts)} of {run.about['layers']} layers"
    done = 0
    with contextlib.suppress(RcpuError):
        done = store.notes(run.id, STATE)["stages"] if STATE in parts else 0
    return f"{done} of {getattr(Recipe.from_dict(recipe).options, method.rounds)} {method.rounds}"


def load_result(store: Store, run: Run, model: Model) -> PruneResult:
    """A finished run with its compact model, rebuilt from the dense one: same logits, no second copy.

    Raises:
        RcpuError: the run is not finished, or the model is not the one that was pruned.
    """
    if run.state != "done":
        raise RcpuError(f"the run {run.name} is {run.state}: only a finished run has a model")
    if not has_weights(run):
        raise RcpuError(f"the weights of the run {run.name} were not kept: prune again with its recipe")
    if (model.fingerprint, model.dtype) != (run.fingerprint, run.about["dtype"]):
        raise RcpuError(
            f"the run {run.name} was made from {run.about['model']} in {run.about['dtype']} ({run.fingerprint}), but "
            f"{model.name} in {model.dtype} ({model.fingerprint}) is loaded: load the model that was pruned"
        )
    tensors, notes = {}, []
    for part in (part for part in store.parts(run.id) if part == REST or part.startswith(LAYER)):
        tensors |= store.read(run.id, part)
        notes += store.notes(run.id, part) or []
    named = {k: v.to(model.device) for k, v in tensors.items() if not k.startswith(SITES)}
    edits = Edits.from_tensors(named)
    sites = tuple(read_site(plain, tensors | named) for plain in notes)
    recipe = Recipe.from_dict(run.recipe)
    return PruneResult(
        rebuild(model.net, edits),
        recipe,
        edits,
        sites,
        tuple(run.about["notes"]),
        run.about["seconds"],
        found_of(store, run.id),
    )


def has_weights(run: Run) -> bool:
    """Whether a finished run can be rebuilt."""
    return run.about.get("weights", True)


def _pruned(
    under_way: UnderWay,
    model: Model,
    windows: Windows,
    recipe: Recipe,
    start: Checkpoint | None,
    looks: Looks | None,
    progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
    keep_weights: bool,
) -> PruneResult:
    paths = {site.name: f"{site.block}.{site.consumer}" for site in architecture_of(model.net).sites}

    def write(sites: tuple[SiteResult, ...], layer: int) -> None:
        of_layer = tuple(site for site in sites if site.layer == layer)
        edits = _edits_at(model, of_layer)
        tensors, notes = site_part(of_layer, edits, paths)
        if not keep_weights:
            tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(".weight")}
        under_way.write(f"{LAYER}{layer:03d}", tensors, notes)
        written.update((i, name) for i, named in edits.layers.items() for name in named)
        layers.add(layer)

    rounds: list[Checkpoint] = []  # the last one, if it is not on the disk
    started = time.monotonic()

    def checkpoint(c: Checkpoint) -> None:
        nonlocal started
        if c.state:
            rounds[:] = [c]
            if time.monotonic() - started > EVERY:
                write_round()
                started = time.monotonic()
            return
        write(c.sites, c.layer)
        if c.hidden is not None and keep_weights:
            keep(HIDDEN, {"hidden": c.hidden} | ({} if c.dense is None else {"dense": c.dense}), c)

    def keep(part: str, tensors: dict[str, Tensor], c: Checkpoint) -> None:
        try:
            under_way.write(part, tensors, {"layer": c.layer, "stages": c.stages})
        except RcpuError:  # too large for the disk: the run goes on, and can only not be resumed from here
            under_way.drop(part)

    def write_round() -> None:
        while rounds:
            c = rounds.pop()
            keep(STATE, c.state, c)

    before = start.sites if start else ()
    layers = {site.layer for site in before}
    written = {(i, name) for i, named in _edits_at(model, before).layers.items() for name in named}
    watch = {"progress": progress, "cancelled": cancelled}
    try:
        result = prune(model.net, windows, recipe, **watch, checkpoint=checkpoint, resume=start, looks=looks)
    except BaseException:
        write_round()
        raise
    for layer in {site.layer for site in result.sites} - layers:
        write(result.sites, layer)
    rest = {i: {k: t for k, t in named.items() if (i, k) not in written} for i, named in result.edits.layers.items()}
    if keep_weights and (result.edits.model or any(rest.values())):
        under_way.write(REST, Edits(rest, result.edits.model).to_tensors())
    if result.found:
        under_way.write(FOUND, result.found)
    record = run_record(model, result)
    kept = {key: record[key] for key in record if key not in ("recipe", "sites", "fingerprint")}
    resumed = {}
    if start:
        resumed = {"resumed_after_round": start.stages} if start.state else {"resumed_after_layer": start.layer}
    kept |= {"shapes": shapes_load_in(result.net.config, model.tokenizer)}
    under_way.finish(kept | _means(result.sites) | resumed)
    for part in (HIDDEN, STATE):
        under_way.drop(part)
    return result


def _edits_at(model: Model, sites: Iterable[SiteResult]) -> Edits:
    return edits_of(model.net, {(s.layer, s.site): s.cut for s in sites if s.changed})


def _means(sites: tuple[SiteResult, ...]) -> dict:
    """Mean errors over all sites, None where nothing was held out."""
    found = {}
    for name in ("error_none", "error_compensated", "error_none_held_out", "error_compensated_held_out"):
        values = [getattr(site, name) for site in sites]
        found[f"mean_{name}"] = sum(values) / len(values) if values and None not in values else None
    return found


def _checkpoint_of(store: Store, run_id: str) -> Checkpoint | None:
    """Where a run that ended early goes on; None: at the start."""
    parts = store.parts(run_id)
    if STATE in parts:
        with contextlib.suppress(RcpuError):
            stages = store.notes(run_id, STATE)["stages"]
            return Checkpoint(-1, stages, (), None, state=store.read(run_id, STATE))
    if HIDDEN not in parts:
        return None
    with contextlib.suppress(RcpuError):  # broken by a machine that lost its power: at the start, too
        at, states = store.notes(run_id, HIDDEN), store.read(run_id, HIDDEN)
        sites = tuple(site for site in sites_of(store, run_id, weights=True) if site.layer <= at["layer"])
        return Checkpoint(at["layer"], at["stages"], sites, states["hidden"], states.get("dense"))
    return None


def _differs(run: Run, model: Model, windows: Windows) -> str:
    """Why a run cannot be resumed with these."""
    began = f"the run {run.name} cannot be resumed: it began with"
    if model.fingerprint != run.fingerprint:
        return f"{began} another model ({run.fingerprint}, not {model.fingerprint}): load the one it began with"
    if (model.dtype, model.device.type) != (run.about["dtype"], run.about["device"].partition(":")[0]):
        return (
            f"{began} the model in {run.about['dtype']} on {run.about['device']}, and it is in {model.dtype} on "
            f"{model.device} now: load it as it was"
        )
    if windows.digest != run.about["windows"]:
        return f"{began} other windows: its text {run.about['text']} has changed since; prune again"
    return f"{began} another version of this code: prune again"
