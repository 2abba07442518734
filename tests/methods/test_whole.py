"""Methods that are more than a choice of columns: what they make is saved, reloaded, rebuilt; cancel, refusals."""

import copy
import functools
from itertools import pairwise

import pytest
import torch

import rcpu
from rcpu.compact import Edits, rebuild
from rcpu.compact.shapes import shaped
from rcpu.models import sizes
from tests import tiny

WHOLE = [name for name, method in rcpu.METHODS.items() if method.run]
OPTIONS = {
    "slicegpt": [{}, {"embedding": "turned", "center": False}, {"slice_head": True, "multiple": 4}],
    "olica": [{}, {"branches": 0, "balance": 2.0}],
    "modegpt": [{}, {"allocation": "uniform", "path": "dense"}],
    "z-pruner": [{}, {"pattern": "2:4"}, {"pattern": "columns"}],
    "mini-llm": [{"draws": 1}, {"draws": 2, "grouping": "max", "noise": "signs", "unit": "kv_group"}],
    "svd-llm": [{}, {"path": "pruned"}],
    "flop": [{"steps": 3, "form": "factors"}, {"steps": 3, "exact": False}],
    "2ssp": [{}, {"balance": 10.0}],
}
CASES = [(kind, name, i) for kind in tiny.KINDS for name in WHOLE for i in range(len(OPTIONS.get(name, [{}])))]
#: On a tied head nothing is sliced off.
CASES = [c for c in CASES if c != ("tied", "slicegpt", 1) or "slice_head" not in OPTIONS["slicegpt"][1]]


def recipe(name: str, which: int = 0, ratio: float = 0.25, **more) -> rcpu.Recipe:
    return rcpu.Recipe(method=name, ratio=ratio, **OPTIONS.get(name, [{}])[which], **more)


@functools.cache
def pruned(kind: str, name: str, which: int = 0) -> rcpu.PruneResult:
    """A result to look at and never to change."""
    return rcpu.prune(
        tiny.net(kind), tiny.calibration(), recipe(name, which, 0.5 if which == 1 and name == "mini-llm" else 0.25)
    )


@pytest.mark.parametrize(("kind", "name", "which"), CASES)
def test_the_dense_model_stays_and_the_plan_knew_the_cost(kind, name, which):
    net, result = tiny.net(kind), pruned(kind, name, which)
    before = tiny.snapshot(net)
    again = rcpu.prune(net, tiny.calibration(), result.recipe)
    tiny.assert_unchanged(net, before)
    assert tiny.logits(again.net).equal(tiny.logits(result.net))
    found, plan = rcpu.cost(result.net), rcpu.plan(net, result.recipe)
    assert sizes.parameter_count(result.net.config) == found.parameters
    if name != "flop":  # whose gates decide what goes where, for much the same sum
        assert found == plan.after
    assert plan.before == rcpu.cost(net)
    assert not any(t.isinf().any() for t in result.found.values())  # NaN is what was not tried


@pytest.mark.parametrize(("kind", "name", "which"), CASES)
def test_saved_reloaded_and_rebuilt_it_gives_the_same_logits(kind, name, which, tmp_path):
    result = pruned(kind, name, which)
    again = rcpu.load_model(str(tiny.save(result.net, tmp_path / "model")), "cpu").net
    assert tiny.logits(again).equal(tiny.logits(result.net))
    rebuilt = rebuild(tiny.net(kind), Edits.from_tensors(result.edits.to_tensors()))
    assert tiny.logits(rebuilt).equal(tiny.logits(result.net))


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in ("mha", "gqa") for name in WHOLE])
def test_it_continues_as_its_full_pass_does(kind, name):
    net, prompt = pruned(kind, name).net, tiny.ids(1, 7, seed=5)
    found = net.generate(prompt, max_new_tokens=6, do_sample=False, pad_token_id=tiny.END)
    for end in range(prompt.shape[1], found.shape[1]):
        assert tiny.logits(net, found[:, :end])[0, -1].argmax() == found[0, end]


@pytest.mark.parametrize("name", WHOLE)
def test_it_tells_how_far_it_is_and_can_be_stopped_anywhere(name, windows):
    net, told = tiny.net("gqa"), []
    rcpu.prune(net, windows, recipe(name), progress=lambda p: told.append(p.fraction))
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert max(b - a for a, b in pairwise(told)) < 0.35
    before = tiny.snapshot(net)
    for last in (0, len(told) // 2, len(told) - 2):
        calls = iter(range(len(told)))
        with pytest.raises(rcpu.Cancelled):
            rcpu.prune(net, windows, recipe(name), cancelled=lambda calls=calls, last=last: next(calls) >= last)
        tiny.assert_unchanged(net, before)


@pytest.mark.parametrize("name", WHOLE)
def test_only_a_choice_of_columns_has_layers_and_sites(name):
    for setting in ({"layers": (0,)}, {"sites": ("o_proj",)}, {"ratios": ((0, 0.1),)}):
        with pytest.raises(rcpu.RcpuError, match=f"method '{name}' works on every layer and both of its blocks"):
            recipe(name, **setting)


@pytest.mark.parametrize("name", WHOLE)
def test_a_bad_option_is_a_sentence(name):
    with pytest.raises(rcpu.RcpuError, match="has no option 'scorer': it has"):
        rcpu.Recipe(method=name, scorer="flap")


@pytest.mark.parametrize("name", [name for name in WHOLE if name != "z-pruner"])  # which has the dense sizes
def test_a_pruned_model_is_not_pruned_again(name, windows):
    with pytest.raises(rcpu.RcpuError, match="it is already pruned"):
        rcpu.prune(pruned("gqa", name).net, windows, recipe(name))


@pytest.mark.parametrize("name", WHOLE)
def test_in_bf16_it_stays_bf16(name, windows):
    net = copy.deepcopy(tiny.net("gqa")).bfloat16()
    result = rcpu.prune(net, windows, recipe(name))
    assert {p.dtype for p in result.net.parameters()} == {torch.bfloat16}
    assert tiny.logits(result.net).isfinite().all()


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in tiny.KINDS for name in WHOLE])
def test_padded_it_is_the_same_function_or_a_sentence(kind, name):
    result = pruned(kind, name)
    if name in ("slicegpt", "olica"):
        with pytest.raises(rcpu.RcpuError, match=r"cannot be exported as padded: .*(sliced|branch)"):
            shaped(result.net, "padded")
        return
    tiny.assert_same_function(shaped(result.net, "padded"), result.net, accuracy=1e-3)


@pytest.mark.parametrize("name", WHOLE)
def test_saving_padded_never_writes_the_dense_model(name, model, windows, tmp_path):
    result = rcpu.prune(model.net, windows, recipe(name))
    if name in ("slicegpt", "olica"):
        with pytest.raises(rcpu.RcpuError, match="cannot be exported as padded"):
            rcpu.save(model, result, tmp_path / "out", shape="padded")
        assert not (tmp_path / "out").exists()
        return
    rcpu.save(model, result, tmp_path / "out", shape="padded")
    again = rcpu.load_model(str(tmp_path / "out"), "cpu").net
    tiny.assert_same_function(again, result.net, accuracy=1e-3)
