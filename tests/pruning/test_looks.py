"""Runs that share a look at the dense model: the same results to the last bit, and the look is taken once."""

from dataclasses import replace

import pytest
import torch

import rcpu
from rcpu.base.errors import Cancelled
from rcpu.pruning import survey
from rcpu.pruning.survey import Looks, looked_at
from tests import tiny
from tests.pruning.test_together import OURS

FLAP = {"scorer": "wifv", "compensation": "bias", "allocation": "flap", "path": "dense"}
INFLUENCE = {"allocation": "influence", "compensation": "rotation"}
BASES = {
    "ours": OURS,
    "prices alone": {**OURS, "gradients": False, "metric": False},
    "flap": FLAP,
    "by influence": INFLUENCE,
}
#: What is changed of a recipe, one thing at a time, where the recipe can have it.
CHANGES = [
    {"ratio": 0.5},
    {"samples": 4},
    {"held_out": 0},
    {"seed": 1},
    {"sites": ("down_proj",)},
    {"layers": (0, 2)},
    {"scorer": "obs"},
    {"scorer": "random"},
    {"scorer": "wifn"},
    {"compensation": "bias"},
    {"compensation": "bias", "centred": False},
    {"compensation": "none", "target": 0.0},
    {"compensation": "least_squares"},
    {"compensation": "rotation"},
    {"repaired": "o_proj"},
    {"unit": "channel"},
    {"unit": "kv_group"},
    {"order": "paper"},
    {"path": "dense", "target": 0.0},
    {"allocation": "uniform"},
    {"allocation": "prices"},
    {"allocation": "influence"},
    {"allocation": "flap"},
    {"allocation": "flap_heads", "heads_removed": 1, "unit": "kv_group"},
    {"centred": False},
    {"target": 0.5},
    {"metric": False},
    {"metric": True},
    {"gradient_windows": 2},
    {"step": 0.01},
    {"careful": True},
    {"damping": 0.5},
    {"block": 1},
    {"ridge": 3.0},
    {"ridge": None},
    {"pull": "zero"},
    {"temperature": 1.0},
    {"gradients": True},
    {"gradients": False},
    {"share": 0.5},
]


def recipe_of(settings: dict) -> rcpu.Recipe:
    return rcpu.Recipe(**{"ratio": 0.3, "samples": 8, "held_out": 4, "window": 16, **settings})


def windows_of(recipe: rcpu.Recipe) -> rcpu.Windows:
    drawn = tiny.calibration(recipe.samples, recipe.held_out)
    return drawn if not recipe.seed else replace(drawn, calibration=tiny.ids(recipe.samples, 16, seed=9))


def assert_equal(a: rcpu.PruneResult, b: rcpu.PruneResult) -> None:
    ours, theirs = a.edits.to_tensors(), b.edits.to_tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert a.notes == b.notes
    assert a.found.keys() == b.found.keys()
    assert all(torch.equal(a.found[name], b.found[name]) for name in a.found)


@pytest.mark.parametrize("base", BASES)
def test_whatever_differs_a_shared_look_changes_no_bit(base):
    net, first = tiny.net("gqa"), recipe_of(BASES[base])
    shared, tried = 0, 0
    for change in CHANGES:
        try:
            recipe = recipe_of({**BASES[base], **change})
            alone = rcpu.prune(net, windows_of(recipe), recipe)
        except rcpu.RcpuError:  # settings that do not combine
            continue
        looks = Looks()
        rcpu.prune(net, windows_of(first), first, looks=looks)
        kept = looks._last[1]
        assert_equal(rcpu.prune(net, windows_of(recipe), recipe, looks=looks), alone)
        shared, tried = shared + (kept is looks._last[1] and looked_at(recipe) is not None), tried + 1
    assert tried > 20
    assert shared >= 5, "some of them do share"


@pytest.mark.parametrize("base", BASES)
def test_ratios_share_one_look_and_windows_do_not(base, monkeypatch):
    taken, plain = [], survey._look
    monkeypatch.setattr(survey, "_look", lambda *a: taken.append(a) or plain(*a))
    net, looks, told = tiny.net("gqa"), Looks(), []
    for ratio in (0.1, 0.3, 0.5):
        recipe = recipe_of({**BASES[base], "ratio": ratio})
        rcpu.prune(net, windows_of(recipe), recipe, looks=looks, progress=lambda p: told.append(p.fraction))
        assert told == sorted(told), "progress runs from nothing to all with and without a look"
        assert told[-1] == pytest.approx(1.0)
        told.clear()
    assert len(taken) == 1
    for changed in (replace(recipe, samples=6), replace(recipe, seed=1)):
        rcpu.prune(net, windows_of(changed), changed, looks=looks)
    other = tiny.llama(seed=5, **tiny.KINDS["gqa"])
    rcpu.prune(other, windows_of(changed), changed, looks=looks)
    assert len(taken) == 4


def test_a_look_that_was_cancelled_is_not_kept():
    net, recipe, looks = tiny.net("gqa"), recipe_of(FLAP), Looks()
    steps = []
    with pytest.raises(Cancelled):
        rcpu.prune(
            net, windows_of(recipe), recipe, looks=looks, progress=steps.append, cancelled=lambda: len(steps) > 1
        )
    assert looks._last[1] is None
    assert_equal(rcpu.prune(net, windows_of(recipe), recipe, looks=looks), rcpu.prune(net, windows_of(recipe), recipe))
