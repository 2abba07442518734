"""How good it is: perplexity, generation, predictions of single tokens, differences of texts."""

from rcpu.measure.differences import first_divergence, word_diff, words
from rcpu.measure.predictions import NextToken, TokenView, compare_tokens, next_tokens

__all__ = [
    "NextToken",
    "TokenView",
    "compare_tokens",
    "first_divergence",
    "next_tokens",
    "word_diff",
    "words",
]
