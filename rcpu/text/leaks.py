"""Whether what a model is measured on was calibrated on: looked for in the tokens, whatever the texts are called."""

from __future__ import annotations

import numpy as np
from torch import Tensor

RUN = 13  # tokens in a row that two texts hardly share by chance, as GPT-3's authors looked for leaks
LEAK = 0.01  # two parts of one reference manual, or of WikiText-2, share 0.002 at most


def overlap(calibration: Tensor, windows: Tensor) -> float:  # (tokens,), and (windows, window) in a row
    """Share of the windows' runs of 13 tokens that stand in the calibration text too: 1 for the same text."""
    length = min(RUN, windows.numel(), len(calibration))
    return float(np.isin(_runs(windows.flatten(), length), _runs(calibration, length)).mean())


def leak_note(share: float, calibration: str, evaluation: str) -> str | None:
    """A sentence of warning where the two overlap, see :func:`overlap`."""
    if share < LEAK:
        return None
    return (
        f"{share:.0%} of {evaluation}, as it is measured here, stands in the calibration text {calibration} too: that "
        "flatters pruned models; measure on another text"
    )


def _runs(tokens: Tensor, length: int) -> np.ndarray:  # (tokens − length + 1,)
    """A number for every run of ``length`` tokens: equal runs have equal ones, others almost surely not."""
    each = tokens.numpy().astype(np.uint64)
    found = np.zeros(len(each) - length + 1, np.uint64)
    for i in range(length):  # a linear congruential generator, fed with the tokens; modulo 2⁶⁴
        found = found * np.uint64(6364136223846793005) + each[i : i + len(found)] + np.uint64(1442695040888963407)
    return found
