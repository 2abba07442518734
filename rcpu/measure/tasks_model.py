"""lm-eval's ``HFLM`` on a net in memory: no copy of it, answers that are kept, progress and cancel.

Importing this imports lm-eval, which takes seconds: only running tasks does.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence

import torch
from lm_eval.models.huggingface import HFLM
from torch import nn
from transformers import LogitsProcessorList

from rcpu.base.errors import Cancelled
from rcpu.measure.tasks_answers import Answers

CPU_BATCH = 4  # requests: more gain nothing on a few cores, and their logits would be gigabytes
KINDS = ("loglikelihood", "loglikelihood_rolling", "generate_until")


class NetInMemory(HFLM):
    """HFLM that does not ask its net again what is in ``answers``.

    ``told(fraction, seconds)`` hears how much of the work is done and how long the rest will take, first before it
    begins: then by the time of one batch of middling length.
    """

    def __init__(
        self,
        net: nn.Module,
        tokenizer,
        batch: int | str,
        answers: Answers,
        told: Callable[[float, float], None] = lambda *_: None,
        cancelled: Callable[[], bool] = lambda: False,
    ):
        if batch == "auto" and net.device.type == "cpu":
            batch = CPU_BATCH
        # HFLM gives a padding token to a tokenizer that has none: the one of others stays as it is.
        super().__init__(pretrained=net, tokenizer=copy.deepcopy(tokenizer), batch_size=batch)
        self._answers, self._told, self._cancelled = answers, told, cancelled
        self._costs: list[int] = []  # of the requests that are under way, in the order in which HFLM works
        self._done, self._all, self._began = 0, 1, 0.0
        self.cache_hook = self

    def add_partial(self, kind: str, request: Sequence, answer: object) -> None:
        """HFLM has found one answer."""
        self._answers.put(kind, request, answer)
        self._done += self._costs.pop() if self._costs else 0
        share = self._done / self._all
        self._told(share, (time.monotonic() - self._began) * (1 - share) / share if share else 0.0)

    def loglikelihood(self, requests: list, disable_tqdm: bool = True) -> list:
        """As HFLM's, but for what was answered before."""
        return self._answered("loglikelihood", super().loglikelihood, requests)

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = True) -> list:
        """As HFLM's, but for what was answered before."""
        return self._answered("loglikelihood_rolling", super().loglikelihood_rolling, requests)

    def generate_until(self, requests: list, disable_tqdm: bool = True) -> list:
        """As HFLM's, but for what was answered before."""
        return self._answered("generate_until", super().generate_until, requests)

    def _answered(self, kind: str, ask: Callable, requests: list) -> list:
        known = [None if _drawn(r.args) else self._answers.get(kind, r.args) for r in requests]
        left = [r for r, answer in zip(requests, known, strict=True) if answer is None]
        if left:
            self._costs = sorted(sum(len(a) for a in r.args if isinstance(a, str)) for r in left)
            self._done, self._all = 0, sum(self._costs) or 1
            self._told(0.0, self._estimate(left))
            self._began = time.monotonic()
        found = iter(ask(left, disable_tqdm=True) if left else ())
        return [next(found) if answer is None else answer for answer in known]

    def _estimate(self, requests: list) -> float:
        """Seconds that they will take, by one batch of the middle one."""
        middle = sorted((r.args[0] + (r.args[1] if isinstance(r.args[-1], str) else "") for r in requests), key=len)
        text = middle[len(middle) // 2]
        ids = (self.tok_encode(text) or [self.eot_token_id])[-self.max_length :]
        rows = self.batch_size if isinstance(self.batch_size, int) else 1
        began = time.monotonic()
        self._model_call(torch.tensor([ids] * rows, device=self.device))[0, 0, 0].item()  # waits for the device
        return (time.monotonic() - began) / rows * self._all / max(1, len(text))

    def _model_call(self, inps: torch.Tensor, *rest, **more) -> torch.Tensor:
        if self._cancelled():
            raise Cancelled("cancelled")
        return super()._model_call(inps, *rest, **more)

    def _model_generate(self, *rest, **more) -> torch.Tensor:
        def stop(_, scores: torch.Tensor) -> torch.Tensor:  # between two tokens
            if self._cancelled():
                raise Cancelled("cancelled")
            return scores

        return super()._model_generate(*rest, logits_processor=LogitsProcessorList([stop]), **more)


def _drawn(request: Sequence) -> bool:
    """Whether the answer is a random draw."""
    return isinstance(request[-1], dict) and bool(request[-1].get("do_sample"))
