"""Tokenizers as LLaMA-1 and -2 have them, and folders without one that can be used."""

import json
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from rcpu import RcpuError
from rcpu.models.tokenizers import load_tokenizer
from tests import tiny

SENTENCES = ["the old lighthouse keeper walked down to the sea", "hello wo", "he looked at the waves"]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> bytes:
    """A SentencePiece model with blanks as U+2581 and unknown characters as bytes."""
    folder = tmp_path_factory.mktemp("pieces")
    SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 30),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return (folder / "tokenizer.model").read_bytes()


@pytest.mark.parametrize(
    "config", [None, {"tokenizer_class": "LlamaTokenizer"}, {"tokenizer_class": "PreTrainedTokenizerFast"}]
)
def test_a_sentencepiece_model_alone_is_read_as_it_is_meant(tmp_path, pieces, config):
    (tmp_path / "tokenizer.model").write_bytes(pieces)
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer, right = load_tokenizer(tmp_path), SentencePieceProcessor(model_proto=pieces)
    for text in ("hello wo", "the keeper  walked", "a é", "hello wo\nhe"):
        assert tokenizer(text).input_ids == [1, *right.encode(text)]
        assert tokenizer.decode(right.encode(text)) == text


def test_what_a_tokenizer_is_told_to_add_is_added(tmp_path, pieces):
    (tmp_path / "tokenizer.model").write_bytes(pieces)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False, "add_eos_token": True}))
    assert load_tokenizer(tmp_path)("hello").input_ids == [
        *SentencePieceProcessor(model_proto=pieces).encode("hello"),
        2,
    ]


def write(path: Path, content: str | bytes) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


EMPTY = '{"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": []}'
LLAMA = '{"tokenizer_class": "LlamaTokenizer"}'


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no tokenizer: expected tokenizer.json or tokenizer.model beside the weights"),
        ({"tokenizer_config.json": LLAMA}, "has no tokenizer: expected tokenizer.json or tokenizer.model"),
        ({"vocab.json": "{}"}, "has no tokenizer: expected tokenizer.json or tokenizer.model"),
        ({"tokenizer.json": EMPTY}, "tokenizer.json has no vocabulary"),
        ({"tokenizer.json": ""}, "cannot load .*tokenizer.json: "),
        ({"tokenizer.json": "[]"}, "cannot load .*tokenizer.json: "),
        ({"tokenizer.model": b""}, "cannot load .*tokenizer.model: it is not a SentencePiece model"),
        ({"tokenizer.model": b"IQ== 0\nIg== 1\n"}, "cannot load .*tokenizer.model: it is not a SentencePiece model"),
        ({"tokenizer.model": b"version https://git-lfs.github.com/spec/v1\n"}, "tokenizer.model is a git-lfs pointer"),
    ],
    ids=str,
)
def test_folders_without_a_usable_tokenizer(tmp_path, files, message):
    for name, content in files.items():
        write(tmp_path / name, content)
    with pytest.raises(RcpuError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_right_file_is_read_where_both_are(tmp_path, pieces):
    tiny.tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(pieces)
    assert load_tokenizer(tmp_path)("ab").input_ids == tiny.tokenizer()("ab").input_ids
