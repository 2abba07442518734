"""The text of one token, as bytes and special tokens are shown."""

from __future__ import annotations

import re

BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # as SentencePiece names a byte
BLANKS = {" ": "␣", "\n": "↵", "\t": "⇥", "\x7f": "␡"}
VISIBLE = str.maketrans({chr(c): chr(0x2400 + c) for c in range(32)} | BLANKS)


def token_text(tokenizer, token: int) -> str:
    """What a token adds to a text, leading blank included; bytes that make no whole character as ``<E9>``."""
    raw = tokenizer.convert_ids_to_tokens(token) or f"<{token}>"  # an output head may have more rows than tokens
    once, twice = (tokenizer.decode([token] * n, clean_up_tokenization_spaces=False) for n in (1, 2))
    if "\ufffd" in once:
        if byte := BYTE.fullmatch(raw):
            return f"<{byte[1]}>"
        known = _byte_alphabet()
        return "".join(f"<{known[c]:02X}>" for c in raw) if known.keys() >= {*raw} else raw
    return twice[len(once) :] or raw  # the first token of a text may lose its blank


def visible(text: str) -> str:
    """The text with a sign for every blank and control character."""
    return text.translate(VISIBLE)


def _byte_alphabet() -> dict[str, int]:
    """Byte-level tokenizers write printable Latin-1 bytes as themselves and the others, in order, from U+0100 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}
