"""What pruning does to the geometry of outputs: norms, angles and inner products of the same tokens in two models."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor, nn

from rcpu.base.errors import Cancelled, RcpuError
from rcpu.models.families import architecture_of, layers_of
from rcpu.models.limits import check_ids, check_window

#: What is told, each a mean over tokens; the first token of a window, whose norm dwarfs all others, is left out.
KINDS = {
    "norm": "|‖ŷ‖/‖y‖ − 1|, how far norms are off",
    "cosine": "cos(ŷ, y), how far directions agree",
    "inner": "‖ŶᵀŶ − YᵀY‖ / ‖YᵀY‖, how far inner products of a window's tokens are off",
}


@dataclass(frozen=True)
class Geometry:
    """How outputs of the pruned projections lie against those of the dense model, each model on its own path."""

    by_window: Mapping[str, tuple[float, ...]]  # by KINDS: mean over layers and sites
    by_layer: Mapping[str, tuple[tuple[float, ...], ...]]  # by KINDS: (layers, sites), mean over windows
    sites: tuple[str, ...]

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping) -> Geometry:
        """Back from :meth:`to_dict`."""
        return cls(**{field.name: found[field.name] for field in fields(cls)})


@torch.no_grad()
def geometry(
    dense: nn.Module,
    net: nn.Module,
    windows: Tensor,  # (windows, window) token ids
    *,
    progress: Callable[[float], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Geometry:
    """Compare the outputs of o_proj and down_proj in every layer of two models, window by window.

    Raises:
        RcpuError: windows that the models cannot read, or a pruned model whose outputs have another width.
        Cancelled: ``cancelled()`` was true between two windows.
    """
    check_window(dense, windows.shape[1])
    check_ids(dense, windows)
    sites = architecture_of(dense).sites
    path = architecture_of(dense).layers
    names = [f"{path}.{i}.{s.block}.{s.consumer}" for i in range(len(layers_of(dense))) for s in sites]
    found = torch.zeros(len(windows), len(KINDS), len(names), dtype=torch.float64)
    for w, ids in enumerate(windows.split(1)):
        if cancelled():
            raise Cancelled("cancelled")
        ours, theirs = _outputs(dense, names, ids), _outputs(net, names, ids)
        for i, name in enumerate(names):
            if ours[name].shape != theirs[name].shape:
                raise RcpuError(
                    f"geometry compares outputs of the same width, but {name} has {theirs[name].shape[-1]} after "
                    f"pruning and had {ours[name].shape[-1]}: this method turns the residual stream"
                )
            found[w, :, i] = _kinds(ours.pop(name), theirs.pop(name))
        progress((w + 1) / len(windows))
    by_window, by_layer = found.mean(2), found.mean(0).view(len(KINDS), -1, len(sites))
    return Geometry(
        {kind: tuple(by_window[:, k].tolist()) for k, kind in enumerate(KINDS)},
        {kind: tuple(map(tuple, by_layer[k].tolist())) for k, kind in enumerate(KINDS)},
        tuple(site.name for site in sites),
    )


def _kinds(y: Tensor, z: Tensor) -> Tensor:  # (tokens, d_out) each → (3,) fp64
    norms, other = y.norm(dim=1), z.norm(dim=1)
    products = y @ y.mT
    return torch.stack(
        [
            (other / norms - 1).abs().mean(),
            torch.cosine_similarity(z, y, dim=1).mean(),
            (z @ z.mT - products).norm() / products.norm(),
        ]
    ).double()


def _outputs(net: nn.Module, names: list[str], ids: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    with _watching(net, names, found):
        net.model(input_ids=ids.to(net.device), use_cache=False)
    return found


@contextlib.contextmanager
def _watching(net: nn.Module, names: list[str], found: dict[str, Tensor]) -> Iterator[None]:
    def keep(name: str) -> Callable:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            found[name] = output[0, 1:].float().cpu()

        return hook

    hooks = [net.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
