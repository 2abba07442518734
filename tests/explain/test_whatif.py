"""Answers from kept sums against a run that solves the same projection anew."""

import math

import pytest
import scipy.linalg
import scipy.stats
import torch

import rcpu
from rcpu.explain import whatif
from rcpu.methods import procrustes
from rcpu.methods.compensation import Problem
from rcpu.methods.scoring import AT_ONCE
from rcpu.methods.units import attention_units, channel_units, remove
from rcpu.models.families import ARCHITECTURE, consumer_of, heads_of, layers_of
from rcpu.statistics.kept import SiteData, collect
from tests import tiny

SITES = {s.name: s for s in ARCHITECTURE.sites}


@pytest.fixture(scope="module")
def collected(model, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RCPU_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield collect(model, tiny.calibration())


def projection(model, collected, layer: int, site: str) -> whatif.Projection:
    weight = consumer_of(layers_of(model.net)[layer], SITES[site]).weight
    return whatif.Projection(weight, collected.get(layer, site), layer=layer, site=site)


def layout(model, site: str):
    return attention_units(heads_of(model.net), "channel") if site == "o_proj" else channel_units(72)


@pytest.mark.parametrize("site", rcpu.SITES)
@pytest.mark.parametrize("compensation", sorted(whatif.INSTANT))
def test_answers_are_those_of_a_run_where_the_paths_agree(model, collected, site, compensation):
    """In the first layer a greedy run in order "paper" sees the dense model's own inputs."""
    config = rcpu.Recipe(ratio=0.3, compensation=compensation, layers=(0,), sites=(site,), seed=3)
    run = rcpu.prune(model.net, tiny.calibration(), config).sites[0]
    asked = projection(model, collected, 0, site)
    found = remove(asked.scores("rcpu", 3), layout(model, site), 0.3)
    assert found.columns.equal(run.columns)
    torch.testing.assert_close(found.unit_scores, run.unit_scores)
    error = asked.errors(found.columns)
    assert error["none"].calibration == pytest.approx(run.error_none, rel=1e-3)
    assert error["none"].held_out == pytest.approx(run.error_none_held_out, rel=1e-3)
    assert error[compensation].calibration == pytest.approx(run.error_compensated, rel=2e-3)
    assert error[compensation].held_out == pytest.approx(run.error_compensated_held_out, rel=2e-3)
    if run.singular_values is None:  # nothing was turned
        return
    rotation = asked.rotation(found.columns)
    torch.testing.assert_close(rotation.angles, run.angles, rtol=0, atol=0.05)
    largest = run.singular_values[0]
    torch.testing.assert_close(asked.singular_values(found.columns) / largest, run.singular_values / largest)
    fresh = projection(model, collected, 0, site)
    torch.testing.assert_close(fresh.singular_values(found.columns) / largest, run.singular_values / largest)


def test_random_scores_are_those_of_a_run(model, collected):
    config = rcpu.Recipe(ratio=0.3, scorer="random", layers=(1,), sites=("down_proj",), seed=5)
    run = rcpu.prune(model.net, tiny.calibration(), config).sites[0]
    assert projection(model, collected, 1, "down_proj").scores("random", 5).equal(run.scores)


def test_errors_without_held_out_windows(model, collected):
    whole = collected.get(1, "down_proj")
    weight = consumer_of(layers_of(model.net)[1], SITES["down_proj"]).weight
    alone = whatif.Projection(weight, SiteData(whole.calibration, None, whole.sample), layer=1, site="down_proj")
    columns = torch.arange(50)
    errors = alone.errors(columns)
    assert {e.held_out for e in errors.values()} == {None}
    assert errors["rotation_scale"].calibration <= errors["rotation"].calibration <= errors["none"].calibration
    with pytest.raises(rcpu.RcpuError, match="held-out"):
        alone.errors(columns, ridge=None)


def test_an_answer_is_kept(model, collected):
    asked = projection(model, collected, 1, "o_proj")
    first = asked.rotation(torch.arange(40))
    assert asked.rotation(torch.arange(40)) is first
    assert asked.rotation(torch.arange(40), proper=True) is not first


def test_old_answers_leave(model, collected, monkeypatch):
    monkeypatch.setattr(whatif, "ANSWERS", 2)
    asked = projection(model, collected, 1, "o_proj")
    first = asked.rotation(torch.arange(40))
    for kept in (30, 31, 32):
        asked.rotation(torch.arange(kept))
    assert asked.rotation(torch.arange(40)) is not first


def test_factors_multiply_to_the_score_and_one_can_be_left_out(model, collected):
    asked = projection(model, collected, 2, "down_proj")
    parts = whatif.factors(asked.weight, asked.x)
    torch.testing.assert_close(whatif.without(parts, None), asked.scores("rcpu"))
    for name, values in parts.items():
        torch.testing.assert_close(whatif.without(parts, name) * values, asked.scores("rcpu"))


def test_overlap_counts_what_both_remove():
    a = torch.tensor([[True, False, False, True]])
    b = torch.tensor([[True, False, True, False]])
    assert whatif.overlap(a, b) == 0.5
    assert whatif.overlap(a, a) == 1.0
    assert whatif.overlap(torch.ones(1, 3, dtype=bool), torch.ones(1, 3, dtype=bool)) == 1.0


def test_rank_correlation_is_spearmans():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    b = a + 0.5 * b
    rho = whatif.rank_correlations([a, b, -a, torch.ones(50)])
    assert rho[0, 1] == rho[1, 0] == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    assert rho[0, 2] == pytest.approx(-1)
    assert rho[0, 0] == pytest.approx(1)
    assert rho[3].isnan().all()
    assert rho[:, 3].isnan().all()


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_turned_is_the_matrix_power(t):
    generator = torch.Generator().manual_seed(1)
    d = 9
    skew = torch.randn(d, d, generator=generator, dtype=torch.float64) * 0.3
    q = torch.matrix_exp(skew - skew.T)
    rotation = procrustes.solve(q @ torch.diag(torch.arange(1.0, d + 1, dtype=torch.float64)) @ torch.eye(d).double())
    rotation = procrustes.solve(q)  # its own polar factor
    points = torch.randn(d, 4, generator=generator, dtype=torch.float64)
    power = torch.tensor(scipy.linalg.fractional_matrix_power(q.numpy(), t).real) if t else torch.eye(d).double()
    torch.testing.assert_close(whatif.turned(rotation, points, t), power @ points)


def test_a_reflection_shrinks_through_zero():
    q = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    points = torch.ones(3, 1, dtype=torch.float64)
    rotation = procrustes.solve(q)
    assert rotation.determinant == -1
    for t in (0.0, 0.5, 1.0):
        expected = torch.tensor([[1.0], [1.0], [math.cos(math.pi * t)]], dtype=torch.float64)
        torch.testing.assert_close(whatif.turned(rotation, points, t), expected)


def test_shares_of_the_order_add_up_and_follow_the_factor_that_varies():
    generator = torch.Generator().manual_seed(0)
    parts = {name: torch.rand(200, generator=generator).double() + 0.5 for name in whatif.FACTORS}
    found = whatif.shares(parts)
    assert sum(found.values()) == pytest.approx(1)
    parts["weight"] = torch.full((200,), 3.0, dtype=torch.float64)
    parts["variance"][:5] = 0  # a dead channel has no logarithm
    found = whatif.shares(parts)
    assert found["weight"] == pytest.approx(0, abs=1e-12)
    assert sum(found.values()) == pytest.approx(1)
    constant = {name: torch.ones(9, dtype=torch.float64) for name in whatif.FACTORS}
    assert all(math.isnan(v) for v in whatif.shares(constant).values())
    assert all(math.isnan(v) for v in whatif.shares({n: v * 0 for n, v in constant.items()}).values())


@pytest.mark.parametrize("site", rcpu.SITES)
def test_scores_need_no_gram_matrix(model, collected, site):
    asked = projection(model, collected, 2, site)
    for scorer in AT_ONCE:
        found = whatif.column_scores(
            consumer_of(layers_of(model.net)[2], SITES[site]).weight,
            collected.vectors(2, site),
            scorer,
            layer=2,
            site=site,
            seed=7,
        )
        assert found.equal(asked.scores(scorer, 7))


@pytest.mark.parametrize("site", rcpu.SITES)
def test_the_plain_error_is_that_of_no_compensation(model, collected, site):
    asked = projection(model, collected, 1, site)
    columns = remove(asked.scores("rcpu"), layout(model, site), 0.4).columns
    plain, full = asked.plain_error(columns), asked.errors(columns)["none"]
    assert plain.calibration == pytest.approx(full.calibration)
    assert plain.held_out == pytest.approx(full.held_out)
    assert asked.plain_error(columns) is plain


def test_effective_rank_counts_equal_directions_and_less_of_unequal_ones():
    assert whatif.effective_rank(torch.ones(7).double()) == pytest.approx(7)
    assert whatif.effective_rank(torch.tensor([5.0, 0, 0])) == pytest.approx(1)
    part = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    assert whatif.effective_rank(8 * part) == pytest.approx(2**1.5)
    assert whatif.effective_rank(torch.zeros(3)) == 0.0


def test_energy_is_carried_by_the_largest_values():
    values = torch.tensor([6.0, 3.0, 1.0], dtype=torch.float64)
    assert whatif.carried(values).tolist() == pytest.approx([0.6, 0.9, 1.0])
    assert [whatif.values_for(values, share) for share in (0.5, 0.6, 0.61, 0.9, 0.99, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert whatif.values_for(torch.zeros(3)) == 0
    assert whatif.carried(torch.zeros(3)).tolist() == [0, 0, 0]


def test_numerical_rank_stops_at_rounding_and_at_its_bound():
    values = torch.tensor([1.0, 1e-3, 1e-6, 1e-9], dtype=torch.float64)
    assert whatif.numerical_rank(values, 4) == 3
    assert whatif.numerical_rank(values, 2) == 2
    assert whatif.numerical_rank(values, 4, torch.float64) == 4
    assert whatif.numerical_rank(torch.zeros(2), 2) == 0


def test_powers_take_one_t_or_many():
    cosines = torch.tensor([-1.0, 0.3, 1.0], dtype=torch.float64)
    even, odd = whatif.powers(cosines, torch.tensor([[0.0], [0.5]], dtype=torch.float64))
    for row, t in enumerate((0.0, 0.5)):
        one = whatif.powers(cosines, t)
        torch.testing.assert_close(even[row], one[0])
        torch.testing.assert_close(odd[row], one[1])
    assert odd[1].tolist() == pytest.approx([0.0, math.sin(math.acos(0.3) / 2) / math.sin(math.acos(0.3)), 0.5])


@pytest.mark.parametrize("ridge", [1e-3, None])
@pytest.mark.parametrize("site", rcpu.SITES)
def test_errors_are_those_of_the_weights_themselves(model, collected, site, ridge):
    """Sums alone against ‖Y − W'X‖² of every compensator's weight, also where little is left."""
    asked = projection(model, collected, 1, site)
    for kept in (20, asked.weight.shape[1] - 2):
        columns = torch.arange(kept)
        found = asked.errors(columns, ridge)
        problem = Problem(
            asked.weight, asked.x, columns, asked.rotation(columns), ridge=ridge, held_out=asked.held_out.x
        )
        assert found.keys() == whatif.INSTANT
        for name in found:
            made = rcpu.COMPENSATORS[name](problem)
            for part, y in (("calibration", asked.outputs), ("held_out", asked.held_out)):
                expected = (y.squared_error(columns, made) / y.energy) ** 0.5
                assert getattr(found[name], part) == pytest.approx(expected, rel=2e-3), (name, part, kept)


def test_spectra_are_those_of_each_removal(model, collected):
    asked, alone = projection(model, collected, 1, "o_proj"), projection(model, collected, 1, "o_proj")
    many = [torch.arange(kept) for kept in (48, 30, 12)]
    for values, columns in zip(whatif.spectra(asked, many), many, strict=True):
        torch.testing.assert_close(values, alone.singular_values(columns))
