"""Where two texts differ, word by word. Knows no models."""

from __future__ import annotations

import re
from collections.abc import Sequence


def words(text: str) -> list[str]:
    """Words and punctuation marks, each with the blanks before it; they join to the text."""
    return re.findall(r"\s*(?:\w+|[^\w\s])|\s+", text)


def word_diff(reference: str, other: str) -> list[tuple[str, bool]]:
    """The :func:`words` of ``other``, and whether each differs: as few as can be, and none of a common beginning."""
    ours, theirs = words(reference), words(other)
    start = first_divergence(ours, theirs)
    if start is None:
        return [(word, False) for word in theirs]
    same = {start + i for i in _common(ours[start:], theirs[start:])}
    return [(word, i >= start and i not in same) for i, word in enumerate(theirs)]


def first_divergence(reference: Sequence, other: Sequence) -> int | None:
    """Index of the first word or token that differs, one of them ending included; None if there is none."""
    for i, (a, b) in enumerate(zip(reference, other, strict=False)):
        if a != b:
            return i
    return min(len(reference), len(other)) if len(reference) != len(other) else None


def _common(a: list[str], b: list[str]) -> set[int]:
    """Indices into ``b`` of a longest common subsequence, by bit-parallel dynamic programming (Hyyrö 2004)."""
    # Quadratic at worst, 64 cells at a time. difflib is cubic where a text repeats itself, as damaged models' texts do:
    # half a minute for a thousand words.
    places: dict[str, int] = {}
    for j, word in enumerate(b):
        places[word] = places.get(word, 0) | 1 << j
    full = (1 << len(b)) - 1
    rows = [full]  # bit j of row i is 0 where b[j] adds one to what a[:i] and b[:j] have in common
    for word in a:
        row = rows[-1]
        hits = row & places.get(word, 0)
        rows.append(((row + hits) | (row - hits)) & full)
    found: set[int] = set()
    i, j = len(a), len(b)
    while i and j:
        if rows[i] >> (j - 1) & 1:
            j -= 1
        else:
            i -= 1
            if rows[i] >> (j - 1) & 1:
                j -= 1
                found.add(j)
    return found
