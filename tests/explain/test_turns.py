"""The path from Z to QZ against powers of Q made by scipy, and what it is seen by."""

import pytest
import scipy.linalg
import torch

from rcpu.explain import turns, whatif
from rcpu.models.families import ARCHITECTURE, consumer_of, layers_of
from rcpu.statistics.kept import collect
from tests import tiny

SITES = {s.name: s for s in ARCHITECTURE.sites}
KEPT = {"o_proj": 37, "down_proj": 61}


@pytest.fixture(scope="module")
def collected(model, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RCPU_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield collect(model, tiny.calibration())


def projection(model, collected, site: str, layer: int = 1) -> whatif.Projection:
    weight = consumer_of(layers_of(model.net)[layer], SITES[site]).weight
    return whatif.Projection(weight, collected.get(layer, site), layer=layer, site=site)


@pytest.mark.parametrize("site", KEPT)
def test_directions_are_the_main_ones_of_the_outputs(model, collected, site):
    asked = projection(model, collected, site)
    seen = turns.directions(asked)
    weight = asked.weight.double()
    energies, vectors = torch.linalg.eigh(weight @ asked.x.gram.double() @ weight.T)
    torch.testing.assert_close(seen.vectors.T @ seen.vectors, torch.eye(3, dtype=torch.float64))
    assert seen.shares == pytest.approx((energies.flip(0)[:3] / energies.sum()).tolist(), rel=1e-4)
    assert (seen.vectors * vectors.flip(1)[:, :3]).sum(0).abs().tolist() == pytest.approx([1, 1, 1], abs=1e-4)
    assert (seen.vectors.amax(0) == seen.vectors.abs().amax(0)).all(), "the largest entry is positive"
    assert turns.directions(asked) is seen


def test_drawn_tokens_are_spread_over_the_sample(model, collected, monkeypatch):
    monkeypatch.setattr(turns, "POINTS", 10)
    asked = projection(model, collected, "o_proj")
    seen = turns.directions(asked)
    flat = asked.sample.flatten(0, 1)
    assert seen.tokens[0] == 0
    assert seen.tokens[-1] == len(flat) - 1
    assert len(seen.tokens.unique()) == 10
    expected = flat[seen.tokens].double() @ asked.weight.double().T @ seen.vectors
    torch.testing.assert_close(seen.y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("site", KEPT)
@pytest.mark.parametrize("t", [0.0, 0.35, 1.0])
def test_path_and_its_error_are_those_of_the_matrix_power(model, collected, site, t):
    asked = projection(model, collected, site)
    columns = torch.arange(KEPT[site])
    path = turns.turning(asked, columns, proper=True)
    assert path.rotation.determinant == 1
    q = path.rotation.q
    power = torch.eye(len(q)).double()
    if t:
        power = torch.from_numpy(scipy.linalg.fractional_matrix_power(q.numpy(), t).real)
    kept = asked.weight[:, columns].double()
    z = asked.sample.flatten(0, 1)[path.directions.tokens][:, columns].double() @ kept.T
    torch.testing.assert_close(path.at(t), z @ power.T @ path.directions.vectors, rtol=1e-4, atol=1e-4)
    new = asked.weight.double().clone()
    new[:, columns] -= power @ kept
    gram = asked.x.gram.double()
    squared = ((new @ gram) * new).sum() / ((asked.weight.double() @ gram) * asked.weight.double()).sum()
    assert path.error(t) == pytest.approx(squared.sqrt().item(), rel=1e-3)
    assert path.errors([0.2, t])[1] == pytest.approx(path.error(t))


def test_ends_of_the_path_are_the_errors_of_none_and_rotation(model, collected):
    asked = projection(model, collected, "down_proj")
    columns = torch.arange(50)
    path, found = turns.turning(asked, columns), asked.errors(columns)
    assert path.error(0.0) == pytest.approx(found["none"].calibration, rel=1e-4)
    assert path.error(1.0) == pytest.approx(found["rotation"].calibration, rel=1e-3)
    assert turns.turning(asked, columns) is path


def test_a_reflection_is_counted_on_the_way(model, collected):
    """The first projection and removal with det Q = −1: Z loses the energy of the reflected direction at t = ½."""
    found = (
        (asked, torch.arange(kept))
        for asked in (projection(model, collected, "down_proj", layer) for layer in range(3))
        for kept in range(50, 72)
    )
    asked, columns = next((p, k) for p, k in found if p.rotation(k).determinant < 0)
    path = turns.turning(asked, columns)
    kept = asked.weight[:, columns]
    y = asked.weight.double() @ asked.x.gram.double()  # products of whole sums, as the path has no tokens
    turned = whatif.turned(path.rotation, kept.double(), 0.5)
    new = asked.weight.double().clone()
    new[:, columns] -= turned
    squared = ((new @ asked.x.gram.double()) * new).sum() / (y * asked.weight.double()).sum()
    assert path.error(0.5) == pytest.approx(squared.sqrt().item(), rel=1e-3)
    assert path._flipped > 0


def test_overview_holds_the_numbers_of_the_projection(model, collected):
    asked = projection(model, collected, "o_proj")
    columns = torch.arange(KEPT["o_proj"])
    found = turns.overview(asked, columns)
    rotation = asked.rotation(columns)
    assert (found.layer, found.kept, found.rank) == (1, len(columns), rotation.rank)
    assert found.angles.equal(rotation.angles)
    assert found.errors == asked.errors(columns)
