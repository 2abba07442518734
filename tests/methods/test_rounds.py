"""Methods that go round: their checkpoints, what their store keeps of them, and what a step of gates takes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import rcpu
import rcpu.runs.pruned as pruned
from rcpu.methods import flop
from rcpu.methods.walk import Walk
from rcpu.models.families import layers_of
from rcpu.runs import how_far, load_result, open_store, prune_into, resume_into
from tests import tiny

CASES = {
    "factors": {"method": "flop", "steps": 4, "form": "factors"},
    "inputs": {"method": "flop", "steps": 4, "exact": False},
    "draws": {"method": "mini-llm", "draws": 4},
}


def assert_same(a: rcpu.PruneResult, b: rcpu.PruneResult) -> None:
    """Not a bit differs in edits, findings or logits."""
    for ours, theirs in ((a.edits.to_tensors(), b.edits.to_tensors()), (a.found, b.found)):
        assert ours.keys() == theirs.keys()
        assert all(ours[name].equal(theirs[name]) for name in ours)
    assert tiny.logits(a.net).equal(tiny.logits(b.net))


def test_every_method_that_goes_round_is_here():
    assert {c["method"] for c in CASES.values()} == {name for name, m in rcpu.METHODS.items() if m.rounds}


@pytest.mark.parametrize("case", CASES)
def test_every_checkpoint_leads_to_the_same_result(case, gqa, windows):
    recipe, found = rcpu.Recipe(ratio=0.3, **CASES[case]), []
    keep = lambda c: found.append(replace(c, state={k: t.clone() for k, t in c.state.items()}))  # noqa: E731
    whole = rcpu.prune(gqa, windows, recipe, checkpoint=keep)
    assert [c.stages for c in found] == [1, 2, 3, 4]
    assert_same(rcpu.prune(gqa, windows, recipe), whole)
    for c in found:
        told = []
        again = rcpu.prune(gqa, windows, recipe, resume=c, progress=told.append)
        assert_same(again, whole)
        assert not any(p.message.startswith((f"step {c.stages},", f"draw {c.stages} ")) for p in told), "no round again"
        assert [p.fraction for p in told] == sorted(p.fraction for p in told)


#: Nothing asks after the last step of gates.
STOPS = [(case, rounds) for case in CASES for rounds in (0, 2, *([4] if case == "draws" else []))]


@pytest.mark.parametrize(("case", "rounds"), STOPS)
def test_a_run_that_was_cancelled_goes_on_to_the_same_bits(case, rounds, windows, tmp_path):
    model = rcpu.Model("tiny", tiny.net("gqa"), tiny.tokenizer(), Path("/nowhere"), "fingerprint-gqa")
    store, recipe, last = open_store(tmp_path / "home"), rcpu.Recipe(ratio=0.3, **CASES[case]), []
    ahead = (f"step {rounds + 1},", f"draw {rounds + 1} ") if rounds < 4 else ("layer 0: measuring", "done")
    stop = {
        "progress": lambda p: last.append(p.message),
        "cancelled": lambda: bool(last) and last[-1].startswith(ahead),
    }
    with pytest.raises(rcpu.Cancelled):
        prune_into(store, model, windows, recipe, **stop)
    (run,) = store.runs()
    assert run.state == "cancelled"
    assert how_far(store, run) == f"{rounds} of 4 {rcpu.METHODS[recipe.method].rounds}"
    assert store.parts(run.id) == ["state"] * bool(rounds)
    again, result = resume_into(store, run, model, windows)
    assert_same(result, rcpu.prune(model.net, windows, recipe))
    assert again.about.get("resumed_after_round") == (rounds or None)
    assert "state" not in store.parts(run.id)
    assert_same(load_result(store, again, model), result)


def test_rounds_are_written_while_all_goes_well_for_a_process_that_may_be_killed(windows, tmp_path, monkeypatch):
    monkeypatch.setattr(pruned, "EVERY", -1.0)
    model = rcpu.Model("tiny", tiny.net("gqa"), tiny.tokenizer(), Path("/nowhere"), "fingerprint-gqa")
    store, seen = open_store(tmp_path / "home"), []

    def look(p):
        if p.message.startswith("step "):
            (run,) = store.runs()
            seen.append(how_far(store, run))

    prune_into(store, model, windows, rcpu.Recipe(ratio=0.3, **CASES["inputs"]), progress=look)
    assert list(dict.fromkeys(seen)) == [f"{n} of 4 steps" for n in range(4)]


def test_a_state_that_cannot_be_read_starts_from_the_beginning(windows, tmp_path):
    model = rcpu.Model("tiny", tiny.net("gqa"), tiny.tokenizer(), Path("/nowhere"), "fingerprint-gqa")
    store, recipe, last = open_store(tmp_path / "home"), rcpu.Recipe(ratio=0.3, **CASES["draws"]), [""]
    with pytest.raises(rcpu.Cancelled):
        prune_into(
            store,
            model,
            windows,
            recipe,
            progress=lambda p: last.append(p.message),
            cancelled=lambda: last[-1].startswith("draw 3"),
        )
    (run,) = store.runs()
    path = store.folder_of(run.id) / "state.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    again, result = resume_into(store, run, model, windows)
    assert "resumed_after_round" not in again.about
    assert_same(result, rcpu.prune(model.net, windows, recipe))


@pytest.mark.parametrize("kind", ["mha", "gqa"])
@pytest.mark.parametrize("form", flop.FORMS)
def test_memory_of_gradients_is_what_autograd_keeps(kind, form):
    net, windows = tiny.net(kind), tiny.calibration(8, 0, 64)
    options = flop.FlopOptions(form=form)
    with torch.no_grad():
        walk = Walk(net, windows, passes=1, progress=lambda p: None, cancelled=lambda: False)
        gates = flop._gates(net, walk, options)
    z = [torch.ones(len(g.alpha), requires_grad=True) for g in gates]
    entering = walk.hidden.clone().requires_grad_()  # counted with the inputs of all layers
    there = [*net.parameters(), entering, *(t for g in gates for t in (g.left, g.right) if t is not None)]
    own = {t.untyped_storage().data_ptr() for t in there}
    one = flop._switched(layers_of(net)[0], [(g, v) for g, v in zip(gates, z, strict=True) if g.layer == 0])
    layer = kept(own, lambda: one(entering, **walk.attention))
    whole = kept(own, lambda: flop._loss(net, walk, windows.calibration, walk.hidden.clone(), gates, z, 0))
    assert flop.kept_bytes(net, form, 8 * 64) == pytest.approx(layer + whole, rel=0.03)


def kept(own: set[int], forward) -> int:
    """Bytes of all that a forward keeps for its backward, each memory once, those that were there before left out."""
    found = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        memory = t.untyped_storage()
        if memory.data_ptr() not in own:
            found[memory.data_ptr()] = memory.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        made = forward()
    assert made.requires_grad
    return sum(found.values())


def test_seconds_and_memory_are_told_before_and_after(gqa, windows):
    recipe = rcpu.Recipe(method="flop", form="factors", ratio=0.3, steps=3, batch=4, samples=8, window=16)
    (before,) = rcpu.plan(gqa, recipe).notes
    mib = f"about {flop.kept_bytes(gqa, 'factors', 4 * 16) / 2**20:,.0f} MiB"
    assert before.startswith("3 steps, each a forward pass of 4 windows")
    assert mib in before
    (after, *_) = rcpu.prune(gqa, windows, recipe).notes
    assert "s each" in after
    assert mib in after
