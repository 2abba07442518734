"""The text of each token of a window, when only the tokens are known."""

from __future__ import annotations

from collections.abc import Sequence

from rcpu.text.token_text import token_text

CHARACTER = 4  # bytes of a UTF-8 character at most, and so tokens


def token_pieces(tokenizer, ids: Sequence[int]) -> tuple[str, ...]:
    """A stretch of text for every token; a character of several tokens is with the first, the others are empty.

    Bytes that make no whole character, as where a window begins within one, are shown as ``<E9>``.
    """
    texts = {token: token_text(tokenizer, token) for token in set(ids)}
    broken = {token for token in texts if "\ufffd" in tokenizer.decode([token], clean_up_tokenization_spaces=False)}
    found: list[str] = []
    while len(found) < len(ids):
        start = len(found)
        count = _whole(tokenizer, ids[start : start + CHARACTER], broken)
        if count > 1:
            found += [_decoded(tokenizer, ids[start : start + count]), *[""] * (count - 1)]
        else:
            found.append(texts[ids[start]])
    return tuple(found)


def _whole(tokenizer, ids: Sequence[int], broken: set[int]) -> int:
    """How many of these tokens make whole characters together: 1 unless the first is broken and others complete it."""
    if ids[0] not in broken:
        return 1
    return next((n for n in range(2, len(ids) + 1) if "\ufffd" not in _decoded(tokenizer, ids[:n])), 1)


def _decoded(tokenizer, ids: Sequence[int]) -> str:
    once, twice = (tokenizer.decode([*ids] * n, clean_up_tokenization_spaces=False) for n in (1, 2))
    return twice[len(once) :]  # the first token of a text may lose its blank
