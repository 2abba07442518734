"""Text from a model, token by token. Sampling has a generator of its own: concurrent calls do not disturb it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from rcpu.base.errors import Cancelled, RcpuError, check_seed
from rcpu.models.limits import check_ids
from rcpu.text.tokens import continuation, text_ids


@dataclass(frozen=True)
class Generated:
    """The continuation so far, leading blank included. ``tokens_per_second`` is decoding alone, 0 before step two."""

    text: str
    tokens: int
    seconds: float  # of computing, prompt included
    tokens_per_second: float
    finished: bool  # the model ended its text


@torch.no_grad()
def stream(
    net: nn.Module,
    tokenizer,
    prompt: str,
    *,
    max_new_tokens: int = 64,
    seed: int = 0,
    temperature: float = 0.0,
    top_p: float = 1.0,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Generated]:
    """Continue ``prompt``; yields after every token. Temperature 0 is greedy, and equals ``net.generate``.

    Raises:
        RcpuError: an empty or over-long prompt, or a sampling value out of range.
        Cancelled: ``cancelled()`` was true between two tokens.
    """
    check_seed(seed)
    if not 0 <= temperature < float("inf") or not 0 < top_p <= 1 or max_new_tokens < 1:
        raise RcpuError(
            f"need a finite temperature ≥ 0, 0 < top-p ≤ 1 and at least one new token, got {temperature:g}, {top_p:g} "
            f"and {max_new_tokens}"
        )
    before = text_ids(tokenizer, prompt)
    ids = torch.tensor([before], dtype=torch.int64, device=net.device)
    limit = net.config.max_position_embeddings
    if not ids.shape[1]:
        raise RcpuError("the prompt is empty: give at least one token to continue from")
    if ids.shape[1] + max_new_tokens > limit:
        raise RcpuError(
            f"the prompt has {ids.shape[1]:,} tokens and {max_new_tokens:,} are to come, but the model has {limit:,} "
            "positions: shorten the prompt or ask for less"
        )
    eos = net.generation_config.eos_token_id
    ends = set(eos if isinstance(eos, list) else [eos])
    check_ids(net, ids)
    generator = torch.Generator().manual_seed(seed)
    cache = DynamicCache(config=net.config)
    tokens: list[int] = []
    prefill = spent = 0.0  # in here alone, so that streams that take turns each show their own speed
    while len(tokens) < max_new_tokens:
        if cancelled():
            raise Cancelled("cancelled")
        resumed = time.perf_counter()
        logits = net(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
        token = _pick(logits.float().cpu(), temperature, top_p, generator)
        finished = token in ends
        if not finished:
            tokens.append(token)
        text = continuation(tokenizer, before, tokens).rstrip("\ufffd")  # half a character may hang on
        spent += time.perf_counter() - resumed
        prefill = prefill or spent
        steps = len(tokens) - 1 + finished
        rate = steps / (spent - prefill) if steps and spent > prefill else 0.0
        yield Generated(text, len(tokens), spent, rate, finished)
        if finished:
            return
        ids = torch.tensor([[token]], device=net.device)


def generate(net: nn.Module, tokenizer, prompt: str, **options) -> Generated:
    """The last of :func:`stream`, with its options and errors."""
    last = None
    for last in stream(net, tokenizer, prompt, **options):  # noqa: B007
        pass
    return last


def _pick(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:  # (vocabulary,)
    if not logits.isfinite().all():
        raise RcpuError("the model's logits hold NaN or Inf: its weights or dtype overflow; try fp32 or bf16")
    if temperature == 0:
        return int(logits.argmax())
    # The largest is taken off first, so that no temperature is too low for the division.
    probabilities, order = ((logits - logits.max()) / temperature).softmax(-1).sort(descending=True)
    # The nucleus: the fewest tokens that reach top_p; the first is always among them.
    probabilities[probabilities.cumsum(-1) - probabilities >= top_p] = 0
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])
