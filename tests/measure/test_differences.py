"""Differing words: nothing lost, as few as possible, at once."""

import random
import time

import pytest

from rcpu.measure.differences import first_divergence, word_diff, words

TEXT = "naïve 😀\n\tdef f(x):\n  return 雪 & <b>"


@pytest.mark.parametrize("text", ["", " ", "a  b,c\n", TEXT, "x_1 = f(-2)\n\n", "e\u0301\u200d!", "\x00 \x1f\u2028"])
def test_words_join_to_the_text(text):
    assert "".join(words(text)) == text
    assert "".join(word for word, _ in word_diff("something else", text)) == text
    assert not any(differs for _, differs in word_diff(text, text))


@pytest.mark.parametrize(
    ("reference", "other", "differing"),
    [
        ("the cat sat down", "the dog sat down", [" dog"]),
        ("the cat sat", "the cat really sat", [" really"]),
        ("the cat sat", "the cat", []),
        ("", "all new", ["all", " new"]),
        ("if x:\n    y", "if x:\n  y", ["\n  y"]),  # blanks count: they may be all there is to a program
        ("Yes, it is.", "Yes; it is!", [";", "!"]),
        ("ab", "a b", ["a", " b"]),
    ],
)
def test_words_that_differ(reference, other, differing):
    assert [word for word, differs in word_diff(reference, other) if differs] == differing


def longest(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence, by the recurrence."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@pytest.mark.parametrize("seed", range(20))
def test_as_few_words_as_possible_differ_and_the_others_are_in_the_reference_in_order(seed):
    rng = random.Random(seed)
    a, b = (["abcd"[rng.randrange(2 + seed % 3)] for _ in range(rng.randrange(30))] for _ in "ab")
    parts = word_diff(" ".join(a), " ".join(b))
    same = [word.strip() for word, differs in parts if not differs]
    left = iter(words(" ".join(a)))
    assert all(word in left for word, differs in parts if not differs)
    assert len(same) == longest(words(" ".join(a)), words(" ".join(b)))


def test_texts_that_repeat_themselves_are_compared_at_once():
    started = time.perf_counter()
    for reference, other in (("a b " * 700, "a " * 1400), ("\n" * 2000, ". " * 1023), ("a a a x " * 400, "a " * 1000)):
        word_diff(reference, other)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    ("a", "b", "index"),
    [([1, 2, 3], [1, 5, 3], 1), ("abc", "abc", None), ("ab", "abc", 2), ([], [1], 0), ([], [], None)],
)
def test_first_divergence(a, b, index):
    assert first_divergence(a, b) == first_divergence(b, a) == index


def test_first_divergence_of_words_is_where_the_diff_begins():
    a, b = "the cat sat on the mat", "the cat lay on the mat"
    index = first_divergence(words(a), words(b))
    assert word_diff(a, b)[index] == (" lay", True)
    assert not any(differs for _, differs in word_diff(a, b)[:index])
