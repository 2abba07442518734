"""Token windows cut from a text: to calibrate on, to check on, to measure on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rcpu.base.errors import RcpuError
from rcpu.text.texts import Text
from rcpu.text.tokens import text_ids


@dataclass(frozen=True, eq=False)
class Windows:
    """Token windows to calibrate on, and others, from a later stretch of the same text, to check on."""

    calibration: Tensor  # (samples, window) int64
    held_out: Tensor  # (held_out, window)
    text: str

    @cached_property
    def digest(self) -> str:
        """Twenty-four hex digits of every token: of the text, the tokenizer, the counts and the seed that drew them."""
        both = hashlib.sha256()
        for part in (self.calibration, self.held_out):
            both.update(repr(tuple(part.shape)).encode() + part.cpu().numpy().tobytes())
        return both.hexdigest()[:24]


def calibration_windows(
    text: Text, tokenizer, *, samples: int = 128, window: int = 128, held_out: int = 16, seed: int = 0
) -> Windows:
    """``samples`` windows at uniformly random places, and ``held_out`` more from the text's last part.

    The text is divided in proportion to the two counts, so that no held-out token was calibrated on.

    Raises:
        RcpuError: the text has fewer tokens than the windows together.
    """
    parts = divided(text, tokenizer, samples=samples, held_out=held_out)
    tokens = sum(map(len, parts))
    need = (samples + held_out) * window
    if tokens < need:
        fit = max(0, tokens // window - held_out)
        raise RcpuError(
            f"too little text: {text.name} has {tokens:,} tokens for calibration, but {samples} windows and "
            f"{held_out} held-out ones of {window} tokens need {need:,}; "
            + (f"lower the samples to {fit}" if fit else "take a shorter window")
            + ", or give a longer text"
        )
    generator = torch.Generator().manual_seed(seed)

    def draw(part: Tensor, count: int) -> Tensor:
        if not count:
            return part.new_empty(0, window)
        starts = torch.randint(len(part) - window + 1, (count,), generator=generator)
        return torch.stack([part[s : s + window] for s in starts])

    return Windows(*map(draw, parts, (samples, held_out)), text.name)


def divided(text: Text, tokenizer, *, samples: int, held_out: int) -> tuple[Tensor, Tensor]:
    """The tokens of a calibration text that may be calibrated on, and those that are held out."""
    tokens = encode(_part(text, "calibration"), tokenizer)
    cut = len(tokens) * samples // (samples + held_out)
    return tokens[:cut], tokens[cut:]


def held_out_windows(
    text: Text,
    tokenizer,
    *,
    samples: int = 128,
    held_out: int = 16,
    window: int = 128,
    max_windows: int | None = None,
) -> Tensor:
    """Non-overlapping windows, (windows, window), from the part of a calibration text that was never calibrated on.

    A pruned model that does well here and badly on another text has learned its calibration text, not the language.

    Raises:
        RcpuError: nothing was held out, or not one whole window.
    """
    if not held_out:
        raise RcpuError(f"nothing of {text.name} was held out: calibrate with at least one held-out window")
    _, part = divided(text, tokenizer, samples=samples, held_out=held_out)
    return _in_a_row(part, window, max_windows, f"the held-out part of {text.name}")


def evaluation_windows(text: Text, tokenizer, *, window: int = 128, max_windows: int | None = None) -> Tensor:
    """Non-overlapping windows from the start of the evaluation part, (windows, window); the rest is dropped.

    Raises:
        RcpuError: there is not one whole window.
    """
    return _in_a_row(encode(_part(text, "evaluation"), tokenizer), window, max_windows, text.name)


def encode(text: str, tokenizer) -> Tensor:
    """Token ids of a whole text, (tokens,) int64, with whatever the tokenizer puts before one and nothing after."""
    return torch.tensor(text_ids(tokenizer, text), dtype=torch.int64)


def _part(text: Text, part: str) -> str:
    if not (content := getattr(text, part)):
        raise RcpuError(f"{text.name} has no part for {part}, as a data set without such a split: name another text")
    return content


def check_windows(window: int, max_windows: int | None = None) -> None:
    """Raise ``RcpuError`` for windows that no text has."""
    if window < 2:
        raise RcpuError(f"a window needs at least 2 tokens, one to read and one to predict; got {window}")
    if max_windows is not None and max_windows < 1:
        raise RcpuError(f"need at least one window, got max_windows = {max_windows}")


def _in_a_row(tokens: Tensor, window: int, max_windows: int | None, name: str) -> Tensor:
    check_windows(window, max_windows)
    count = min(len(tokens) // window, max_windows or len(tokens))
    if not count:
        raise RcpuError(
            f"too little text: {name} has {len(tokens):,} tokens for evaluation, a window needs {window}; "
            "take a shorter window or a longer text"
        )
    return tokens[: count * window].view(count, window)
