"""Text token by token: greedy as in Hugging Face, sampling that is its own master."""

import copy
import itertools

import pytest
import torch

import rcpu
from rcpu.measure.generation import _pick
from tests import tiny

PROMPT = "The quick brown fox"
SAMPLED = {"temperature": 1.5, "top_p": 0.9, "max_new_tokens": 12}


def ending(net, token: int):
    """A copy of a model that ends its text with this token."""
    net = copy.deepcopy(net)
    net.generation_config.eos_token_id = [token, tiny.END]
    return net


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_greedy_is_that_of_generate(kind, tokenizer):
    net = tiny.net(kind)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    expected = net.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=tiny.END
    )[0, ids.shape[1] :]
    steps = list(rcpu.stream(net, tokenizer, PROMPT, max_new_tokens=20))
    assert steps[-1].tokens == len(expected)
    assert [step.text for step in steps] == [
        tokenizer.decode(expected[: i + 1]).rstrip("\ufffd") for i in range(len(expected))
    ]


def test_every_token_is_reported(gqa, tokenizer):
    steps = list(rcpu.stream(gqa, tokenizer, PROMPT, max_new_tokens=9))
    assert [step.tokens for step in steps] == list(range(1, 10))
    assert not any(step.finished for step in steps)
    assert all(a.seconds < b.seconds for a, b in itertools.pairwise(steps))
    assert steps[0].tokens_per_second == 0
    assert all(step.tokens_per_second > 0 for step in steps[1:])
    last = rcpu.generate(gqa, tokenizer, PROMPT, max_new_tokens=9)
    assert (last.text, last.tokens) == (steps[-1].text, 9)


def test_the_model_may_end_its_text(gqa, tokenizer):
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    expected = gqa.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, pad_token_id=tiny.END)
    new = expected[0, ids.shape[1] :].tolist()
    last = rcpu.generate(ending(gqa, new[4]), tokenizer, PROMPT, max_new_tokens=6)
    assert last.finished
    assert last.tokens == new.index(new[4])
    assert last.text == tokenizer.decode(new[: last.tokens]).rstrip("\ufffd")


def test_half_a_character_is_not_shown(gqa, tokenizer):
    for seed in range(8):
        for step in rcpu.stream(gqa, tokenizer, PROMPT, seed=seed, **SAMPLED):
            assert not step.text.endswith("\ufffd")


def test_sampling_depends_on_its_seed_alone(gqa, tokenizer):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = rcpu.generate(gqa, tokenizer, PROMPT, seed=5, **SAMPLED).text
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(1)
    assert rcpu.generate(gqa, tokenizer, PROMPT, seed=5, **SAMPLED).text == first
    assert len({rcpu.generate(gqa, tokenizer, PROMPT, seed=seed, **SAMPLED).text for seed in range(5)}) > 1


def test_streams_that_take_turns_do_not_disturb_one_another(gqa, mha, tokenizer):
    alone = [list(rcpu.stream(net, tokenizer, PROMPT, seed=5, **SAMPLED)) for net in (gqa, mha)]
    turns = zip(*[rcpu.stream(net, tokenizer, PROMPT, seed=5, **SAMPLED) for net in (gqa, mha)], strict=False)
    for i, steps in enumerate(turns):
        assert [step.text for step in steps] == [expected[i].text for expected in alone]


@pytest.mark.parametrize("options", [{"top_p": 1e-9}, {"temperature": 1e-3}, {"temperature": 1e-42}], ids=str)
def test_narrow_sampling_is_greedy(gqa, tokenizer, options):
    found = rcpu.generate(gqa, tokenizer, PROMPT, max_new_tokens=8, **{"temperature": 1.0, **options})
    assert found.text == rcpu.generate(gqa, tokenizer, PROMPT, max_new_tokens=8).text


@pytest.mark.parametrize(
    ("top_p", "nucleus"), [(1.0, {0, 1, 2, 3}), (0.9, {0, 1, 2}), (0.75, {0, 1}), (0.5, {0, 1}), (0.3, {1})]
)
def test_the_nucleus_is_the_fewest_tokens_that_reach_top_p(top_p, nucleus):
    logits = torch.tensor([0.3, 0.48, 0.17, 0.05]).log()
    generator = torch.Generator().manual_seed(0)
    drawn = [_pick(logits, 1.0, top_p, generator) for _ in range(400)]
    assert set(drawn) == nucleus
    total = sum(logits[token].exp() for token in nucleus)
    for token in nucleus:
        assert drawn.count(token) / 400 == pytest.approx((logits[token].exp() / total).item(), abs=0.08)


def test_temperature_flattens():
    logits = torch.tensor([0.0, 2.0])
    generator = torch.Generator().manual_seed(0)
    shares = [sum(_pick(logits, t, 1.0, generator) for _ in range(400)) / 400 for t in (0.5, 1.0, 4.0)]
    expected = [torch.tensor(2 / t).sigmoid().item() for t in (0.5, 1.0, 4.0)]
    assert shares == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "need a finite temperature ≥ 0, .* got -0.1, 1 and 64"),
        ({"temperature": float("inf")}, "need a finite temperature"),
        ({"temperature": float("nan")}, "need a finite temperature ≥ 0"),
        ({"top_p": 0.0}, "0 < top-p ≤ 1"),
        ({"top_p": 1.01}, "0 < top-p ≤ 1"),
        ({"top_p": float("nan")}, "0 < top-p ≤ 1"),
        ({"max_new_tokens": 0}, "at least one new token"),
        ({"seed": -1}, "seed must not be negative"),
        ({"seed": 2**63}, "seed must be below 2⁶³"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"max_new_tokens": 238}, "prompt has 19 tokens and 238 are to come, but the model has 256 positions"),
        ({"prompt": "x" * 2000}, "prompt has 2,000 tokens and 64 are to come"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_inputs_are_refused(gqa, tokenizer, options, message):
    with pytest.raises(rcpu.RcpuError, match=message):
        rcpu.generate(gqa, tokenizer, **{"prompt": PROMPT, **options})


def test_all_positions_can_be_used(mha, tokenizer):
    assert rcpu.generate(mha, tokenizer, "x" * 250, max_new_tokens=6).tokens == 6


def test_overflow_is_an_error(mha, tokenizer):
    net = copy.deepcopy(mha)
    net.lm_head.weight[3, 3] = torch.nan
    with pytest.raises(rcpu.RcpuError, match="logits hold NaN or Inf"):
        rcpu.generate(net, tokenizer, PROMPT)


def test_cancel_stops_between_tokens(mha, tokenizer):
    answers = iter([False, False, False, True])
    with pytest.raises(rcpu.Cancelled):
        list(rcpu.stream(mha, tokenizer, PROMPT, cancelled=lambda: next(answers)))
    assert not list(answers)
