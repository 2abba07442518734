"""Time and memory on the embedded model, as ratios within one run. Not a test: machines differ."""

from __future__ import annotations

import gc
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import psutil
import torch
from rich.console import Console
from rich.table import Table

import rcpu
from rcpu.models.families import embed, layers_of
from rcpu.statistics.decompose import svd_of_sums

PROMPT, DECODED, FEW = 512, 48, 32
TURNS = 5  # with few windows, which take ten seconds each


class PeakMemory:
    """Highest resident memory of this process inside the block, above what it had on entry, in bytes."""

    def __enter__(self) -> PeakMemory:
        gc.collect()
        self._process, self._done = psutil.Process(), threading.Event()
        self._base = self._peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self._thread.join()
        self.bytes = self._peak - self._base

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self._peak = max(self._peak, self._process.memory_info().rss)


class BesideBare:
    """A progress callback that has a bare forward of the same windows follow the prune of each layer.

    Both are timed layer by layer, within seconds of each other: what else the machine does hits both alike.
    """

    def __init__(self, net, ids: torch.Tensor, batch: int = 8):
        self._layers, self._batch = layers_of(net), batch
        with torch.no_grad():
            self._entered = embed(net, ids)
        self._label, self._done, self._since = "", 0, time.perf_counter()
        self.prune: list[float] = []  # seconds a layer
        self.bare: list[float] = []

    def __call__(self, progress: rcpu.Progress) -> None:
        """The first word of a layer comes before its first batch."""
        label = progress.message.partition(":")[0]
        if self._label and label != self._label:
            self.end()
        self._label = label

    @torch.no_grad()
    def end(self) -> None:
        """A layer has been pruned: run it bare; nothing else, no head, nothing measured."""
        self.prune.append(time.perf_counter() - self._since)
        start = time.perf_counter()
        hidden, layer = self._entered.hidden, self._layers[len(self.bare)]
        for i in range(0, len(hidden), self._batch):
            hidden[i : i + self._batch] = layer(hidden[i : i + self._batch], **self._entered.attention)
        self.bare.append(time.perf_counter() - start)
        self._since = time.perf_counter()

    @property
    def ratio(self) -> float:
        """Time of the prune ÷ time of the bare forward, median of the layers."""
        return statistics.median(prune / bare for prune, bare in zip(self.prune, self.bare, strict=True))


@torch.no_grad()
def prefill_and_decode(net, ids: torch.Tensor) -> tuple[float, float]:
    """Seconds for the prompt, and for each token after it."""
    start = time.perf_counter()
    out = net(input_ids=ids, use_cache=True, logits_to_keep=1)
    prefill = time.perf_counter() - start
    token, cache, steps = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values, []
    for _ in range(DECODED):
        start = time.perf_counter()
        out = net(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        steps.append(time.perf_counter() - start)
    return prefill, sorted(steps)[len(steps) // 2]


def decompositions(at_once: int, columns: int = 576, turns: int = 8) -> float:
    """Time of SVDs of fp32 sums as ``rcpu.decompose`` does them ÷ torch's, on one thread each; medians of turns."""
    m = torch.randn(columns, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    taken: dict[str, list[float]] = {"ours": [], "torch": []}
    with ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in range(turns + 1):  # the first warms up
            for name, call in (("ours", partial(svd_of_sums, rank=columns)), ("torch", torch.linalg.svd)):
                start = time.perf_counter()
                list(pool.map(call, [m] * at_once))
                taken[name].append(time.perf_counter() - start)
    ours, torchs = (statistics.median(values[1:]) for values in taken.values())
    return ours / torchs


def on_two_cores(columns: int = 576, turns: int = 12) -> float:
    """Time of an eigendecomposition in fp64 on two threads ÷ on one; medians of turns."""
    m = torch.randn(columns, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before, m, taken = torch.get_num_threads(), m.mT @ m, {1: [], 2: []}
    for _ in range(turns):
        for threads, values in taken.items():
            torch.set_num_threads(threads)
            start = time.perf_counter()
            torch.linalg.eigh(m)
            values.append(time.perf_counter() - start)
    torch.set_num_threads(before)
    return statistics.median(taken[2]) / statistics.median(taken[1])


def main() -> None:
    """Print the table."""
    model, text = rcpu.load_model("embedded", "cpu", "fp32"), rcpu.load_text("embedded")
    net, base = model.net, rcpu.Recipe(text="embedded", unit="channel")
    windows = rcpu.calibration_windows(text, model.tokenizer, samples=base.samples, held_out=base.held_out)
    ids = torch.cat([windows.calibration, windows.held_out])
    # The first prunes are watched for memory alone: they also warm up whatever the first use of a routine costs.
    ratios, memory = {}, {}
    for order in ("paper", "site"):
        with PeakMemory() as memory[order]:
            rcpu.prune(net, windows, replace(base, order=order))
    fewer = rcpu.calibration_windows(text, model.tokenizer, samples=FEW, held_out=0)
    for name, order, seen, options in (
        ("paper", "paper", windows, {}),
        ("site", "site", windows, {}),
        ("site_none", "site", windows, {"batch_bytes": 0}),
        *[("paper_few", "paper", fewer, {}), ("site_few", "site", fewer, {})] * TURNS,
    ):
        beside = BesideBare(net, torch.cat([seen.calibration, seen.held_out]))
        rcpu.prune(net, seen, replace(base, order=order), progress=beside, **options)
        beside.end()
        ratios.setdefault(name, []).append(beside.ratio)
        print(
            f"{name}: {sum(beside.prune):.1f} s, bare: {sum(beside.bare):.1f} s, median ratio {beside.ratio:.2f}",
            file=sys.stderr,
            flush=True,
        )
    ratios = {name: statistics.median(found) for name, found in ratios.items()}
    few = rcpu.calibration_windows(text, model.tokenizer, samples=4, held_out=0)  # speed does not depend on them
    pruned = rcpu.prune(net, few, rcpu.Recipe(ratio=0.3, samples=4, held_out=0))
    prompt = ids[: PROMPT // ids.shape[1]].reshape(1, PROMPT)
    speed = {"dense": net, "compact": pruned.net}
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in speed}
    for _ in range(5):
        for name, candidate in speed.items():
            seen[name].append(prefill_and_decode(candidate, prompt))
    prefill, decode = ({n: min(s[i] for s in runs) for n, runs in seen.items()} for i in (0, 1))
    before, after = rcpu.cost(net), rcpu.cost(pruned.net)

    table = Table("what", "value", "at most", title="RCPU on the embedded model, fp32, CPU", title_justify="left")
    shape = f"{base.samples} + {base.held_out} windows of {base.window} tokens"
    rows = (
        (f"prune ÷ bare forward, order paper ({shape})", ratios["paper"], 2.2),
        ("prune ÷ bare forward, order site", ratios["site"], 1.6),
        ("prune ÷ bare forward, order site, no activations kept for reuse", ratios["site_none"], None),
        (f"prune ÷ bare forward, order paper, {FEW} windows", ratios["paper_few"], 2.4),
        (f"prune ÷ bare forward, order site, {FEW} windows", ratios["site_few"], 2.4),
        *(
            (
                f"peak memory above the model, {net.config.num_hidden_layers} layers, order {order} (MB)",
                m.bytes / 1e6,
                600,
            )
            for order, m in memory.items()
        ),
        (f"compact at 0.3 ÷ dense: prefill of {PROMPT} tokens (time)", prefill["compact"] / prefill["dense"], 1.0),
        (f"compact at 0.3 ÷ dense: decode after {PROMPT} tokens (time)", decode["compact"] / decode["dense"], 1.0),
        ("SVD of 576 columns ÷ torch's, one", decompositions(1), None),
        ("SVD of 576 columns ÷ torch's, two at once", decompositions(2), None),
        ("eigendecomposition of 576 columns, two cores ÷ one", on_two_cores(), None),
        ("compact at 0.3 ÷ dense: parameters", after.parameters / before.parameters, None),
        ("compact at 0.3 ÷ dense: FLOPs a token", after.flops_per_token / before.flops_per_token, None),
    )
    for what, value, limit in rows:
        table.add_row(what, f"{value:,.2f}" if value < 100 else f"{value:,.0f}", "–" if limit is None else f"{limit:g}")
    Console(width=110).print(table)
