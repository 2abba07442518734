"""What a model can take in: windows no longer than its positions, tokens of its vocabulary."""

from __future__ import annotations

from torch import Tensor, nn

from rcpu.base.errors import RcpuError


def check_window(net: nn.Module, window: int) -> None:
    """Raise ``RcpuError`` if a window has more tokens than the model has positions."""
    if window > (limit := net.config.max_position_embeddings):
        raise RcpuError(f"a window of {window:,} tokens is longer than the model's {limit:,} positions: shorten it")


def check_ids(net: nn.Module, ids: Tensor) -> None:
    """Raise ``RcpuError`` if a token id is beyond the model's vocabulary."""
    if (largest := int(ids.max())) >= (size := net.config.vocab_size):
        raise RcpuError(
            f"the tokenizer makes token {largest:,}, but the model's vocabulary has {size:,}: they belong to two models"
        )
