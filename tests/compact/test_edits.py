"""Edits on their way through a file make the same model again."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import rcpu
from rcpu.base.errors import RcpuError
from rcpu.compact import Edits, rebuild
from tests import tiny


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("compensation", ["rotation", "bias"])
def test_stored_edits_rebuild_the_same_model(kind, compensation, windows, tmp_path):
    dense = tiny.net(kind)
    before = tiny.snapshot(dense)
    recipe = rcpu.Recipe(ratio=0.4, compensation=compensation, layers=(0, 2))
    made = rcpu.prune(dense, windows, recipe)
    save_file(made.edits.to_tensors(), tmp_path / "edits.safetensors")
    again = rebuild(dense, Edits.from_tensors(load_file(tmp_path / "edits.safetensors")))
    assert torch.equal(tiny.logits(again), tiny.logits(made.net))
    tiny.assert_unchanged(dense, before)
    assert made.edits.bytes < rcpu.cost(made.net).bytes


def test_edits_of_another_model_are_refused(gqa, mha, windows):
    edits = rcpu.prune(gqa, windows, rcpu.Recipe(ratio=0.4)).edits
    with pytest.raises(RcpuError, match="the edits belong to a model of another shape"):
        rebuild(mha, edits)
    with pytest.raises(RcpuError, match="the edits change layer 1, but this model has layers 0 to 0"):
        rebuild(tiny.llama(num_hidden_layers=1, **tiny.KINDS["gqa"]), edits)


def test_a_foreign_file_is_refused():
    with pytest.raises(RcpuError, match=r"'lm_head\.weight' is no edit"):
        Edits.from_tensors({"lm_head.weight": torch.ones(1)})
