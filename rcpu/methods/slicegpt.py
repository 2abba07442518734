"""SliceGPT (Ashkboos et al., ICLR 2024, arXiv 2401.15024): the residual stream in its principal components, sliced.

RMSNorm without gain does not see a turn of its inputs, so every block may read and write in axes of its own: those of
the largest second moments of what enters it. The last ones are left out, and a matrix between blocks turns what stays
from one block's axes to the next's. In the dense axes this is a projection before each block, and so it is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rcpu.base.errors import RcpuError
from rcpu.base.options import check_options, option
from rcpu.compact.edits import Edits
from rcpu.methods.walk import Outcome, Walk
from rcpu.models.compact_llama import CompactLlamaConfig
from rcpu.models.families import layers_of, run_block
from rcpu.statistics.decompose import eigh
from rcpu.statistics.sums import Accumulator

EMBEDDINGS = {
    "sliced": "Sliced, with a head of its own (the authors')",
    "turned": "Whole, with a matrix behind it (ours)",
}


@dataclass(frozen=True)
class SliceOptions:
    """Options of SliceGPT."""

    embedding: str = option(
        "sliced", "Embedding", "A sliced one can no longer serve as output matrix, so small models grow.",
        choices=EMBEDDINGS,
    )  # fmt: skip
    center: bool = option(
        True, "Subtract each embedding's mean",
        "The authors' code does; RMSNorm has no need of it, and the model is no longer the same before slicing.",
    )  # fmt: skip
    slice_head: bool = option(False, "Slice the head's inputs", "Their code leaves the last width whole.")
    multiple: int = option(
        1, "Width in multiples of", "Hardware may want round widths; their script takes 8.", low=1, high=4096
    )

    def __post_init__(self) -> None:
        check_options(self)


def sliced_width(width: int, ratio: float, multiple: int) -> int:
    """Axes that stay of ``width``, rounded down to a multiple; raises ``RcpuError`` if that is none."""
    kept = int((1 - ratio) * width + 1e-9) // multiple * multiple
    if kept < 1:
        raise RcpuError(f"ratio {ratio:g} leaves no axis of {width} in multiples of {multiple}: lower either")
    return kept


def sizes(config: CompactLlamaConfig, recipe) -> CompactLlamaConfig:
    """What the model will measure, from the sizes of the dense one."""
    options, d = recipe.options, config.hidden_size
    kept = sliced_width(d, recipe.ratio, options.multiple)
    config.residual_sizes = [kept] * (2 * config.num_hidden_layers) + [kept if options.slice_head else d]
    if options.embedding == "sliced":
        config.embedding_size, config.tie_word_embeddings = kept, False
    elif config.tie_word_embeddings and options.slice_head:
        raise RcpuError("the head is the embedding, which stays whole: do not slice the head's inputs")
    return config


def principal_axes(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Second moments along the principal axes, descending, and the axes (d, d) as columns, of uncentred inputs."""
    values, vectors = eigh(gram)
    return values.flip(0).clamp_min(0), vectors.flip(1)


def run(net, windows, recipe, *, progress, cancelled, micro_batch=None) -> Outcome:
    """Find the axes before each block on what the sliced blocks before it left, and slice there."""
    options, d, layers = recipe.options, net.config.hidden_size, layers_of(net)
    width = sliced_width(d, recipe.ratio, options.multiple)
    walk = Walk(net, windows, passes=2 * len(layers), progress=progress, cancelled=cancelled, micro_batch=micro_batch)
    mean = torch.full((d, d), 1 / d, device=walk.device)
    if options.center:
        walk.hidden -= walk.hidden.mean(-1, keepdim=True)
    edits: dict[int, dict[str, Tensor]] = {}
    moments = []

    def axes() -> Tensor:
        kind = torch.float32 if walk.device.type == "mps" else torch.float64
        sums = Accumulator(d, walk.device, kind)
        for part in walk.parts:
            sums.add(walk.hidden[part])
        values, vectors = principal_axes(sums.result().gram)
        moments.append((values / sums.tokens).cpu())
        return vectors.float()

    for i, layer in enumerate(layers):
        for site in walk.sites:
            kept = axes()[:, :width].contiguous()
            edits.setdefault(i, {})[f"{site.block}.axes"] = kept
            there, back = kept.to(walk.hidden.dtype), kept.mT.to(walk.hidden.dtype)
            block, norm = layer.get_submodule(site.block), layer.get_submodule(site.norm)
            for part in walk.parts:
                walk.step(f"layer {i}: slicing before {site.block}")
                h = walk.hidden[part] @ there @ back
                walk.hidden[part] = h + run_block(block, norm, site, h, walk.attention)
    last = axes()
    first = edits[0][f"{walk.sites[0].block}.axes"]
    name = "embed_tokens.map" if options.embedding == "sliced" else "embed_tokens.turn"
    model = {name: first - mean @ first if options.center else first}
    if options.slice_head:
        model["axes"] = last[:, :width].contiguous()
    spectrum = torch.stack(moments)  # (2 · layers + 1, d)
    kept = spectrum[:, :width].sum(1) / spectrum.sum(1)
    return Outcome(Edits(edits, model), (), {"moments": spectrum, "kept": kept})
