"""Predictions token by token against whole logits in fp64, and the laws that they obey."""

import copy
import math

import pytest
import torch

from rcpu import Cancelled, RcpuError, perplexity
from rcpu.measure import predictions
from rcpu.measure.predictions import compare_tokens, next_tokens
from rcpu.text.token_text import token_text, visible
from rcpu.text.tokens import plain_lines
from tests import tiny

TEXT = "naïve 😀\n\tdef f(x):\n  return 雪 & <b>"


@pytest.fixture(scope="module")
def nets() -> dict:
    """Three models of one vocabulary, which is all that a comparison asks for."""
    return {"pruned": tiny.net("biased"), "dense": tiny.net("gqa"), "compensated": tiny.net("tied")}


def log_probabilities(net, ids: torch.Tensor) -> torch.Tensor:
    """(tokens, vocabulary) in fp64, the plain way."""
    return tiny.logits(net, ids[None])[0].double().log_softmax(-1)


@pytest.fixture(scope="module")
def ids(tokenizer) -> torch.Tensor:
    return torch.tensor(tokenizer(TEXT).input_ids)


def test_losses_divergences_and_choices_are_those_of_the_whole_logits(nets, tokenizer, ids):
    found = compare_tokens(nets, tokenizer, TEXT)
    assert list(found) == list(nets)
    p = log_probabilities(nets["dense"], ids)[:-1]
    for name, view in found.items():
        q = log_probabilities(nets[name], ids)[:-1]
        loss = -q[torch.arange(len(q)), ids[1:]]
        close = {"rel": 1e-4, "abs": 1e-5}
        assert view.loss[1:] == pytest.approx(loss.tolist(), **close)
        assert view.probability[1:] == pytest.approx((-loss).exp().tolist(), **close)
        assert view.divergence[1:] == pytest.approx((p.exp() * (p - q)).sum(-1).tolist(), **close)
        assert view.top_probability[1:] == pytest.approx(q.max(-1).values.exp().tolist(), **close)
        assert list(view.top[1:]) == [token_text(tokenizer, int(t)) for t in q.argmax(-1)]
        for row in (view.loss, view.probability, view.divergence, view.top, view.top_probability):
            assert row[0] is None
            assert len(row) == len(view.tokens) == len(ids)


def test_divergence_is_zero_from_itself_and_never_negative(nets, tokenizer):
    twin = {"same weights": copy.deepcopy(nets["dense"])}
    found = compare_tokens(nets | twin, tokenizer, TEXT)
    assert set(found["dense"].divergence[1:]) == {0.0}
    assert max(found["same weights"].divergence[1:]) < 1e-6
    for name in ("pruned", "compensated"):
        assert min(found[name].divergence[1:]) > 0
    other = compare_tokens(nets, tokenizer, TEXT, reference="pruned")
    assert set(other["pruned"].divergence[1:]) == {0.0}
    assert other["dense"].loss == pytest.approx(found["dense"].loss)
    assert other["dense"].divergence[1:] != pytest.approx(found["pruned"].divergence[1:])  # not symmetric


def test_mean_loss_is_that_of_perplexity(nets, tokenizer, ids):
    for name, view in compare_tokens(nets, tokenizer, TEXT).items():
        mean = sum(view.loss[1:]) / (len(ids) - 1)
        assert math.exp(mean) == pytest.approx(perplexity(nets[name], ids[None], text="text").perplexity, rel=1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_chunks_do_not_matter(nets, tokenizer, monkeypatch, chunk):
    expected = compare_tokens(nets, tokenizer, TEXT)
    monkeypatch.setattr(predictions, "CHUNK", chunk)
    for name, view in compare_tokens(nets, tokenizer, TEXT).items():
        assert view.tokens == expected[name].tokens
        assert view.top == expected[name].top
        assert view.loss[1:] == pytest.approx(expected[name].loss[1:], abs=1e-5)
        assert view.divergence[1:] == pytest.approx(expected[name].divergence[1:], abs=1e-5)


def test_logits_exist_for_one_chunk_at_a_time(nets, tokenizer, monkeypatch):
    monkeypatch.setattr(predictions, "CHUNK", 8)
    sizes = []
    hooks = [net.lm_head.register_forward_hook(lambda *a: sizes.append(a[-1].shape[0])) for net in nets.values()]
    compare_tokens(nets, tokenizer, TEXT)
    for hook in hooks:
        hook.remove()
    assert max(sizes) == 8


@pytest.mark.parametrize("text", [TEXT, "  two  ", "\r\n\n", "😀😀", "e\u0301 a\u200db\x00", "<|end|></s>x", "שלום"])
def test_pieces_join_to_the_text(nets, tokenizer, text):
    tokens = compare_tokens({"dense": nets["dense"]}, tokenizer, text)["dense"].tokens
    assert "".join(tokens) == plain_lines(text)


def test_a_character_of_several_tokens_is_with_the_first(nets, tokenizer):
    tokens = compare_tokens({"dense": nets["dense"]}, tokenizer, "a😀b")["dense"].tokens
    assert tokens == ("a", "😀", "", "", "", "b")


@pytest.mark.parametrize(
    ("ends", "pieces"),
    [
        ([0, 2, 5], ["", "ab", " cd"]),  # a token that was put before the text
        ([2, 5, 0], ["ab", " cd", ""]),  # or behind it
        ([2, 4], ["ab", " cd"]),  # the tokenizer left out the last character
    ],
)
def test_pieces_from_offsets(ends, pieces):
    assert list(predictions._stretches("ab cd", ends)) == pieces


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "the text is empty: give at least one token"),
        ("a", {}, "the text is a single token, and the first is only read: give at least two"),
        ("x" * 21, {"max_tokens": 20}, "the text has 21 tokens, and 20 at most are compared: shorten it"),
        ("x" * 1200, {}, "the text has 1,200 tokens, and 512 at most"),
        ("x" * 257, {}, "a window of 257 tokens is longer than the model's 256 positions"),
        ("ab", {"reference": "full"}, "unknown reference 'full': choose one of pruned, dense, compensated"),
    ],
)
def test_texts_that_cannot_be_compared(nets, tokenizer, text, options, message):
    with pytest.raises(RcpuError, match=message):
        compare_tokens(nets, tokenizer, text, **options)


def test_models_that_cannot_be_compared(nets, tokenizer):
    for call in (compare_tokens, next_tokens):
        with pytest.raises(RcpuError, match="vocabularies of 257 and 300 tokens cannot be compared"):
            call(nets | {"other": tiny.llama(vocab_size=300)}, tokenizer, TEXT)
        with pytest.raises(RcpuError, match="the model's vocabulary has 100"):
            call({"dense": tiny.llama(vocab_size=100, eos_token_id=None)}, tokenizer, TEXT)
        broken = copy.deepcopy(nets["pruned"])
        broken.lm_head.weight[3, 3] = torch.nan
        with pytest.raises(RcpuError, match="the logits of broken hold NaN or Inf"):
            call(nets | {"broken": broken}, tokenizer, TEXT)


def test_tokenizers_without_offsets_are_refused(nets):
    class Slow:
        is_fast = False

    with pytest.raises(RcpuError, match="does not say which characters a token stands for"):
        compare_tokens(nets, Slow(), TEXT)


def test_progress_and_cancel_of_a_comparison(nets, tokenizer):
    seen = []
    compare_tokens(nets, tokenizer, TEXT * 3, progress=seen.append)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, 1)
    for stop in (2, 4):
        calls = iter(range(stop))
        with pytest.raises(Cancelled):
            compare_tokens(nets, tokenizer, TEXT * 3, cancelled=lambda calls=calls: next(calls, None) is None)


def test_models_are_left_as_they_were(nets, tokenizer):
    before = tiny.snapshot(nets["pruned"])
    compare_tokens(nets, tokenizer, TEXT)
    next_tokens(nets, tokenizer, TEXT)
    tiny.assert_unchanged(nets["pruned"], before)


def test_next_tokens_are_every_models_best_by_the_references_probability(nets, tokenizer, ids):
    found = next_tokens(nets, tokenizer, TEXT, top=4)
    rows = {name: log_probabilities(net, ids)[-1].exp() for name, net in nets.items()}
    assert {t.token for t in found} == {int(i) for row in rows.values() for i in row.topk(4).indices}
    held = [t.probability["dense"] for t in found]
    assert held == sorted(held, reverse=True)
    for t in found:
        assert t.text == visible(token_text(tokenizer, t.token))
        for name, row in rows.items():
            assert t.probability[name] == pytest.approx(row[t.token].item(), rel=1e-4)
            assert row.argsort(descending=True)[t.rank[name] - 1] == t.token


def test_the_whole_vocabulary_adds_up_to_one(nets, tokenizer):
    found = next_tokens(nets, tokenizer, "a", top=tiny.VOCABULARY)
    for name in nets:
        assert sum(t.probability[name] for t in found) == pytest.approx(1, abs=1e-5)
        assert sorted(t.rank[name] for t in found) == list(range(1, tiny.VOCABULARY + 1))


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", {}, "the text is empty"),
        ("x" * 300, {}, "a window of 300 tokens is longer than the model's 256 positions"),
        ("a", {"top": 0}, "top must be between 1 and the vocabulary's 257 tokens, got 0"),
        ("a", {"top": 258}, "got 258"),
        ("a", {"reference": "full"}, "unknown reference 'full'"),
    ],
)
def test_bad_prompts(nets, tokenizer, prompt, options, message):
    with pytest.raises(RcpuError, match=message):
        next_tokens(nets, tokenizer, prompt, **options)


@pytest.mark.parametrize(
    ("text", "shown"), [("a", "a"), (" ", " "), ("\n", "\n"), ("<", "<"), ("é", "<C3><A9>"), ("😀", "<F0><9F><98><80>")]
)
def test_what_a_token_stands_for(tokenizer, text, shown):
    assert "".join(token_text(tokenizer, t) for t in tokenizer(text).input_ids) == shown


def test_tokens_beyond_the_tokenizer_have_a_name(tokenizer):
    assert token_text(tokenizer, tiny.END) == "</s>"
    assert token_text(tokenizer, 1000) == "<1000>"


def test_blanks_are_visible():
    assert visible(" a\n\tb\r\x00\x7f") == "␣a↵⇥b␍␀␡"
