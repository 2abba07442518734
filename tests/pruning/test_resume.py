"""A run that goes on from a checkpoint ends as if it had never stopped, to the last bit."""

from dataclasses import fields, replace

import pytest
import torch

import rcpu
from tests import tiny

OURS = {
    "scorer": "greedy",
    "unit": "subspace",
    "compensation": "least_squares",
    "centred": True,
    "target": 0.25,
    "allocation": "prices",
    "metric": True,
}
CASES = {
    "paper": ("gqa", {}),
    "site": ("gqa", {"order": "site"}),
    "one site": ("mha", {"order": "site", "sites": ("o_proj",)}),
    "summed directly": ("biased", {"compensation": "rotation_scale", "scorer": "flap"}),
    "least squares": ("tied", {"compensation": "least_squares", "ridge": None}),
    "bias": ("biased", {"compensation": "bias", "order": "site"}),
    "dense path": ("gqa", {"compensation": "bias", "scorer": "wifv", "path": "dense"}),
    "prices and a target": ("gqa", {**OURS, "order": "site"}),
    "a step before": ("gqa", {**OURS, "order": "site", "step": 0.01, "ratio": 0.05}),
    "some layers": ("mha", {"layers": (0, 2)}),
    "a layer that keeps all": ("mha", {"ratios": ((1, 0.0),)}),
}


def assert_same(a: rcpu.PruneResult, b: rcpu.PruneResult) -> None:
    """Not a bit differs in edits, findings or logits."""
    ours, theirs = a.edits.to_tensors(), b.edits.to_tensors()
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    assert len(a.sites) == len(b.sites)
    for x, y in zip(a.sites, b.sites, strict=True):
        for field in (f for f in fields(x) if f.name != "before"):  # the dense model's, which nobody keeps twice
            mine, other = getattr(x, field.name), getattr(y, field.name)
            if isinstance(mine, torch.Tensor):
                assert mine.equal(other), f"layer {x.layer}, {x.site}: {field.name}"
            else:
                assert mine == other, f"layer {x.layer}, {x.site}: {field.name}"
    assert tiny.logits(a.net).equal(tiny.logits(b.net))


@pytest.mark.parametrize("case", CASES)
def test_every_checkpoint_leads_to_the_same_result(case, windows):
    kind, settings = CASES[case]
    net, recipe = tiny.net(kind), rcpu.Recipe(**{"ratio": 0.3, **settings})
    found: list[rcpu.Checkpoint] = []

    def keep(c: rcpu.Checkpoint) -> None:
        copies = {n: None if (t := getattr(c, n)) is None else t.clone() for n in ("hidden", "dense")}
        found.append(replace(c, **copies))

    whole = rcpu.prune(net, windows, recipe, checkpoint=keep, micro_batch=3)
    assert [c.layer for c in found] == list(recipe.layers or range(3))
    assert found[-1].hidden is None, "nobody reads what comes out of the last layer"
    assert all(c.hidden is not None for c in found[:-1])
    for c in found:
        fractions: list[float] = []
        again = rcpu.prune(
            net, windows, recipe, resume=c, micro_batch=3, progress=lambda p, f=fractions: f.append(p.fraction)
        )
        assert_same(again, whole)
        assert fractions == sorted(fractions)
        if recipe.allocation == "uniform":
            assert all(f >= c.stages / found[-1].stages - 1e-9 for f in fractions), (
                "it goes on, it does not start again"
            )


def test_checkpoints_change_nothing(gqa, windows):
    recipe = rcpu.Recipe(ratio=0.3)
    assert_same(rcpu.prune(gqa, windows, recipe), rcpu.prune(gqa, windows, recipe, checkpoint=lambda c: None))
