"""Paths of removal against the plain formulas, one count at a time."""

import pytest
import torch

from rcpu.explain.paths import paths, plain_path, refit_path, value_spectra
from rcpu.explain.whatif import Projection
from rcpu.methods.obs import damped
from rcpu.methods.units import units_of
from rcpu.models.families import Heads, heads_of, site_named, weight_of
from rcpu.statistics.kept import collect


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 200, generator=generator) * torch.linspace(0.2, 2, 12)[:, None]
    x[3] += 0.8 * x[7]
    return torch.randn(5, 12, generator=generator).double(), (x @ x.mT).double()


def squared(w, h, kept, v):
    e = w.clone()
    e[:, kept] -= v
    return (torch.trace(e @ h @ e.mT) / torch.trace(w @ h @ w.mT)).item()


def test_one_factor_serves_every_count(problem):
    w, gram = problem
    h, order = damped(gram, 0.01), torch.randperm(12, generator=torch.Generator().manual_seed(1))
    refitted, plain = refit_path(w, h, order), plain_path(w, h, order)
    for k in range(13):
        kept = order[:k]
        best = w @ h[:, kept] @ torch.linalg.inv(h[kept][:, kept]) if k else w[:, :0]
        assert refitted[k].item() == pytest.approx(squared(w, h, kept, best), abs=1e-9)
        assert plain[k].item() == pytest.approx(squared(w, h, kept, w[:, kept]), abs=1e-9)
    assert refitted[0].item() == pytest.approx(1) == plain[0].item()


@pytest.mark.parametrize("site", ["o_proj", "down_proj"])
def test_paths_of_a_model(model, windows, site, tmp_path, monkeypatch):
    monkeypatch.setenv("RCPU_CACHE", str(tmp_path))
    found = collect(model, windows)
    asked = Projection(weight_of(model.net, 1, site), found.get(1, site), layer=1, site=site)
    layout = units_of(model.net, site_named(model.net, site), "channel")
    seen = paths(asked, layout, asked.scores("rcpu"))
    assert seen.greedy[0].item() == pytest.approx(0, abs=1e-3)
    assert (seen.greedy.diff() >= -1e-6).all()
    assert (seen.scored <= seen.plain + 1e-6).all()
    assert seen.greedy[1] <= seen.scored[1] + 1e-6
    assert seen.greedy[1].item() == pytest.approx(seen.one_shot[1].item(), abs=1e-6), "the first to go is the same"
    assert len(seen.order) == (len(seen.greedy) - 1) * layout.shape[0]


def test_the_best_directions_carry_more_than_the_best_channels(model, windows, tmp_path, monkeypatch):
    monkeypatch.setenv("RCPU_CACHE", str(tmp_path))
    data = collect(model, windows, sites=("o_proj",)).get(0, "o_proj")
    heads = heads_of(model.net)
    found = value_spectra(weight_of(model.net, 0, "o_proj"), data.calibration.gram, heads)
    assert len(found) == heads.kv
    for spectrum in found:
        assert spectrum.subspace[0] == spectrum.channels[0] == 0
        assert spectrum.subspace[-1].item() == pytest.approx(1)
        assert spectrum.channels[-1].item() == pytest.approx(1)
        assert (spectrum.subspace >= spectrum.channels - 1e-9).all()


def test_one_head_alone_is_reduced_rank_regression(problem):
    w, gram = problem
    (found,) = value_spectra(w, gram, Heads(1, 1, 12), ridge=0.0)
    s = torch.linalg.svdvals(w @ torch.linalg.cholesky(gram))
    assert found.subspace[2].item() == pytest.approx((s[:2] ** 2).sum().item() / (s**2).sum().item())
