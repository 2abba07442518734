"""One of the processes that ``tests/kills.py`` kills: it prunes, measures, deletes, and tells what it has finished."""

from __future__ import annotations

import hashlib
import random
from multiprocessing.connection import Connection
from pathlib import Path

import scipy.stats  # noqa: F401 - here, once, and not in every process: it takes half a second
import torch

import rcpu
from rcpu import Recipe
from rcpu.runs import Store, dense_subject, keep_perplexity, load_result, open_store, prune_into, resume_into
from tests import tiny

UNFINISHED = ("failed", "cancelled", "interrupted")


def model() -> rcpu.Model:
    """Large enough that writing its edits takes time."""
    net = tiny.llama(hidden_size=128, intermediate_size=384, num_attention_heads=8, num_key_value_heads=8)
    return rcpu.Model("tiny", net, tiny.tokenizer(), Path("/nowhere"), "fingerprint-kills")


def digest_of(store: Store, run_id: str) -> str:
    """Of every tensor that a run has written."""
    found = hashlib.sha256()
    for part in (part for part in store.parts(run_id) if part != "hidden"):
        for name, tensor in sorted(store.read(run_id, part).items()):
            found.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def work(folder: Path, seed: int, told: Connection) -> None:
    """Prune, go on, measure, delete, until somebody ends it."""
    torch.set_num_threads(1)
    store, dense, windows, dice = open_store(folder), model(), tiny.calibration(), random.Random(seed)
    told.send(("started",))
    while True:
        runs = store.runs()
        done, early = [r for r in runs if r.state == "done"], [r for r in runs if r.state in UNFINISHED]
        if early and dice.random() < 0.4:
            told.send(("doing", "resuming"))
            run = dice.choice(early)
            try:
                run, _ = resume_into(store, run, dense, windows)
            except rcpu.RcpuError:  # the other process was faster
                continue
            told.send(("resumed", run.id, digest_of(store, run.id)))
        elif done and dice.random() < 0.4:
            told.send(("doing", "measuring"))
            run = dice.choice(done)
            subject = run.id if dice.random() < 0.8 else dense_subject(dense.fingerprint, "fp32")
            ids = tiny.ids(6, 16, seed=dice.randrange(10**6))
            try:
                found = rcpu.perplexity(load_result(store, run, dense).net, ids, text="random")
                keep_perplexity(store, subject, found, "fp32")
            except rcpu.RcpuError:  # deleted meanwhile
                continue
            told.send(("measured", subject, found.digest, found.perplexity))
        elif len(done) > 12 and dice.random() < 0.5:
            told.send(("doing", "deleting"))
            run = dice.choice(done)
            told.send(("deleting", run.id))
            try:
                store.delete(run.id)
            except rcpu.RcpuError:
                continue
            told.send(("deleted", run.id))
        else:
            told.send(("doing", "pruning and saving"))
            recipe = Recipe(ratio=dice.choice((0.1, 0.2, 0.3)), compensation=dice.choice(("rotation", "bias")))
            run, _ = prune_into(store, dense, windows, recipe, name=f"of {seed}")
            told.send(("finished", run.id, digest_of(store, run.id)))
