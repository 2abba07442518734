"""Perplexity against the loss of Hugging Face, costs against a count by hand."""

import copy
import math

import pytest
import torch

import rcpu
from rcpu.models.sizes import parts
from tests import tiny


def perplexity(net, windows=None, **options) -> rcpu.Perplexity:
    return rcpu.perplexity(net, tiny.ids(7, 12) if windows is None else windows, text="random", **options)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_perplexity_is_the_exponential_of_the_loss(kind):
    net, windows = tiny.net(kind), tiny.ids(7, 12)
    with torch.no_grad():
        losses = [net(input_ids=window[None], labels=window[None]).loss.item() for window in windows]
    found = perplexity(net, windows)
    assert found.perplexity == pytest.approx(math.exp(sum(losses) / 7), rel=1e-5)
    by_position = [
        torch.nn.functional.cross_entropy(net(windows).logits[:, i], windows[:, i + 1]).item() for i in range(11)
    ]
    assert found.by_position == pytest.approx(by_position, rel=1e-5)
    assert found.to_dict() == {
        "perplexity": found.perplexity,
        "tokens": 77,
        "window": 12,
        "windows": 7,
        "text": "random",
        "digest": found.digest,
        "interval": [found.interval.low, found.interval.high],
    }


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_batch_size_does_not_matter(gqa, batch):
    assert perplexity(gqa, batch=batch).perplexity == pytest.approx(perplexity(gqa).perplexity, rel=1e-5)


def test_windows_do_not_see_one_another(mha):
    windows = tiny.ids(6, 12)
    halves = [math.log(perplexity(mha, part).perplexity) for part in windows.split(3)]
    assert math.log(perplexity(mha, windows.flip(0)).perplexity) == pytest.approx(sum(halves) / 2, rel=1e-5)


def test_perplexity_of_a_uniform_guess_is_the_vocabulary(mha):
    net = copy.deepcopy(mha)
    net.lm_head.weight.zero_()
    assert perplexity(net).perplexity == pytest.approx(tiny.VOCABULARY, rel=1e-5)


def test_a_hopeless_model_has_infinite_perplexity(mha):
    net = copy.deepcopy(mha)
    net.lm_head.weight.mul_(1e4)
    assert perplexity(net).perplexity == math.inf


def test_overflow_is_an_error(mha):
    net = copy.deepcopy(mha)
    net.model.norm.weight[0] = torch.nan
    with pytest.raises(rcpu.RcpuError, match="loss on random is nan: its weights or dtype overflow"):
        perplexity(net)


def test_windows_longer_than_the_models_positions_are_refused(mha):
    assert perplexity(mha, tiny.ids(1, 256)).tokens == 255
    with pytest.raises(rcpu.RcpuError, match="a window of 257 tokens is longer than the model's 256 positions"):
        perplexity(mha, tiny.ids(1, 257))


def test_progress_and_cancel(mha):
    fractions = []
    perplexity(mha, batch=2, progress=fractions.append)
    assert fractions == pytest.approx([2 / 7, 4 / 7, 6 / 7, 1])
    seen = []
    with pytest.raises(rcpu.Cancelled):
        perplexity(mha, batch=2, progress=seen.append, cancelled=lambda: len(seen) == 2)
    assert seen == fractions[:2]


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_cost_is_the_count_by_hand(kind):
    net, c = tiny.net(kind), tiny.net(kind).config
    d, heads, kv, f = c.hidden_size, c.num_attention_heads * 8, c.num_key_value_heads * 8, c.intermediate_size
    weights = 3 * (2 * d * heads + 2 * d * kv + 3 * d * f)
    biases = 3 * (heads + 2 * kv + d + 2 * f + d) if kind == "biased" else 0
    table = tiny.VOCABULARY * d
    parameters = weights + biases + 3 * 2 * d + d + table * (1 if kind == "tied" else 2)
    assert rcpu.cost(net) == rcpu.Cost(parameters, 4 * parameters, 2 * (weights + table))
    assert rcpu.cost(copy.deepcopy(net).bfloat16()).bytes == 2 * parameters
    found = parts(net)
    assert sum(found.values()) == parameters
    assert found["embeddings"] == table
    assert found["o_proj"] == 3 * (d * heads + (d if biases else 0))
    assert found["gate, up"] == 3 * 2 * (d * f + (f if biases else 0))
    assert found["norms"] == 7 * d
    assert ("output head" in found) == (kind != "tied")
