"""How good it is: perplexity, generation, predictions of single tokens, differences of texts."""

from rcpu.measure.differences import first_divergence, word_diff, words
from rcpu.measure.intervals import Difference, Interval, crossed_interval, mean_interval
from rcpu.measure.perplexity import difference
from rcpu.measure.predictions import NextToken, TokenView, compare_tokens, next_tokens
from rcpu.measure.shapes import geometry

__all__ = [
    "Difference",
    "Interval",
    "NextToken",
    "TokenView",
    "compare_tokens",
    "crossed_interval",
    "difference",
    "first_divergence",
    "geometry",
    "mean_interval",
    "next_tokens",
    "word_diff",
    "words",
]
