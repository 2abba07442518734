"""A model's tokenizer, refused when it is loaded rather than found empty when it is used."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, LlamaConfig, LlamaTokenizer

from rcpu.base.errors import RcpuError
from rcpu.base.quiet import quiet_transformers
from rcpu.models.files import check_encoding, content, read_json, reason

OPTIONS = {"local_files_only": True, "trust_remote_code": False}


def load_tokenizer(folder: Path):
    """The tokenizer of a folder: from tokenizer.json, else from a SentencePiece model, as LLaMA-1 and -2 have it.

    Raises:
        RcpuError: there is none, or a file of it cannot be read or holds no vocabulary.
    """
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (folder / name).exists():
            read_json(folder / name, "the configuration of a tokenizer")
    whole, pieces = folder / "tokenizer.json", folder / "tokenizer.model"
    lists = [folder / "vocab.json", folder / "merges.txt"]
    files = next((f for f in ([whole], [pieces], lists) if all(path.exists() for path in f)), None)
    if files is None:
        raise RcpuError(
            f"{folder} has no tokenizer: expected tokenizer.json or tokenizer.model beside the weights; copy it from "
            "where the model comes from"
        )
    for path in files:
        check_encoding(path, content(path, 64)) if path.suffix == ".json" else content(path, 64)
    with quiet_transformers():
        try:
            if files == [pieces]:
                tokenizer = _of_pieces(folder)
            else:  # config.json was read and checked, and says no more of it than that this is a LLaMA
                tokenizer = AutoTokenizer.from_pretrained(folder, config=LlamaConfig(), **OPTIONS)
            empty = not tokenizer("a", add_special_tokens=False).input_ids
        except Exception as error:  # transformers, tokenizers and sentencepiece raise all kinds
            raise RcpuError(f"cannot load {files[0]}: {reason(error)}") from error
    if empty:
        raise RcpuError(f"{files[0]} has no vocabulary: copy it again from where the model comes from")
    return tokenizer


def _of_pieces(folder: Path) -> LlamaTokenizer:
    """By name: without its class transformers reads such a file as if blanks did not matter."""
    from sentencepiece import SentencePieceProcessor

    path = folder / "tokenizer.model"
    try:
        SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise ValueError("it is not a SentencePiece model; a tokenizer.json beside it would be read instead") from error
    config = folder / "tokenizer_config.json"
    told = read_json(config, "the configuration of a tokenizer") if config.exists() else {}
    return LlamaTokenizer.from_pretrained(folder, **OPTIONS, add_bos_token=told.get("add_bos_token", True))
