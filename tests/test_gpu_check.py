"""The GPU check itself, on the CPU: every part runs, a broken law is told, and no GPU is said."""

import pytest
import torch
from rich.console import Console

import rcpu
from tests import gpu_check

CPU = torch.device("cpu")


def test_laws_hold(monkeypatch):
    monkeypatch.setattr(gpu_check.tiny, "KINDS", {"gqa": gpu_check.tiny.KINDS["gqa"]})
    assert gpu_check.laws(CPU) == len(rcpu.COMPENSATORS)


def test_a_broken_law_is_told(monkeypatch):
    monkeypatch.setattr(gpu_check, "polar_factor", lambda m: 2 * torch.eye(len(m)))
    monkeypatch.setattr(gpu_check.tiny, "KINDS", {"mha": {}})
    with pytest.raises(gpu_check.Failed, match="QᵀQ = I"):
        gpu_check.laws(CPU)


def test_a_layer_is_timed_step_by_step(monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "SHAPES", {"LLaMA-7B": (64, 160, 4)})
    found = gpu_check.layer(CPU, "LLaMA-7B", torch.bfloat16, windows=4, tokens=16)
    assert set(found.seconds) == {
        "forward",
        "statistics of down_proj",
        "polar factor by products",
        "svd",
        "eigh",
        "cholesky",
        "whole prune",
    }
    assert all(0 < s < 5 for s in found.seconds.values())
    gpu_check.tables(Console(width=120), [("fp32", 12.345, 23.456, 7.0)], [found])
    told = capsys.readouterr().out
    assert "12.35" in told
    assert "0.5" in told


def test_no_gpu_is_said(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main() == 0
    assert capsys.readouterr().out == "no CUDA device here: nothing was checked\n"
