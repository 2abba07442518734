"""Pruning computes in full fp32, and leaves the caller's choice as it was."""

import pytest
import torch

import rcpu
from rcpu.methods.scoring import SCORERS
from rcpu.methods.units import channel_units
from rcpu.models.families import Heads
from rcpu.pruning.site import Measured, Solving
from rcpu.statistics.precision import full_fp32
from rcpu.statistics.sums import Accumulator


@pytest.fixture(autouse=True)
def _restore():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision("highest")  # also where the newer settings were mixed with it
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("choice", ["highest", "high", "medium"])
def test_choice_is_suspended_and_restored(choice):
    torch.set_float32_matmul_precision(choice)
    with full_fp32():
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == choice
    with pytest.raises(KeyError), full_fp32():
        raise KeyError
    assert torch.get_float32_matmul_precision() == choice


def test_prune_is_not_affected_by_the_callers_choice(mha, windows):
    expected = rcpu.prune(mha, windows, rcpu.Recipe())
    torch.set_float32_matmul_precision("medium")
    seen = set()
    found = rcpu.prune(mha, windows, rcpu.Recipe(), progress=lambda _: seen.add(torch.get_float32_matmul_precision()))
    assert seen == {"highest"}
    assert torch.get_float32_matmul_precision() == "medium"
    assert all(a.weight.equal(b.weight) for a, b in zip(found.sites, expected.sites, strict=True))


def test_the_newer_setting_of_torch_does_not_disturb():
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    with full_fp32():
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"


def test_a_site_alone_is_solved_in_full_too(monkeypatch):
    seen = []
    monkeypatch.setitem(
        SCORERS,
        "random",
        lambda *_, **__: seen.append(torch.get_float32_matmul_precision()) or torch.arange(3).double(),
    )
    accumulator = Accumulator(3)
    accumulator.add(torch.eye(3))
    torch.set_float32_matmul_precision("medium")
    config = rcpu.Recipe(scorer="random", ratio=0.4)
    found = Solving(
        torch.ones(2, 3),
        Measured(accumulator.result()),
        channel_units(3),
        config,
        1,
        layer=0,
        site="down_proj",
        unit="channel",
        heads=Heads(1, 1, 3),
    ).finish()
    assert seen == ["highest"]
    assert found.columns.tolist() == [1, 2]
