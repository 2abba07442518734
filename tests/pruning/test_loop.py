"""The layer loop against the plain reference, and what it promises its callers."""

import copy
import itertools
import math
import sys
import threading
import weakref

import pytest
import torch

import rcpu
from rcpu.methods import procrustes
from rcpu.models import weight_of
from rcpu.pruning import direct, walk
from rcpu.statistics import decompose
from tests import reference, tiny

UNITS = [("mha", "head"), ("gqa", "channel"), ("gqa", "kv_group"), ("biased", "head")]
CONFIG = rcpu.Recipe(ratio=0.3)


def config(unit: str = "auto", **settings) -> rcpu.Recipe:
    """Half of two KV groups, and three tenths of everything else."""
    return rcpu.Recipe(**{"ratio": 0.5 if unit == "kv_group" else 0.3, "unit": unit, **settings})


def assert_same_result(a: rcpu.PruneResult, b: rcpu.PruneResult, accuracy: float = 0.0) -> None:
    """The same columns, and weights that agree to ``accuracy``."""
    assert len(a.sites) == len(b.sites)
    for x, y in zip(a.sites, b.sites, strict=True):
        assert (x.layer, x.site) == (y.layer, y.site)
        assert x.columns.equal(y.columns)
        torch.testing.assert_close(x.weight, y.weight, rtol=0, atol=accuracy)
    torch.testing.assert_close(tiny.logits(a.net), tiny.logits(b.net), rtol=0, atol=10 * accuracy)


@pytest.mark.parametrize(
    ("kind", "unit", "settings"),
    [
        *[(kind, unit, {"order": order}) for kind, unit in UNITS for order in rcpu.ORDERS],
        *[
            (kind, unit, {"compensation": name, "ridge": 0.1})
            for kind, unit in (("mha", "head"), ("gqa", "channel"), ("biased", "head"))
            for name in sorted(rcpu.COMPENSATORS.keys() - {"rotation", "two_sided"})
        ],
        *[("gqa", "channel", {"scorer": name}) for name in ("wanda_sp", "flap", "magnitude")],
        ("mha", "head", {"order": "site", "compensation": "bias"}),
    ],
    ids=lambda value: ",".join(f"{v}" for v in value.values()) if isinstance(value, dict) else value,
)
def test_result_is_the_references(kind, unit, settings, windows):
    net, asked = tiny.net(kind), config(unit, **settings)
    expected_net, expected = reference.prune(net, windows, asked, unit)
    result = rcpu.prune(net, windows, asked)
    assert [(s.layer, s.site) for s in result.sites] == list(expected)
    for found in result.sites:
        plain = expected[found.layer, found.site]
        where = f"layer {found.layer}, {found.site}"
        assert found.columns.tolist() == plain.columns, where
        weight = torch.tensor(plain.weight, dtype=torch.float32)
        torch.testing.assert_close(found.weight, weight, rtol=0, atol=2e-4 * weight.std().item(), msg=where)
        assert (found.bias is None) == (plain.bias is None)
        if found.bias is not None:
            bias = torch.tensor(plain.bias, dtype=torch.float32)
            torch.testing.assert_close(found.bias, bias, rtol=0, atol=2e-4 * bias.std().item(), msg=where)
        torch.testing.assert_close(found.scores, torch.tensor(plain.scores).double(), rtol=1e-3, atol=0, msg=where)
        assert {k: getattr(found, k) for k in plain.errors} == pytest.approx(plain.errors, rel=1e-4), where
    tiny.assert_same_function(result.net, expected_net, accuracy=1e-3)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_dense_model_is_untouched(kind, windows):
    net = tiny.net(kind)
    before, output = tiny.snapshot(net), tiny.logits(net)
    result = rcpu.prune(net, windows, config(compensation="bias"))
    tiny.logits(result.net), tiny.logits(result.uncompensated(net))
    tiny.assert_unchanged(net, before)
    assert tiny.logits(net).equal(output)


@pytest.mark.parametrize("scorer", ["rcpu", "random"])
def test_same_seed_same_result(gqa, windows, scorer):
    torch.manual_seed(1)
    first = rcpu.prune(gqa, windows, config(scorer=scorer))
    torch.manual_seed(2)
    assert_same_result(first, rcpu.prune(gqa, windows, config(scorer=scorer)))


def test_random_scores_take_every_seed(mha, windows):
    largest = rcpu.prune(mha, windows, config(scorer="random", seed=2**63 - 1, layers=(0,)))
    assert all(s.scores.isfinite().all() for s in largest.sites)


def test_random_scores_differ_by_seed_layer_and_site(mha, windows):
    seeds = [rcpu.prune(mha, windows, config(scorer="random", seed=seed)) for seed in (0, 1)]
    scores = [tuple(s.scores.tolist())[:8] for result in seeds for s in result.sites]
    assert len(set(scores)) == 12


def room_for(net, windows, count: int) -> int:
    """Bytes of the inputs of o_proj in so many windows."""
    return 4 * count * windows.calibration.shape[1] * net.model.layers[0].self_attn.o_proj.in_features


@pytest.mark.parametrize("order", rcpu.ORDERS)
@pytest.mark.parametrize("count", [0, 5, 9])
def test_kept_activations_only_save_time(gqa, windows, order, count):
    asked = config(order=order)
    part = rcpu.prune(gqa, windows, asked, micro_batch=2, batch_bytes=room_for(gqa, windows, count))
    assert_same_result(part, rcpu.prune(gqa, windows, asked), 1e-5)


@pytest.mark.parametrize(("count", "again"), [(12, 0), (8, 1), (7, 2), (4, 2), (3, 3), (0, 3)])
def test_a_pass_of_every_layer_is_saved_for_the_windows_that_fit_the_batch(gqa, windows, count, again):
    net, calls = copy.deepcopy(gqa), []
    for i, layer in enumerate(net.model.layers):  # value channels leave the query projection as it is: it is shared
        layer.self_attn.q_proj.register_forward_hook(lambda *_, i=i: calls.append(i))
    rcpu.prune(net, windows, CONFIG, micro_batch=4, batch_bytes=room_for(net, windows, count))
    assert [calls.count(i) for i in range(3)] == [3 + again, 3 + again, 3]  # nothing is read behind the last


@pytest.mark.parametrize("size", [1, 5, 8, 1000])
def test_micro_batch_size_does_not_matter(gqa, windows, size):
    assert_same_result(
        rcpu.prune(gqa, windows, CONFIG, micro_batch=size), rcpu.prune(gqa, windows, CONFIG, micro_batch=3), 1e-4
    )


def test_held_out_windows_take_no_part(gqa, windows):
    alone = rcpu.Windows(windows.calibration, windows.held_out[:0], "alone")
    result = rcpu.prune(gqa, alone, CONFIG)
    assert_same_result(result, rcpu.prune(gqa, windows, CONFIG), 1e-4)
    assert (
        {s.error_none_held_out for s in result.sites} == {s.error_compensated_held_out for s in result.sites} == {None}
    )


def test_ridge_can_be_chosen_on_held_out_windows(gqa, windows):
    result = rcpu.prune(gqa, windows, config(compensation="least_squares", ridge=None))
    for i, site in enumerate(result.sites[:2]):  # those that are measured on the dense model
        tried = [
            rcpu.prune(gqa, windows, config(compensation="least_squares", ridge=ridge, layers=(0,))).sites[i]
            for ridge in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
        ]
        assert site.ridge == min(tried, key=lambda s: s.error_compensated_held_out).ridge


@pytest.mark.parametrize("stop", [0, 1, 2, 7, 20])
def test_cancel_stops_between_micro_batches(mha, windows, stop):
    before, asked, steps = tiny.snapshot(mha), [], []

    def cancelled() -> bool:
        asked.append(None)
        return len(asked) > stop

    with pytest.raises(rcpu.Cancelled):
        rcpu.prune(mha, windows, CONFIG, micro_batch=4, cancelled=cancelled, progress=steps.append)
    assert len(asked) == stop + 1
    assert len(steps) == stop  # no step was taken after the question was answered with yes
    tiny.assert_unchanged(mha, before)


@pytest.fixture
def cores():
    """A machine of three: tests have torch on one thread otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


@pytest.fixture
def looked_at(monkeypatch):
    """Decompositions wait until this is set."""
    event, solve = threading.Event(), procrustes.solve

    def slow(*args, **options):
        assert event.wait(20)
        return solve(*args, **options)

    monkeypatch.setattr(procrustes, "solve", slow)
    return event


def test_held_out_windows_leave_a_core_to_the_decomposition(gqa, windows, cores, looked_at, monkeypatch):
    module, seen = sys.modules["rcpu.pruning.walk"], []
    run_block = module.run_block

    def watched(block, norm, site, hidden, attention):
        seen.append((len(hidden), torch.get_num_threads()))
        if len(hidden) == len(windows.held_out):
            looked_at.set()
        return run_block(block, norm, site, hidden, attention)

    monkeypatch.setattr(module, "run_block", watched)
    asked = config(order="site", sites=("o_proj",), layers=(0,))
    rcpu.prune(gqa, windows, asked, micro_batch=len(windows.calibration))
    assert seen == [(len(windows.calibration), cores), (len(windows.held_out), cores - 1)]
    assert torch.get_num_threads() == cores


def test_in_order_paper_the_next_site_leaves_it_a_core(windows, cores, looked_at, monkeypatch):
    wide = tiny.llama(intermediate_size=96)  # its down_proj is summed up directly, a micro-batch at a time
    linear, seen = direct.linear, []

    def watched(*args):
        seen.append(torch.get_num_threads())
        looked_at.set()
        return linear(*args)

    monkeypatch.setattr(direct, "linear", watched)
    rcpu.prune(wide, windows, config(layers=(0,)), micro_batch=len(windows.calibration))
    assert seen[0] == cores - 1
    assert torch.get_num_threads() == cores


@pytest.mark.parametrize("order", rcpu.ORDERS)
@pytest.mark.parametrize(("cores", "wide"), [(2, False), (3, False), (3, True)])
def test_few_cores_and_all_of_them_for_large_matrices_decompose_before_anything_else(
    gqa, windows, monkeypatch, order, cores, wide
):
    before, here, seen, said, given_back = torch.get_num_threads(), threading.get_ident(), [], [], []
    solve = procrustes.solve
    monkeypatch.setattr(walk, "return_freed_memory", lambda: given_back.append(True))

    def watched(*args, **options):
        seen.append((threading.get_ident() == here, decompose._by_torch(torch.eye(2))))
        assert threading.get_ident() != here or said[-1].message.startswith("layer 0: solving")
        return solve(*args, **options)

    monkeypatch.setattr(procrustes, "solve", watched)
    if wide:
        monkeypatch.setattr(walk, "SMALL", 1)
    torch.set_num_threads(cores)
    try:
        rcpu.prune(gqa, windows, config(order=order, layers=(0,)), progress=said.append)
    finally:
        torch.set_num_threads(before)
    assert seen == [(wide or cores == 2, cores == 2)] * 2
    assert len(given_back) == (wide or cores > 2)


@pytest.mark.parametrize("order", rcpu.ORDERS)
@pytest.mark.parametrize("proper", [False, True])
def test_angles_are_worked_out_for_whoever_looks_and_no_rotation_is_held(gqa, windows, monkeypatch, order, proper):
    rotations, expected, asked, solve, eigenvalues = [], [], [], procrustes.solve, procrustes.eigenvalues

    def solved(*args, **options):
        rotation = solve(*args, **options)
        rotations.append(weakref.ref(rotation))
        expected.append((rotation.q.clone(), rotation.determinant))
        return rotation

    monkeypatch.setattr(procrustes, "solve", solved)
    monkeypatch.setattr(procrustes, "eigenvalues", lambda m: asked.append(None) or eigenvalues(m))
    result = rcpu.prune(gqa, windows, config(order=order, proper=proper))
    asked_for, known = len(asked), list(expected)  # here, for the determinant that is compared with
    assert len(rotations) == len(result.sites)
    assert not any(rotation() for rotation in rotations)
    for site, (q, determinant) in zip(result.sites, known, strict=True):
        assert site.determinant == determinant
        cosines = torch.linalg.eigvalsh((q + q.mT) / 2).flip(0).clamp(-1, 1)
        torch.testing.assert_close(site.angles.deg2rad().cos(), cosines, rtol=0, atol=2e-3)
        assert site.angles is site.angles
    assert len(asked) == asked_for + len(result.sites)


@pytest.mark.parametrize("order", rcpu.ORDERS)
def test_a_large_site_is_finished_before_the_next_is_begun_and_comes_out_the_same(
    gqa, windows, cores, monkeypatch, order
):
    expected, begun, held = rcpu.prune(gqa, windows, config(order=order)), [], []
    choose = walk.Walk.choose

    def chosen(*args):
        held.append(sum(solving() is not None for solving in begun))
        solving = choose(*args)
        begun.append(weakref.ref(solving))
        return solving

    monkeypatch.setattr(walk.Walk, "choose", chosen)
    rcpu.prune(gqa, windows, config(order=order))
    assert max(held) == (1 if order == "paper" else 0)
    held.clear()
    monkeypatch.setattr(walk, "SMALL", 0)
    assert_same_result(rcpu.prune(gqa, windows, config(order=order)), expected)
    assert max(held) == 0


def test_findings_refer_to_the_dense_weight_and_hold_no_copy(gqa, windows):
    for site in rcpu.prune(gqa, windows, CONFIG).sites:
        assert site.before.data_ptr() == weight_of(gqa, site.layer, site.site).data_ptr()


def test_nothing_is_held_for_windows_that_are_not_there(gqa, windows, monkeypatch):
    made, plain = [], walk.Accumulator
    monkeypatch.setattr(walk, "Accumulator", lambda *args, **options: made.append(args) or plain(*args, **options))
    rcpu.prune(gqa, rcpu.Windows(windows.calibration, windows.held_out[:0], windows.text), CONFIG)
    assert len(made) == 2 * gqa.config.num_hidden_layers
    rcpu.prune(gqa, windows, CONFIG)
    assert len(made) == (2 + 4) * gqa.config.num_hidden_layers


def test_a_cancelled_run_gives_all_cores_back(gqa, windows, cores):
    asked = itertools.count()
    with pytest.raises(rcpu.Cancelled):
        rcpu.prune(gqa, windows, CONFIG, micro_batch=4, cancelled=lambda: torch.set_num_threads(1) or next(asked) > 3)
    assert torch.get_num_threads() == cores


@pytest.mark.parametrize(
    "settings",
    [{}, {"order": "site"}, {"layers": (1,)}, {"sites": ("down_proj",)}, {"sites": ("o_proj",), "layers": (0, 2)}],
    ids=str,
)
@pytest.mark.parametrize("batch_bytes", [0, 2**30])
def test_progress_ascends_to_one(mha, windows, settings, batch_bytes):
    steps = []
    result = rcpu.prune(mha, windows, config(**settings), micro_batch=3, progress=steps.append, batch_bytes=batch_bytes)
    fractions = [step.fraction for step in steps]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < 0.2
    assert fractions[-1] == pytest.approx(1, abs=1e-9)
    assert fractions[-2] < 0.999 < fractions[-1] <= 1
    assert max(b - a for a, b in itertools.pairwise(fractions)) < 0.3
    assert all(step.message for step in steps)
    assert tuple(step.site for step in steps if step.site) == result.sites


def test_a_ratio_that_removes_nothing_is_said_and_changes_nothing(mha, windows):
    result = rcpu.prune(mha, windows, config(ratio=0.01, compensation="rotation"))
    assert len(result.notes) == 2
    assert result.notes[0].startswith("o_proj: 0.01 of 4 heads rounds down to none")
    assert result.notes[0].endswith("the smallest ratio that removes one is 0.25")
    assert result.notes[1].startswith("down_proj: 0.01 of 48 channels rounds down to none")
    assert result.cuts == {}
    assert tiny.logits(result.net).equal(tiny.logits(mha))
    assert rcpu.cost(result.net) == rcpu.cost(mha)


def test_one_site_may_lose_nothing(mha, windows):
    result = rcpu.prune(mha, windows, config(ratio=0.2))
    assert [note.split(":")[0] for note in result.notes] == ["o_proj"]
    assert {name for _, name in result.cuts} == {"down_proj"}
    assert [s.keep.all().item() for s in result.sites] == [True, False] * 3


def test_ratio_zero_needs_no_note(mha, windows):
    result = rcpu.prune(mha, windows, config(ratio=0))
    assert result.notes == ()
    assert tiny.logits(result.net).equal(tiny.logits(mha))


@pytest.mark.parametrize("order", rcpu.ORDERS)
@pytest.mark.parametrize("sites", [("o_proj",), ("down_proj",), ("down_proj", "o_proj")])
@pytest.mark.parametrize("layers", [(0,), (2, 1), None])
def test_only_the_chosen_sites_change(mha, windows, sites, layers, order):
    result = rcpu.prune(mha, windows, config(sites=sites, layers=layers, order=order))
    chosen = {(i, site) for i in (layers or range(3)) for site in sites}
    assert result.cuts.keys() == {(s.layer, s.site) for s in result.sites} == chosen
    for i, (ours, dense) in enumerate(zip(result.net.model.layers, mha.model.layers, strict=True)):
        assert (ours.self_attn is dense.self_attn) == ((i, "o_proj") not in chosen)
        assert (ours.mlp is dense.mlp) == ((i, "down_proj") not in chosen)


@pytest.mark.parametrize("site", ["o_proj", "down_proj"])
def test_one_site_alone_is_the_same_in_both_orders(gqa, windows, site):
    """There is nothing that one could see of the other."""
    paper, alone = (rcpu.prune(gqa, windows, config(sites=(site,), order=order)) for order in ("paper", "site"))
    assert_same_result(paper, alone, 1e-5)


@pytest.mark.parametrize("repaired", ["o_proj", "down_proj"])
@pytest.mark.parametrize("compensation", ["rotation", "bias"])
def test_one_site_alone_may_be_repaired(gqa, windows, repaired, compensation):
    asked = config(compensation=compensation, repaired=repaired)
    result, plain = rcpu.prune(gqa, windows, asked), rcpu.prune(gqa, windows, config(compensation="none"))
    for site in result.sites:
        weight = (
            gqa.model.layers[site.layer]
            .get_submodule({"o_proj": "self_attn.o_proj", "down_proj": "mlp.down_proj"}[site.site])
            .weight
        )
        as_it_was = site.weight.equal(weight[:, site.columns]) and site.bias is None
        assert as_it_was == (site.site != repaired)
        assert (site.error_compensated == site.error_none) == (site.site != repaired)
    assert rcpu.plan(gqa, asked).after == rcpu.cost(result.net)
    first = 0 if repaired == "o_proj" else 1  # both sites of layer 0 are measured before either is repaired
    whole = rcpu.prune(gqa, windows, config(compensation=compensation))
    assert result.sites[first].weight.equal(whole.sites[first].weight)
    assert result.sites[1 - first].weight.equal(plain.sites[1 - first].weight)


def test_a_subset_is_pruned_as_part_of_the_whole(mha, windows):
    whole = rcpu.prune(mha, windows, CONFIG)
    first = rcpu.prune(mha, windows, config(layers=(0,)))
    for a, b in zip(first.sites, whole.sites, strict=False):
        assert a.weight.equal(b.weight)


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("input_layernorm", "o_proj"),
        ("self_attn.v_proj", "o_proj"),
        ("self_attn.o_proj", "o_proj"),
        ("mlp.up_proj", "down_proj"),
        ("mlp.down_proj", "down_proj"),
    ],
)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("order", rcpu.ORDERS)
def test_broken_numbers_are_found_where_they_arise(mha, windows, name, site, value, order):
    net = copy.deepcopy(mha)
    weight = net.model.layers[1].get_submodule(name).weight
    weight.data.view(-1)[3] = value
    before = tiny.snapshot(net)
    with pytest.raises(rcpu.RcpuError, match=f"layer 1, {site}"):
        rcpu.prune(net, windows, config(order=order))
    tiny.assert_unchanged(net, before)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("gqa", {"unit": "head"}, "6 query heads on 2 KV heads"),
        ("mha", {"layers": (1, 3)}, "layer 3 does not exist: this model has layers 0 to 2"),
        ("mha", {"window": 257}, "a window of 257 tokens is longer than the model's 256 positions"),
    ],
)
def test_settings_that_the_model_cannot_have(kind, settings, message, windows):
    with pytest.raises(rcpu.RcpuError, match=message):
        rcpu.prune(tiny.net(kind), windows, rcpu.Recipe(**settings))


def test_a_pruned_model_is_not_pruned_again(mha, windows):
    once = rcpu.prune(mha, windows, CONFIG).net
    with pytest.raises(rcpu.RcpuError, match="already pruned: prune the dense model"):
        rcpu.prune(once, windows, CONFIG)


@pytest.mark.parametrize(("kind", "unit"), UNITS)
@pytest.mark.parametrize("compensation", ["rotation_scale", "least_squares", "bias"])
def test_site_results_have_the_documented_shapes(kind, unit, compensation, windows):
    net, asked = tiny.net(kind), config(unit, compensation=compensation)
    result = rcpu.prune(net, windows, asked)
    d = net.config.hidden_size
    layouts = rcpu.plan(net, asked).layouts
    assert result.seconds > 0
    for s in result.sites:
        d_in, (strata, units, size) = layouts[s.site].numel(), layouts[s.site].shape
        kept = strata * (units - math.floor(asked.ratio * units)) * size
        assert s.unit == (unit if s.site == "o_proj" else "channel")
        assert s.scores.shape == (d_in,)
        assert s.scores.dtype == torch.float64
        assert s.unit_scores.shape == s.keep.shape == (strata, units)
        assert s.columns.shape == (kept,)
        assert s.columns.tolist() == sorted(set(s.columns.tolist()))
        assert s.weight.shape == (d, kept)
        assert (s.bias is not None) == (compensation == "bias")
        assert s.bias is None or s.bias.shape == (d,)
        assert (s.scale is not None) == (compensation == "rotation_scale")
        assert (s.ridge is not None) == (compensation == "least_squares")
        assert s.tokens == windows.calibration.numel()
        if compensation in ("rotation", "rotation_scale"):
            assert s.singular_values.shape == s.angles.shape == s.channel_angles.shape == (d,)
            assert s.rank == min(kept, d)
            assert s.principal_angles.shape == (s.rank,)
            assert s.determinant in (-1, 1)
        else:  # what is only looked at is worked out from statistics, where somebody looks
            assert s.singular_values is s.angles is s.channel_angles is s.rank is s.determinant is None
        assert s.kept * size == kept
        assert s.units == strata * units
        assert 0 < s.error_compensated < s.error_none < 1.5
        summary = s.summary()
        assert (summary["kept_columns"], summary["columns"]) == (kept, d_in)
        assert not any(isinstance(value, torch.Tensor) for value in summary.values())


@pytest.mark.parametrize("compensation", ["rotation", "rotation_scale", "least_squares", "bias"])
def test_where_nothing_goes_a_target_mends_nothing(mha, windows, compensation):
    asked = config(compensation=compensation, target=1.0, ratios=((1, 0.0),))
    result = rcpu.prune(mha, windows, asked)
    for s in result.sites[2:4]:
        assert not s.changed
        assert s.weight.equal(weight_of(mha, s.layer, s.site))
        assert (s.bias, s.error_none, s.error_compensated, s.singular_values) == (None, 0.0, 0.0, None)
    assert result.sites[4].error_none > 0


def test_proper_rotation_is_passed_on(mha, windows):
    free, proper = (rcpu.prune(mha, windows, config(proper=proper)).sites for proper in (False, True))
    assert {s.determinant for s in free} == {-1, 1}  # or there would be nothing to see
    assert {s.determinant for s in proper} == {1}


def test_bf16_is_summed_in_fp32(gqa, windows):
    wide, narrow = (rcpu.prune(net, windows, CONFIG) for net in (gqa, copy.deepcopy(gqa).bfloat16()))
    for a, b in zip(wide.sites[:2], narrow.sites[:2], strict=True):
        assert b.weight.dtype == torch.bfloat16
        assert b.error_compensated == pytest.approx(a.error_compensated, rel=0.1)
    assert {p.dtype for p in narrow.net.parameters()} == {torch.bfloat16}
    assert tiny.logits(narrow.net).isfinite().all()
