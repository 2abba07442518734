"""What the calibration loss says of every projection: one dense forward, and a backward a layer at a time.

The loss is Σ −log p(next token). With x the inputs of a projection and g the gradient by its outputs, both a token:
Γ = mean g gᵀ and C_g = Σ‖g‖² x xᵀ / Σ‖g‖² price a change ΔW in nats a token at ½ tr(Γ ΔW C_g ΔWᵀ): K-FAC (Martens &
Grosse 2015), with inputs weighted by how much the loss hangs on their token. Kept are hidden states between layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rcpu.models.families import architecture_of, consumer_of, layers_of, run_block, with_consumer
from rcpu.statistics.passes import Pass, Progress
from rcpu.statistics.sums import Accumulator, Statistics
from rcpu.text.windows import Windows


@dataclass(frozen=True, eq=False)
class Curvature:
    """Moments of one projection's inputs and of the loss's gradient by its outputs, a token."""

    x: Statistics
    gram: Tensor  # (d_in, d_in) C_g
    mean: Tensor  # (d_in,) Σ‖g‖² x / Σ‖g‖²
    output: Tensor  # (d_out, d_out) Γ
    slope: Tensor | None = None  # (d_out, d_in) mean g xᵀ, the loss's gradient by the weight

    @property
    def centred(self) -> Tensor:
        """C_g about its mean: what is left to pay where a bias makes up for the mean."""
        return self.gram - torch.outer(self.mean, self.mean)


class _Sums:
    def __init__(self, d_in: int, d_out: int, device: torch.device, slopes: bool):
        self.x = Accumulator(d_in, device)
        self.weighted = Accumulator(d_in, device)
        self.output = torch.zeros(d_out, d_out, device=device)
        self.slope = torch.zeros(d_out, d_in, device=device) if slopes else None
        self.weight, self.total = 0.0, torch.zeros(d_in, dtype=torch.float64)

    def add(self, x: Tensor, g: Tensor) -> None:  # (windows, tokens, d_in) and (…, d_out)
        x, g = x.flatten(0, 1).float(), g.flatten(0, 1).float()
        self.x.add(x)
        norms = g.square().sum(1)
        self.weighted.add(x * norms.sqrt()[:, None])
        self.total += (norms @ x).cpu().double()
        self.weight += norms.double().sum().item()
        self.output.addmm_(g.mT, g)
        if self.slope is not None:
            self.slope.addmm_(g.mT, x)

    def result(self) -> Curvature:
        scale = self.weight or 1.0
        gram, mean = self.weighted.result().gram / scale, self.total / scale
        slope = None if self.slope is None else self.slope.div_(self.x.tokens)
        return Curvature(self.x.result(), gram, mean.to(gram), self.output / self.x.tokens, slope)


def curvatures(
    net: nn.Module,
    windows: Windows,
    *,
    slopes: bool = False,
    micro_batch: int | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[int, dict[str, Curvature]]]:
    """Layers from the last to the first with the curvature at each site, on the calibration windows.

    With ``slopes`` it has the gradients by the weights, too.

    Raises:
        Cancelled: ``cancelled()`` was true between two micro-batches.
    """
    only = Windows(windows.calibration, windows.held_out[:0], windows.text)
    layers, arch = layers_of(net), architecture_of(net)
    run = Pass(net, only, micro_batch=micro_batch, passes=3 * len(layers), progress=progress, cancelled=cancelled)
    entered = []
    with torch.no_grad():
        for i in range(len(layers)):
            entered.append(run.hidden.clone())
            for _ in run.layer(net, i, f"layer {i}: forward before a backward"):
                pass
    gradient = run.hidden  # in the place of the states it belongs to
    for part, _ in run.micro_batches:
        run.step("the loss and its gradient", 0)
        for window in range(part.start, part.stop):
            gradient[window] = _gradient(net, gradient[window], only.calibration[window].to(run.device))
    for i in range(len(layers) - 1, -1, -1):
        layer, hidden = layers[i], entered.pop()
        bare = {s.name: with_consumer(layer.get_submodule(s.block), s, nn.Identity()) for s in arch.sites}
        sums = {s.name: _Sums(*consumer_of(layer, s).weight.shape[::-1], run.device, slopes) for s in arch.sites}
        for part, _ in run.micro_batches:
            run.step(f"layer {i}: backward", 2)
            with torch.enable_grad():
                states, inputs = [hidden[part].detach().requires_grad_()], []
                for site in arch.sites:
                    x = run_block(bare[site.name], layer.get_submodule(site.norm), site, states[-1], run.attention)
                    inputs.append(x)
                    states.append(states[-1] + consumer_of(layer, site)(x))
                # A block adds to the stream, so the gradient by what it adds is that by the stream after it.
                found = torch.autograd.grad(states[-1], states[:-1], gradient[part])
            for site, x, g in zip(arch.sites, inputs, [*found[1:], gradient[part]], strict=True):
                sums[site.name].add(x.detach(), g)
            gradient[part] = found[0]
        yield i, {name: sums.pop(name).result() for name in list(sums)}


def _gradient(net: nn.Module, hidden: Tensor, ids: Tensor) -> Tensor:  # (tokens, d_model), (tokens,)
    """Gradient of Σ −log p(next token) of one window by the states that leave the last layer."""
    with torch.enable_grad():
        hidden = hidden.detach().requires_grad_()
        logits = net.lm_head(net.model.norm(hidden)[:-1])
        return torch.autograd.grad(cross_entropy(logits.float(), ids[1:], reduction="sum"), hidden)[0]
