"""Texts as tokens, and tokens as texts: what stands before, what is put after, and blanks that belong between."""

from __future__ import annotations

from collections.abc import Sequence

CONTEXT = 64  # tokens before a continuation that are decoded with it


def plain_lines(text: str) -> str:
    """The text with a newline alone at the end of every line, whatever system it was written on."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def text_ids(tokenizer, text: str) -> list[int]:
    """Token ids of a text with whatever the tokenizer puts before one, and nothing of what it puts after."""
    ids = tokenizer(plain_lines(text), verbose=False).input_ids
    return ids[: len(ids) - appended(tokenizer)]


def appended(tokenizer) -> int:
    """How many tokens a tokenizer puts after every text: a model would begin another one there."""
    if not getattr(tokenizer, "num_special_tokens_to_add", int)():
        return 0
    whole, bare = (tokenizer("a", add_special_tokens=special).input_ids for special in (True, False))
    more = len(whole) - len(bare)
    return next((more - i for i in range(more + 1) if whole[i : i + len(bare)] == bare), 0)


def continuation(tokenizer, before: Sequence[int], tokens: Sequence[int]) -> str:
    """The text that tokens add to those before them, leading blank included; special tokens are left out.

    Both are decoded together: of a text that stands alone, tokenizers like LLaMA-2's drop the first blank.
    """
    before = before[-CONTEXT:]
    start, whole = (
        tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for ids in (before, [*before, *tokens])
    )
    same = next((i for i, (a, b) in enumerate(zip(start, whole, strict=False)) if a != b), min(len(start), len(whole)))
    return whole[same:]
