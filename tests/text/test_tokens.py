"""Texts as tokens and back with a tokenizer that drops a first blank, and with one that ends every text."""

import copy
import itertools
import json

import pytest
import torch

import rcpu
from rcpu.cli import main
from rcpu.measure import compare_tokens, next_tokens
from rcpu.text import token_pieces
from rcpu.text.token_text import token_text
from rcpu.text.tokens import CONTEXT, appended, continuation, plain_lines, text_ids
from rcpu.text.windows import encode
from tests import tiny

WO = tiny.WORDS.index("▁wo")


def always(*tokens: int):
    """A model that answers every token with the next of these, the first where none of them came before."""
    net = copy.deepcopy(tiny.llama(vocab_size=len(tiny.WORDS), eos_token_id=2, hidden_size=296))
    for layer in net.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    net.model.norm.weight.fill_(1)
    net.model.embed_tokens.weight.zero_().fill_diagonal_(1)
    net.lm_head.weight.zero_()
    net.lm_head.weight[tokens[0]] = 0.5
    for before, after in itertools.pairwise(tokens):
        net.lm_head.weight[after, before] = 1
    return net


@pytest.mark.parametrize("begin", [False, True])
@pytest.mark.parametrize("prompt", ["hello", "hello ", "é", "one\ntwo", "x" * (CONTEXT + 9)])
def test_a_continuation_keeps_its_first_blank(prompt, begin):
    steps = list(rcpu.stream(always(WO), tiny.blanks(begin), prompt, max_new_tokens=3))
    assert [step.text for step in steps] == [" wo", " wo wo", " wo wo wo"]


def test_a_continuation_is_what_all_tokens_say_more_than_the_prompt():
    tokenizer = tiny.blanks(begin=True)
    for text, more in (("hello", " wo hello"), ("he", "llo wo"), ("", "wo"), ("wo", "é\n x")):
        before = text_ids(tokenizer, text)
        whole = text_ids(tokenizer, text + more)
        assert whole[: len(before)] == before or text == ""
        assert continuation(tokenizer, before, whole[len(before) :]) == more


def test_a_character_of_several_tokens_comes_whole():
    e_acute = [tiny.WORDS.index("<0xC3>"), tiny.WORDS.index("<0xA9>")]
    steps = list(rcpu.stream(always(*e_acute, WO), tiny.blanks(), "caf", max_new_tokens=3))
    assert [step.text for step in steps] == ["", "é", "é wo"]


def test_the_command_line_prints_and_writes_the_blank(tmp_path, capsys):
    net = always(WO)
    net.save_pretrained(tmp_path / "model")
    tiny.blanks().save_pretrained(tmp_path / "model")
    arguments = ["--model", str(tmp_path / "model"), "--prompt", "hello", "--max-new-tokens", "2"]
    assert main(["generate", *arguments, "--json", str(tmp_path / "x.json")]) == 0
    assert capsys.readouterr().out == "hello wo wo\n"
    assert json.loads((tmp_path / "x.json").read_text())["text"] == " wo wo"


def test_single_tokens_show_what_they_are():
    tokenizer = tiny.blanks()
    shown = {word: token_text(tokenizer, tiny.WORDS.index(word)) for word in ("▁wo", "▁", "o", "<0xE9>", "<s>")}
    assert shown == {"▁wo": " wo", "▁": " ", "o": "o", "<0xE9>": "<E9>", "<s>": "<s>"}
    assert "".join(token_pieces(tokenizer, text_ids(tokenizer, "hello wo é"))) == " hello wo é"
    row = next_tokens({"dense": always(WO)}, tokenizer, "hello", top=1)[0]
    assert row.text == "␣wo"
    views = compare_tokens({"dense": always(WO)}, tokenizer, "hello wo")
    assert "".join(views["dense"].tokens) == "hello wo"
    assert views["dense"].tokens[-1] == " wo"
    assert views["dense"].top[-1] == " wo"


@pytest.mark.parametrize("begin", [False, True])
def test_nothing_is_continued_after_an_end(begin):
    plain, ended = tiny.blanks(begin), tiny.blanks(begin, end=True)
    assert (appended(plain), appended(ended), appended(tiny.tokenizer())) == (0, 1, 0)
    assert ended("hello").input_ids == [*plain("hello").input_ids, 2]
    assert text_ids(ended, "hello") == text_ids(plain, "hello") == plain("hello").input_ids
    assert encode("hello wo", ended).equal(encode("hello wo", plain))
    net = tiny.llama(vocab_size=len(tiny.WORDS), eos_token_id=2)
    assert (
        rcpu.generate(net, ended, "hello", max_new_tokens=5).text
        == rcpu.generate(net, plain, "hello", max_new_tokens=5).text
    )
    assert compare_tokens({"dense": net}, ended, "hello wo") == compare_tokens({"dense": net}, plain, "hello wo")
    assert next_tokens({"dense": net}, ended, "hello") == next_tokens({"dense": net}, plain, "hello")


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_lines_end_alike_wherever_they_were_written(tmp_path, end, tokenizer):
    text, other = "one\n\ntwo\n", f"one{end}{end}two{end}"
    assert plain_lines(other) == text
    assert encode(other, tokenizer).equal(encode(text, tokenizer))
    for name, written in (("lf.txt", text), ("crlf.txt", other)):
        (tmp_path / name).write_bytes(written.encode())
    here, there = (rcpu.load_text(str(tmp_path / name)) for name in ("lf.txt", "crlf.txt"))
    assert here.digest == there.digest
    net = tiny.net("gqa")
    answers = [rcpu.generate(net, tokenizer, prompt, max_new_tokens=5).text for prompt in (text, other)]
    assert answers[0] == answers[1]
    assert compare_tokens({"dense": net}, tokenizer, text) == compare_tokens({"dense": net}, tokenizer, other)
    assert torch.equal(*(rcpu.evaluation_windows(t, tokenizer, window=4) for t in (here, there)))
