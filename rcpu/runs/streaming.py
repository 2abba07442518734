"""Pruning and measuring a model that is never in memory whole: layer after layer is read, pruned, written, let go.

Evaluation windows travel along, once through the dense layers and once through the pruned ones. Beside one layer and
its statistics only hidden states are held. A folder beside the target keeps what is done, a layer at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rcpu.base.errors import RcpuError
from rcpu.compact import assembly as compact
from rcpu.measure.perplexity import Perplexity, perplexity
from rcpu.models.devices import free_memory
from rcpu.models.families import architecture_of, embed, run_block
from rcpu.models.limits import check_ids, check_window
from rcpu.models.shards import LAYERS, Shards, ShardWriter
from rcpu.pruning.loop import stages_of
from rcpu.pruning.plan import LOOKING, plan
from rcpu.pruning.recipe import Recipe
from rcpu.pruning.walk import BATCH_BYTES, Walk, return_freed_memory, threads_set_back
from rcpu.runs.split import Alone, Split, SplitWalk
from rcpu.statistics.passes import Progress
from rcpu.statistics.precision import full_fp32
from rcpu.text.windows import Windows

STATE, STATES, PART = "stream.json", "states", ".part"
SHARE_ON_DEVICE = 0.1  # of a device's free memory, that hidden states may take there


@dataclass(frozen=True, eq=False)
class Streamed:
    """What a sweep through the layers found; its weights lie in ``folder``, an export but for what names them."""

    folder: Path
    config: object  # of the compact model
    sites: tuple[dict, ...]  # summaries
    dense: Perplexity | None
    pruned: Perplexity | None
    seconds: tuple[float, ...]  # of each layer that this process did
    notes: tuple[str, ...]


@dataclass
class _States:
    """Hidden states of the evaluation windows, dense and pruned, where there is room for them."""

    ids: Tensor
    attention: Mapping
    device: torch.device
    dense: Tensor
    pruned: Tensor
    batch: int = field(default=1)

    def advance(self, layer: nn.Module, repaired: Mapping[str, nn.Module], sites) -> None:
        """Both through one layer, a batch at a time on the device."""
        for start in range(0, len(self.ids), self.batch):
            part = slice(start, start + self.batch)
            for states, blocks in ((self.dense, {}), (self.pruned, repaired)):
                h = states[part].to(self.device)
                for site in sites:
                    block = blocks.get(site.name, layer.get_submodule(site.block))
                    h = h + run_block(block, layer.get_submodule(site.norm), site, h, self.attention)
                states[part] = h.to(states.device)


def check_streamed(net: nn.Module, recipe: Recipe) -> None:
    """Raise ``RcpuError`` for a recipe that has to see more than one layer at a time."""
    why = ""
    if recipe.whole:
        why = f"method {recipe.method!r} works on the whole model"
    elif recipe.allocation in LOOKING:
        why = f"allocation {recipe.allocation!r} looks at the whole model first"
    elif recipe.metric or recipe.step or recipe.target or recipe.path != "pruned":
        why = "a metric of gradients, a step along them, a target and the dense path need states of the dense model"
    if why:
        raise RcpuError(f"this recipe cannot be streamed: {why}; choose method 'columns' with allocation 'uniform'")
    plan(net, recipe)


@torch.no_grad()
@full_fp32()
@threads_set_back()
def stream(
    shards: Shards,
    windows: Windows,
    recipe: Recipe,
    target: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    storage: torch.dtype,
    evaluation: Tensor | None = None,  # (windows, window) token ids
    text: str = "",
    resume: bool = False,
    on_disk: bool = False,
    away: bool | None = None,
    split: Split | Alone | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    batch_bytes: int = BATCH_BYTES,
) -> Streamed:
    """Prune the model of ``shards`` as :func:`rcpu.prune` would, and write its layers to ``target``'s part folder.

    ``resume`` goes on after the last layer that is there. ``on_disk`` keeps hidden states in mapped files, ``away`` in
    the machine's memory and not on the device; unless it is said, those that would take a tenth of the device's.
    ``split`` shares the windows with other processes.

    Raises:
        RcpuError: a recipe that needs the whole model, broken files, or a part folder of another run.
        Cancelled: ``cancelled()`` was true; what is done stays, for ``resume``.
    """
    split = split or Alone()
    part = target.with_name(target.name + PART)
    net = shards.skeleton(device, dtype)
    check_streamed(net, recipe)
    todo, sites = plan(net, recipe), architecture_of(net).sites
    stages = stages_of(net, recipe, todo)
    mine = Windows(*map(split.share, (windows.calibration, windows.held_out)), windows.text)
    seconds: list[float] = []

    def told(p: Progress) -> None:
        left = f" · {_time(seconds[-1] * (shards.count - begin - len(seconds)))} left" if seconds else ""
        progress(Progress(p.fraction, p.message + left, p.site))

    options = {"micro_batch": None, "passes": 2 * len(stages), "progress": told, "cancelled": cancelled}
    if isinstance(split, Alone):
        walk = Walk(net, recipe, mine, batch_bytes=batch_bytes, **options)
    else:
        walk = SplitWalk(split, net, recipe, mine, batch_bytes=0, **options)
    asked = _digest(shards, recipe, windows, evaluation, dtype, storage, split.size)
    begin, summaries, kept = _begin(part, asked, resume, split)
    if away is None:
        away = device.type != "cpu" and (on_disk or walk.hidden.nbytes > SHARE_ON_DEVICE * free_memory(device))
    walk.away, walk.hidden = away, walk.hidden.cpu() if away else walk.hidden
    if on_disk:
        walk.hidden = _room(part / "hidden.bin", walk.hidden)
    states = None if evaluation is None else _states(net, split.share(evaluation), part if on_disk else None)
    assembly = compact.Assembly(net)
    if begin:
        _restore(part, begin, split, walk, states)
        for name, sizes in kept.items():
            setattr(assembly.config, name, sizes)
        walk.fraction = sum(stage.index < begin for stage in stages) / len(stages)
    writer = ShardWriter(part, storage)
    if split.first and not begin:
        outside = {k: v for k, v in net.state_dict().items() if not k.startswith(LAYERS)}
        if net.config.tie_word_embeddings:
            outside.pop("lm_head.weight")
        writer.write("model-outside", outside, _save)
    for index in range(begin, shards.count):
        started = time.perf_counter()
        shards.read(net, index)
        layer, repaired = net.model.layers[index], {}
        for stage in (stage for stage in stages if stage.index == index):
            solved = walk.solve(stage, todo, {})
            for site in stage.sites:
                if site in stage.live:
                    summaries.append((result := next(solved)).summary())
                    walk.step(f"layer {index}: {site.name} solved", 0, result)
                    if result.changed:
                        repaired[site.name] = assembly.add(index, site, result.cut)
                if stage is not stages[-1]:  # nobody reads what comes after that
                    walk.advance(stage, site, repaired.get(site.name))
            stage.inputs.clear()
            stage.outputs.clear()
        if states is not None:
            states.advance(layer, repaired, sites)
        if split.first:
            whole = {f"{LAYERS}{index}.{k}": v for k, v in _layer_state(layer, repaired, sites).items()}
            writer.write(f"model-layer-{index:04}", whole, _save)
            del whole  # or the next layer would come beside it, and so with the last result
        result = solved = None
        assembly.blocks.clear()
        assembly.cuts.clear()
        repaired.clear()
        shards.let_go(net, index)
        return_freed_memory()
        _keep(part, index + 1, split, walk, states, asked, summaries, assembly.config)
        seconds.append(time.perf_counter() - started)
    found = (
        (None, None) if states is None else tuple(_measured(net, states, w, text, split) for w in ("dense", "pruned"))
    )
    if split.first:
        writer.index()
    return Streamed(part, assembly.config, tuple(summaries), *found, tuple(seconds), todo.notes)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path, metadata={"format": "pt"})


def _layer_state(layer: nn.Module, repaired: Mapping[str, nn.Module], sites) -> dict[str, Tensor]:
    blocks = {site.block: repaired[site.name] for site in sites if site.name in repaired}
    return {f"{n}.{k}": v for n, child in layer.named_children() for k, v in blocks.get(n, child).state_dict().items()}


def _states(net: nn.Module, ids: Tensor, folder: Path | None) -> _States:
    check_window(net, ids.shape[1])
    check_ids(net, ids)
    device = net.model.embed_tokens.weight.device
    entered = embed(net, ids.to(device))
    rooms = [entered.hidden.cpu(), entered.hidden.cpu().clone()]
    if folder:
        rooms = [_room(folder / f"{name}.bin", x) for name, x in zip(("dense", "pruned"), rooms, strict=True)]
    batch = max(1, (1024 if device.type == "cpu" else 8192) // ids.shape[1])
    return _States(ids, entered.attention, device, *rooms, batch=batch)


def _room(path: Path, values: Tensor) -> Tensor:
    """These values, which are on the CPU, in a file that is mapped into memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    room = torch.from_file(str(path), shared=True, size=values.numel(), dtype=values.dtype).view(values.shape)
    return room.copy_(values)


def _measured(net: nn.Module, states: _States, which: str, text: str, split: Split | Alone) -> Perplexity:
    """Perplexity from the states that left the last layer, as of any model; of all processes' windows together."""
    hidden, done = getattr(states, which), 0

    def end(input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        nonlocal done
        part = hidden[done : done + len(input_ids)].to(states.device)
        done += len(input_ids)
        return SimpleNamespace(last_hidden_state=net.model.norm(part))

    arrived = SimpleNamespace(model=end, lm_head=net.lm_head, device=states.device, config=net.config)
    return split.joined(perplexity(arrived, states.ids, text=text))


def _digest(shards, recipe, windows, evaluation, dtype, storage, size) -> str:
    said = [shards.digest, recipe.digest, windows.digest, str(dtype), str(storage), str(size)]
    said.append("" if evaluation is None else hashlib.sha256(evaluation.numpy().tobytes()).hexdigest())
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]


def _begin(part: Path, asked: str, resume: bool, split: Split | Alone) -> tuple[int, list[dict], dict]:
    """How many layers are done, what was found in them, and their sizes."""
    known = None
    if (part / STATE).is_file():
        known = json.loads((part / STATE).read_text(encoding="utf-8"))
    foreign = known is None and part.exists() and any(part.iterdir())
    split.wait()  # all look before the first one writes
    if resume and known is not None:
        if known["asked"] != asked:
            raise RcpuError(
                f"{part} was begun with another model, recipe, text or precision: delete it, or choose another name"
            )
        return known["done"], known["sites"], known["sizes"]
    if foreign:
        raise RcpuError(f"{part} holds something else than a run that was begun: move it elsewhere")
    if split.first:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        (part / STATE).write_text(json.dumps({"asked": asked, "done": 0, "sites": [], "sizes": {}}), encoding="utf-8")
    split.wait()
    return 0, [], {}


def _keep(part: Path, done: int, split, walk, states, asked: str, summaries: list[dict], config) -> None:
    """After a layer: the states first, then what says that they are there."""
    held = {"hidden": walk.hidden}
    if states is not None:
        held |= {"dense": states.dense, "pruned": states.pruned}
    path = part / f"{STATES}-{split.rank}-{done:04}"
    _save({k: t.cpu().contiguous() for k, t in held.items()}, path.with_name("new-" + path.name))
    path.with_name("new-" + path.name).replace(path)
    split.wait()
    if split.first:
        sizes = {
            k: v for k, v in config.to_dict().items() if isinstance(v, list) and len(v) == config.num_hidden_layers
        }
        told = {"asked": asked, "done": done, "sites": summaries, "sizes": sizes}
        (part / "new.json").write_text(json.dumps(told), encoding="utf-8")
        (part / "new.json").replace(part / STATE)
    split.wait()
    (part / f"{STATES}-{split.rank}-{done - 1:04}").unlink(missing_ok=True)


def _restore(part: Path, done: int, split, walk, states) -> None:
    held = load_file(part / f"{STATES}-{split.rank}-{done:04}")
    walk.hidden.copy_(held["hidden"])
    if states is not None:
        states.dense.copy_(held["dense"])
        states.pruned.copy_(held["pruned"])


def move_weights(part: Path, new: Path) -> None:
    """Put the written weights into a folder as well: by links where the disk knows them."""
    for path in (*part.glob("model-*.safetensors"), part / "model.safetensors.index.json"):
        try:
            os.link(path, new / path.name)
        except OSError:
            shutil.copy(path, new / path.name)
