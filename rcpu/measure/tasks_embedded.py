"""Two tasks made by rule from a text, for machines without a network: the last word, and which continuation follows.

``last_word`` is what LAMBADA asks, ``continuation`` what HellaSwag asks, of any prose. Items depend on the text alone.
"""

from __future__ import annotations

import re

CONTEXT = (12, 48)  # words before what is asked for: at least, and the last of them at most
CONTINUATION, STEP = 12, 20  # words, and from one to the next
CHOICES = 4
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"“(*]?[A-Z])")
WORD = re.compile(r"[A-Za-z][A-Za-z’'-]+")


def last_word_rows(text: str) -> list[dict]:
    """``context`` and ``word`` for every sentence of prose that ends in a word, and has enough before it."""
    rows = []
    for sentences in _passages(text):
        words: list[str] = []
        for sentence in sentences:
            words += sentence.split()
            last = words[-1].rstrip(".!?")
            if len(words) > CONTEXT[0] and words[-1] != last and WORD.fullmatch(last):
                rows.append({"context": " ".join(words[-1 - CONTEXT[1] : -1]), "word": last})
    return rows


def continuation_rows(text: str) -> list[dict]:
    """``query``, four ``choices`` and ``gold``: the twelve words that follow, and twelve of three other passages each.

    Those are the ones most nearly as long in characters, so that length tells little; gold takes each place in turn.
    """
    asked = []  # passage, words before, words after
    for number, sentences in enumerate(_passages(text)):
        words = " ".join(sentences).split()
        for cut in range(CONTEXT[0], len(words) - CONTINUATION + 1, STEP):
            before, after = words[max(0, cut - CONTEXT[1]) : cut], words[cut : cut + CONTINUATION]
            asked.append((number, " ".join(before), " ".join(after)))
    rows = []
    for i, (number, query, follows) in enumerate(asked):
        gaps = {other: abs(len(other) - len(follows)) for n, _, other in asked if n != number and other != follows}
        choices = sorted(gaps, key=lambda other: (gaps[other], other))[: CHOICES - 1]
        if len(choices) == CHOICES - 1:
            choices.insert(i % CHOICES, follows)
            rows.append({"query": query, "choices": choices, "gold": i % CHOICES})
    return rows


def _passages(text: str) -> list[list[str]]:
    """Paragraphs of prose as lists of sentences; grammars, code and headings are left out."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        line = re.sub(r"^[*•-]\s+", "", " ".join(paragraph.split()))
        letters = sum(c.isalpha() or c == " " for c in line)
        if line.endswith((".", "!", "?")) and "::=" not in line and ">>>" not in line and letters > 0.85 * len(line):
            found.append(SENTENCE_END.split(line))
    return found
