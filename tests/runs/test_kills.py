"""The fault test of the store: a few of its kills, and that it would notice what is lost."""

import subprocess
import sys
from pathlib import Path

from rcpu import Perplexity, Recipe
from rcpu.runs import keep_perplexity, open_store, prune_into
from tests import tiny
from tests.killed import digest_of, model
from tests.kills import Told

ROOT = Path(__file__).parents[2]


def test_nothing_that_was_finished_is_lost_and_no_start_is_refused():
    command = [sys.executable, "-m", "tests.kills", "--kills", "8"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "8 kills: 0 finished results lost, 0 starts refused" in ended.stdout


def test_it_notices_what_is_lost(tmp_path):
    store, told = open_store(tmp_path / "home"), Told()
    runs = [prune_into(store, model(), tiny.calibration(), Recipe(ratio=0.2))[0] for _ in range(3)]
    keep_perplexity(store, runs[0].id, Perplexity(5.0, 15, 16, 1, "t", (), (), "w"), "fp32")
    for run in runs:
        told.hear(1, ("finished", run.id, digest_of(store, run.id)))
    told.hear(1, ("measured", runs[0].id, "w", 5.0))
    assert told.missing(store) == []
    part = store.folder_of(runs[1].id) / "layer-001.safetensors"
    part.unlink()
    store.measures.drop(store.measures.all(runs[0].id)[0])
    store.delete(runs[2].id)
    assert sorted(told.missing(store)) == sorted(
        [f"run {runs[1].id}", f"run {runs[2].id}", f"perplexity of {runs[0].id}"]
    )
    told.hear(1, ("deleting", runs[2].id))
    assert f"run {runs[2].id}" not in told.missing(store), "whoever deletes a run does not lose it"
