"""Edits: what becomes of each layer, as named tensors; small, savable, and enough to rebuild the compact model.

A name is the path of a projection in its layer and what is said of it:

    <projection>.columns  ascending input columns that stay; rows of the projections before it follow where it consumes
    <projection>.rows     output rows of the dense weight that stay
    <projection>.weight   a new weight (out, in) in place of the dense one
    <projection>.keep     which weights stay (out, in) bool, zeros in the place of others
    <projection>.bias     what is added to the projection's own bias (out,)
    <projection>.own_bias what stands in the place of that bias, where outputs are others
    <projection>.left     with .right: factors (out, rank) and (rank, in) in place of the weight
    mlp.branch.left       with .right: a linear branch beside the MLP, of its inputs
    self_attn.pairs       RoPE pairs that stay (kv heads, pairs), where .rows of q and k name theirs
    self_attn.gone        the whole block goes, whatever is in the tensor
    <block>.axes          axes of the residual stream (d_model, width) that the block reads, see slicegpt.py

What belongs to no layer has a name in ``model``: ``embed_tokens.map`` (d_model, width) for the embedding's rows, or
``embed_tokens.turn`` for a matrix behind it, and ``axes`` that the head reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from rcpu.base.errors import RcpuError

LAYERS, MODEL = "layers.", "model."


@dataclass(frozen=True, eq=False)
class Edits:
    """Named tensors for every layer that changes, and for the model around the layers."""

    layers: Mapping[int, Mapping[str, Tensor]]
    model: Mapping[str, Tensor] = field(default_factory=dict)

    def to_tensors(self) -> dict[str, Tensor]:
        """One flat dictionary for a safetensors file, ``layers.3.mlp.down_proj.weight`` and so on."""
        found = {f"{LAYERS}{i}.{name}": t for i, named in self.layers.items() for name, t in named.items()}
        return {
            k: t.detach().cpu().contiguous() for k, t in (found | {MODEL + n: t for n, t in self.model.items()}).items()
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Edits:
        """The edits of a file; raises ``RcpuError`` for a name that is none of theirs."""
        layers: dict[int, dict[str, Tensor]] = {}
        model: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            index, _, name = key.removeprefix(LAYERS).partition(".")
            if key.startswith(LAYERS) and index.isdigit() and name:
                layers.setdefault(int(index), {})[name] = tensor
            elif key.startswith(MODEL):
                model[key.removeprefix(MODEL)] = tensor
            else:
                raise RcpuError(f"{key!r} is no edit of a layer: the file was written by something else")
        return cls(dict(sorted(layers.items())), model)

    @property
    def bytes(self) -> int:
        """What they take up."""
        tensors = [*self.model.values(), *(t for named in self.layers.values() for t in named.values())]
        return sum(t.numel() * t.element_size() for t in tensors)
