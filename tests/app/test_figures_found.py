"""Figures of what whole methods find: every one that a run gives is drawn, and an unknown one plainly."""

import pytest
import torch

import rcpu
from app.figures.found import LOOKS, looks
from tests import tiny

WHOLE = [name for name, method in rcpu.METHODS.items() if method.run is not None]


@pytest.mark.parametrize("method", WHOLE)
def test_what_a_run_finds_is_drawn(method, gqa):
    result = rcpu.prune(gqa, tiny.calibration(samples=6), rcpu.Recipe(method, ratio=0.3))
    drawn = looks(method, result.found)
    assert drawn
    assert method in LOOKS, "a method without figures of its own"
    for _, figure, words in drawn:
        assert figure.data
        assert figure.layout.meta["alt"]
        assert words


def test_what_nobody_drew_for_is_drawn_plainly():
    found = {"loss_curve": torch.rand(5), "gates": torch.rand(3, 4)}
    assert [name for name, _, _ in looks("new method", found)] == list(found)
    kinds = [figure.data[0].type for _, figure, _ in looks("new method", found)]
    assert kinds == ["scatter", "heatmap"]


def test_gates_learn_towards_the_share_that_was_asked_for():
    found = {"curves": torch.rand(5, 4), "closed": torch.rand(3, 7), "shift": torch.zeros(())}
    (_, old, _), _ = looks("flop", found)
    (_, figure, _), _ = looks("flop", found | {"asked": torch.tensor(0.25)})
    assert [t.name for t in figure.data] == [*(t.name for t in old.data), "share asked for"]
    line = figure.data[-1]
    assert (list(line.x), list(line.y), line.yaxis) == ([0, 4], [0.25, 0.25], "y2")
