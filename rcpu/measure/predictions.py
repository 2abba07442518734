"""What models predict token by token: losses and divergences on a text, and the next token.

Nothing here keeps logits: hidden states are kept, and the output head is applied to a few positions at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rcpu.base.errors import Cancelled, RcpuError, choose
from rcpu.models.limits import check_ids, check_window
from rcpu.text.token_text import token_text, visible
from rcpu.text.tokens import appended, plain_lines

CHUNK = 64  # positions whose logits exist at once: 64 × 128k in fp32 are 33 MB


@dataclass(frozen=True)
class TokenView:
    """One model's predictions of a text; all tuples have an entry a token, None where nothing comes before it."""

    tokens: tuple[str, ...]  # join to the text; a character of several tokens is with the first, the others are empty
    loss: tuple[float | None, ...]  # −ln of the probability given to the token, nats
    divergence: tuple[float | None, ...]  # KL(reference ‖ model) of the prediction of this token, nats
    top: tuple[str | None, ...]  # the most probable token instead
    top_probability: tuple[float | None, ...]

    @property
    def probability(self) -> tuple[float | None, ...]:
        """What the model gave the tokens that came."""
        return tuple(None if loss is None else math.exp(-loss) for loss in self.loss)


@dataclass(frozen=True)
class NextToken:
    """A candidate for the next token, and what each model, by name, holds of it; rank 1 is the most probable."""

    token: int
    text: str
    probability: dict[str, float]
    rank: dict[str, int]


@torch.no_grad()
def compare_tokens(
    nets: Mapping[str, nn.Module],
    tokenizer,
    text: str,
    *,
    reference: str = "dense",
    max_tokens: int = 512,
    progress: Callable[[float], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, TokenView]:
    """Each model's predictions of every token of one text, beside those of the ``reference`` among them.

    Raises:
        RcpuError: no such reference; fewer than two tokens, or more than ``max_tokens`` or the model's positions;
            models of unlike vocabularies; NaN or Inf in the logits.
        Cancelled: ``cancelled()`` was true between two models or two pieces of the text.
    """
    choose("reference", reference, nets)
    ids, tokens = _encode(text, tokenizer)
    if len(ids) < 2:
        raise RcpuError("the text is a single token, and the first is only read: give at least two")
    if len(ids) > max_tokens:
        raise RcpuError(f"the text has {len(ids):,} tokens, and {max_tokens:,} at most are compared: shorten it")
    _check(nets, ids)

    def checkpoint(done: float) -> None:
        progress(done)
        if cancelled():
            raise Cancelled("cancelled")

    hidden = {}
    for i, (name, net) in enumerate(nets.items()):
        checkpoint(i / len(nets) / 2)
        hidden[name] = _hidden(net, ids)[:-1]
    found: dict[str, list[Tensor]] = {name: [] for name in nets}
    for start in range(0, len(ids) - 1, CHUNK):
        checkpoint(0.5 + start / (len(ids) - 1) / 2)
        part = slice(start, start + CHUNK)
        expected = _log_probabilities(reference, nets[reference], hidden[reference][part])  # (positions, vocabulary)
        targets = ids[1:][part, None].to(expected.device)
        for name, net in nets.items():
            same = name == reference
            q = expected if same else _log_probabilities(name, net, hidden[name][part]).to(expected.device)
            divergence = (expected.exp() * (expected - q)).sum(-1).clamp_min(0)  # below 0 by rounding alone
            best = q.max(-1)
            loss = -q.gather(1, targets)[:, 0]
            # fp32 holds every index of a vocabulary exactly, so that one copy from the device does for all four.
            found[name].append(torch.stack([loss, divergence, best.values.exp(), best.indices.float()]).cpu())
    progress(1.0)
    texts: dict[int, str] = {}

    def view(parts: list[Tensor]) -> TokenView:
        loss, divergence, probability, top = torch.cat(parts, 1).tolist()
        top = [int(t) for t in top]
        texts.update({t: token_text(tokenizer, t) for t in {*top} - texts.keys()})
        return TokenView(
            tokens, (None, *loss), (None, *divergence), (None, *(texts[t] for t in top)), (None, *probability)
        )

    return {name: view(parts) for name, parts in found.items()}


@torch.no_grad()
def next_tokens(
    nets: Mapping[str, nn.Module], tokenizer, prompt: str, top: int = 10, *, reference: str = "dense"
) -> tuple[NextToken, ...]:
    """The ``top`` candidates of every model for what follows ``prompt``, by the reference's probability.

    Raises:
        RcpuError: no such reference, an empty or over-long prompt, ``top`` beyond the vocabulary, or NaN or Inf in
            the logits.
    """
    choose("reference", reference, nets)
    ids, _ = _encode(prompt, tokenizer)
    _check(nets, ids)
    size = nets[reference].config.vocab_size
    if not 1 <= top <= size:
        raise RcpuError(f"top must be between 1 and the vocabulary's {size:,} tokens, got {top}")
    q = {name: _log_probabilities(name, net, _hidden(net, ids)[-1:])[0].cpu() for name, net in nets.items()}
    candidates = {t for values in q.values() for t in values.topk(top).indices.tolist()}
    return tuple(
        NextToken(
            t,
            visible(token_text(tokenizer, t)),
            {name: values[t].exp().item() for name, values in q.items()},
            {name: int((values > values[t]).sum()) + 1 for name, values in q.items()},
        )
        for t in sorted(candidates, key=lambda t: (-q[reference][t].item(), t))
    )


def _encode(text: str, tokenizer) -> tuple[Tensor, tuple[str, ...]]:
    """Ids, (tokens,), and the stretch of text of each; ``RcpuError`` if there is nothing."""
    if not tokenizer.is_fast:
        raise RcpuError("this tokenizer does not say which characters a token stands for: it has no tokenizer.json")
    text = plain_lines(text)
    encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
    count = len(encoded.input_ids) - appended(tokenizer)
    if not text or not count:
        raise RcpuError("the text is empty: give at least one token")
    ends = [end for _, end in encoded.offset_mapping[:count]]
    return torch.tensor(encoded.input_ids[:count]), tuple(_stretches(text, ends))


def _stretches(text: str, ends: list[int]) -> Iterator[str]:
    # What tokenizers leave out of their offsets, like a leading blank, belongs to the next token.
    start = 0
    for end in [*ends[:-1], len(text)]:
        yield text[start:end]
        start = max(start, end)


def _check(nets: Mapping[str, nn.Module], ids: Tensor) -> None:
    for net in nets.values():
        check_window(net, len(ids))
        check_ids(net, ids)
    if len(sizes := {net.config.vocab_size for net in nets.values()}) > 1:
        sizes = " and ".join(f"{size:,}" for size in sorted(sizes))
        raise RcpuError(f"models with vocabularies of {sizes} tokens cannot be compared token by token")


def _hidden(net: nn.Module, ids: Tensor) -> Tensor:  # (tokens, hidden)
    return net.model(input_ids=ids[None].to(net.device), use_cache=False).last_hidden_state[0]


def _log_probabilities(name: str, net: nn.Module, states: Tensor) -> Tensor:  # (positions, vocabulary) fp32
    logits = net.lm_head(states).float()
    if not logits.isfinite().all():
        raise RcpuError(f"the logits of {name} hold NaN or Inf: its weights or dtype overflow; try fp32 or bf16")
    return logits.log_softmax(-1)
