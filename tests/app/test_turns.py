"""Angles of a run's rotations, for whoever looks."""

from dataclasses import replace

import pytest

import rcpu
from app import turns
from app.turns import turned
from tests import tiny


def test_angles_are_of_the_weight_that_was_turned(monkeypatch):
    """After a step along the gradient that is in memory while a run goes on, and not with the dense model later."""
    monkeypatch.setattr(turns, "store_of", lambda _: pytest.fail("angles with the dense weight"))
    site = rcpu.prune(tiny.net("gqa"), tiny.calibration(), rcpu.Recipe(ratio=0.3, step=0.01)).sites[1]
    assert turned("a run", site) is site
    assert len(site.angles) == len(site.weight)
    assert turned("a run", replace(site, before=None)) is None
