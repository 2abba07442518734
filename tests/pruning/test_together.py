"""Everything that combines, on tiny models: one function however it is written down, and the size that was planned."""

import copy
import dataclasses

import pytest
import torch

import rcpu
from rcpu.compact import Edits, rebuild
from rcpu.compact.assembly import padded
from rcpu.methods.columns import care
from tests import tiny

OURS = {
    "scorer": "greedy",
    "unit": "subspace",
    "compensation": "least_squares",
    "ridge": 0.3,
    "centred": True,
    "order": "site",
    "allocation": "prices",
    "target": 0.25,
    "metric": True,
}
TOGETHER = {
    "ours": OURS,
    "ours, paper order, channels": {**OURS, "order": "paper", "unit": "channel"},
    "ours with a step": {**OURS, "step": 0.01},
    "a step and rotation": {"step": 0.01, "centred": True},
    "ours without gradients": {**OURS, "gradients": False, "metric": False},
    "ours, carefully": {**OURS, "careful": True},
    "ours, half-way to uniform, one at a time": {**OURS, "share": 0.5, "block": 1},
    "subspace and rotation": {"unit": "subspace", "centred": True},
    "subspace alone": {"unit": "subspace", "compensation": "none", "scorer": "obs"},
    "target and rotation": {"target": 0.5, "centred": True, "order": "site"},
    "target and bias": {"target": 0.5, "compensation": "bias"},
    "blocks of Q": {"by_head": True, "proper": True},
    "both turns": {"compensation": "two_sided", "centred": True},
    "grail": {"scorer": "wanda_sp_l2", "compensation": "least_squares", "pull": "zero"},
    "cross-validated": {"compensation": "least_squares", "ridge": None, "choose": "gcv", "scorer": "obs"},
    "flap": {"scorer": "wifv", "compensation": "bias", "allocation": "flap", "path": "dense"},
    "flap by influence": {"scorer": "wifn", "compensation": "bias", "allocation": "influence", "path": "dense"},
    "two looks": {"scorer": "greedy", "metric": True, "allocation": "flap", "unit": "kv_group"},
    "dense path and rotation": {"path": "dense", "centred": True},
    "groups, heads by hand": {
        "scorer": "ifv",
        "compensation": "bias",
        "allocation": "flap_heads",
        "heads_removed": 1,
        "unit": "kv_group",
        "path": "dense",
    },
    "groups, heads of each layer by hand": {"allocation": "heads", "heads_removed": 1, "unit": "kv_group"},
    "groups, greedily": {**OURS, "unit": "kv_group"},
}


@pytest.mark.parametrize("kind", ["mha", "gqa", "biased"])
@pytest.mark.parametrize("name", TOGETHER)
def test_one_function_in_every_form(kind, name, windows, tmp_path):
    net, recipe = tiny.net(kind), rcpu.Recipe(ratio=0.3, **TOGETHER[name])
    before = tiny.snapshot(net)
    result = rcpu.prune(net, windows, recipe)
    tiny.assert_unchanged(net, before)
    assert not any(s.weight.isnan().any() for s in result.sites)
    tiny.assert_same_function(padded(net, result.cuts), result.net)
    edits = Edits.from_tensors(result.edits.to_tensors())
    tiny.assert_same_function(rebuild(net, edits), result.net)
    result.net.save_pretrained(tmp_path)
    tiny.assert_same_function(type(result.net).from_pretrained(tmp_path), result.net)
    tokens = result.net.generate(tiny.ids(1, 4), max_new_tokens=3, do_sample=False, pad_token_id=tiny.END)
    assert tokens.shape == (1, 7)


@pytest.mark.parametrize("kind", ["mha", "gqa"])
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_ours_is_no_larger_than_what_it_is_compared_with(kind, ratio, share, windows):
    """Channels of the same ratio and no bias; a bias is paid for by more that leaves."""
    net = tiny.net(kind)
    ours = rcpu.prune(net, windows, rcpu.Recipe(ratio=ratio, share=share, **OURS))
    theirs = rcpu.plan(net, rcpu.Recipe(ratio=ratio, unit="channel"))
    assert 0.97 * theirs.after.parameters <= rcpu.cost(ours.net).parameters <= theirs.after.parameters
    assert len({s.kept for s in ours.sites if s.site == "down_proj"}) > 1, "layers do not share alike"


def test_a_plan_with_counts_is_what_comes_out(gqa, windows):
    for name in ("ours", "flap", "groups, heads of each layer by hand"):
        recipe = rcpu.Recipe(ratio=0.3, **TOGETHER[name])
        result = rcpu.prune(gqa, windows, recipe)
        strata = {n: len(layout) for n, layout in rcpu.plan(gqa, recipe).layouts.items()}
        gone = {(s.layer, s.site): (s.units - s.kept) // strata[s.site] for s in result.sites}
        assert rcpu.plan(gqa, recipe, gone).after == rcpu.cost(result.net)


@pytest.mark.parametrize("gradients", [True, False])
def test_windows_for_gradients_bound_what_goes_backward_alone(gqa, windows, gradients):
    ours = {**OURS, "metric": False, "gradients": gradients}
    few, all_ = (
        rcpu.prune(gqa, windows, rcpu.Recipe(ratio=0.3, **ours, gradient_windows=count)).found["price.0.down_proj"]
        for count in (2, 0)
    )
    assert few.equal(all_) is not gradients


@pytest.mark.parametrize("name", ["ours", "flap", "dense path and rotation", "two looks"])
def test_progress_ascends_with_a_look_before(gqa, windows, name):
    steps = []
    result = rcpu.prune(gqa, windows, rcpu.Recipe(ratio=0.3, **TOGETHER[name]), progress=steps.append, micro_batch=3)
    fractions = [s.fraction for s in steps]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)
    assert tuple(s.site for s in steps if s.site) == result.sites


def test_a_target_follows_the_dense_model(gqa, windows):
    """With all of the error as target and plenty of freedom, streams end nearer to the dense model's."""

    def distance(target: float) -> float:
        recipe = rcpu.Recipe(ratio=0.3, compensation="least_squares", ridge=1e-3, target=target, order="site")
        net = rcpu.prune(gqa, windows, recipe).net
        with torch.no_grad():  # of copies: transformers leaves a hook behind
            ours, dense = (
                copy.deepcopy(n).model(windows.calibration, output_hidden_states=True).hidden_states[2]
                for n in (net, gqa)
            )
        return (ours - dense).norm().item()

    assert distance(1.0) < distance(0.5) < distance(0.0)


def test_care_grows_as_tokens_get_fewer(gqa, windows):
    recipe = rcpu.Recipe(careful=True)
    assert care(recipe, 10_000, 100) == 1
    assert care(recipe, 100, 100) == 10
    assert care(rcpu.Recipe(), 100, 100) == 1
    plain, careful = (
        rcpu.prune(gqa, windows, rcpu.Recipe(ratio=0.3, **{**OURS, "careful": c, "ridge": 0.01})) for c in (False, True)
    )
    both = [pair for pair in zip(plain.sites, careful.sites, strict=True) if not any(s.keep.all() for s in pair)]
    assert both
    for a, b in both:
        assert b.ridge == pytest.approx(a.ridge * 10 * len(a.scores) / windows.calibration.numel())
    spread = [{s.kept for s in r.sites if s.site == "down_proj"} for r in (plain, careful)]
    assert max(spread[1]) - min(spread[1]) < max(spread[0]) - min(spread[0])


def test_a_score_that_counts_on_a_repair_says_so_where_there_is_none(gqa):
    def notes(**settings) -> str:
        return " ".join(rcpu.plan(gqa, rcpu.Recipe(ratio=0.3, **settings)).notes)

    assert "counts on a repair" in notes(scorer="obs", compensation="none")
    assert "counts on a repair" not in notes(scorer="obs", compensation="least_squares")
    assert "counts on a repair" not in notes(scorer="rcpu", compensation="none")


def test_prices_can_be_looked_at(gqa, windows):
    found = rcpu.prune(gqa, windows, rcpu.Recipe(ratio=0.3, **OURS)).found
    assert found.keys() == {f"price.{i}.{name}" for i in range(3) for name in rcpu.SITES}
    for counts, costs in found.values():
        assert counts.tolist() == sorted(counts.tolist())
        assert costs[0] == 0
        assert (costs[1:] > 0).all()


def test_who_learns_says_so(gqa):
    notes = rcpu.plan(gqa, rcpu.Recipe(step=0.003)).notes
    assert any("0.003 nats along the gradient: the model learns from its calibration text" in note for note in notes)
    assert not any("learns" in note for note in rcpu.plan(gqa, rcpu.Recipe()).notes)


def test_few_gradients_say_so(gqa, windows):
    result = rcpu.prune(gqa, windows, rcpu.Recipe(ratio=0.3, **TOGETHER["ours without gradients"]))
    assert any("without gradients" in note for note in result.notes)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target": 0.5, "path": "dense"}, "carries no error"),
        ({"target": 0.5, "compensation": "two_sided"}, "a target is met by"),
        ({"metric": True}, "gradients as metric are used by"),
        ({"allocation": "prices", "ratios": ((0, 0.1),)}, "by hand"),
        ({"allocation": "flap", "unit": "subspace"}, "a subspace has none"),
        ({"allocation": "flap", "sites": ("o_proj",)}, "choose both"),
        ({"allocation": "heads", "unit": "channel"}, "counts heads"),
        ({"scorer": "greedy", "damping": -1.0}, "damping must be"),
        ({"allocation": "influenza"}, "unknown allocation"),
    ],
)
def test_what_does_not_combine_is_refused(settings, words):
    with pytest.raises(rcpu.RcpuError, match=words):
        rcpu.Recipe(**settings)


@pytest.mark.parametrize("name", sorted(rcpu.RECIPES))
def test_every_recipe_runs(name, windows, gqa):
    recipe = rcpu.load_recipe(name)
    if rcpu.METHODS[recipe.method].run is None:
        assert rcpu.prune(gqa, windows, recipe).net is not None


@pytest.mark.parametrize("layers", [None, (0, 2)])
def test_the_dense_path_is_the_dense_models(gqa, windows, layers):
    """Every layer sees what it would see in the dense model, whatever leaves before it; one pass, no second."""
    net, calls = copy.deepcopy(gqa), []
    for layer in net.model.layers:
        layer.self_attn.v_proj.register_forward_hook(lambda *_: calls.append(None))
    asked = rcpu.Recipe(ratio=0.3, scorer="wifv", compensation="bias", path="dense", layers=layers)
    found = rcpu.prune(net, windows, asked, micro_batch=100)
    assert len(calls) <= 6  # calibration and held-out windows of three layers
    for layer in layers or range(3):
        alone = rcpu.prune(gqa, windows, dataclasses.replace(asked, layers=(layer,)))
        ours = [s for s in found.sites if s.layer == layer]
        for a, b in zip(ours, alone.sites, strict=True):
            assert a.columns.equal(b.columns)
            torch.testing.assert_close(a.bias, b.bias, rtol=1e-4, atol=1e-5)
