"""A model that is read from its files one decoder layer at a time: what is outside the layers is held, they are not.

A layer that was not read has no numbers (torch's meta device); :meth:`Shards.read` puts them in its place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from rcpu.base.errors import RcpuError
from rcpu.models.canonical import apart, canonical_config
from rcpu.models.compact_llama import CompactLlamaForCausalLM
from rcpu.models.configuration import read_config
from rcpu.models.families import FAMILIES
from rcpu.models.files import check_adapters, stored_dtype, weight_files

LAYERS = "model.layers."


class Shards:
    """The weight files of one dense model."""

    def __init__(self, folder: Path):
        check_adapters(folder)
        self.folder, self.own = folder, read_config(folder)
        if self.own.model_type not in FAMILIES:
            raise RcpuError(f"{folder.name} is a pruned model: only a dense one is read layer by layer")
        self.config, self.family = canonical_config(self.own), FAMILIES[self.own.model_type]
        self.files = weight_files(folder)
        self.places: dict[str, Path] = {}
        for path in self.files:
            with safe_open(path, "pt") as file:
                self.places |= dict.fromkeys(file.keys(), path)
        self.count = self.own.num_hidden_layers
        absent = [i for i in range(self.count) if not any(n.startswith(f"{LAYERS}{i}.") for n in self.places)]
        if absent:
            raise RcpuError(f"{folder} lacks the weights of layer {absent[0]}: copy or download the model again")
        beyond = [n for n in self.places if n.startswith(f"{LAYERS}{self.count}.")]
        if beyond or not self._fits():
            what = f"{beyond[0]}, " if beyond else "weights of other shapes in layer 0, "
            raise RcpuError(
                f"{folder} holds {what}which its config.json does not describe: they do not belong together"
            )

    def _fits(self) -> bool:
        """Whether the first layer has the shapes that the configuration says."""
        prefix, shapes = f"{LAYERS}0.", {}
        for name in (n for n in self.places if n.startswith(prefix) and "inv_freq" not in n):
            with safe_open(self.places[name], "pt") as file:
                shapes[name.removeprefix(prefix)] = torch.empty(file.get_slice(name).get_shape(), device="meta")
        try:
            found = apart(shapes, self.config, self.family)
        except RuntimeError:
            return False
        described = self.empty().model.layers[0].state_dict()
        return all(described[n].shape == t.shape for n, t in found.items() if n in described)

    @property
    def stored(self) -> str | None:
        """The precision of the files."""
        return stored_dtype(self.files)

    @property
    def digest(self) -> str:
        """Sixteen hex digits of the configuration, and of what the files say of their weights: names, shapes, sizes."""
        found = hashlib.sha256((self.folder / "config.json").read_bytes())
        for path in self.files:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                found.update(file.read(length))
            found.update(str(path.stat().st_size).encode())
        return found.hexdigest()[:16]

    def layer_bytes(self, dtype: torch.dtype) -> int:
        """Of one layer in this precision."""
        return sum(t.numel() for t in self.empty().model.layers[0].parameters()) * dtype.itemsize

    def skeleton(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """The model with its embedding, last norm and head, and with layers that are not read."""
        net = self.empty()
        names = [n for n in self.places if not n.startswith(LAYERS) and "inv_freq" not in n]
        if self.own.tie_word_embeddings:
            names = [n for n in names if n != "lm_head.weight"]
        missing = {"model.embed_tokens.weight", "model.norm.weight"} - set(names)
        missing |= set() if self.own.tie_word_embeddings else {"lm_head.weight"} - set(names)
        if missing:
            raise RcpuError(f"{self.folder} lacks {min(missing)}: the files do not belong to this config.json")
        for name, tensor in self._tensors(names, device, dtype).items():
            module, _, kind = name.rpartition(".")
            setattr(net.get_submodule(module), kind, nn.Parameter(tensor, requires_grad=False))
        if self.own.tie_word_embeddings:
            net.lm_head.weight = net.model.embed_tokens.weight
        net.model.rotary_emb = type(net.model.rotary_emb)(self.config).to(device)
        return net.eval().requires_grad_(False)

    def read(self, net: nn.Module, index: int) -> None:
        """Fill one layer of a skeleton.

        Raises:
            RcpuError: weights of another shape, or NaN or Inf among them.
        """
        prefix = f"{LAYERS}{index}."
        device, dtype = net.model.embed_tokens.weight.device, net.model.embed_tokens.weight.dtype
        names = [n for n in self.places if n.startswith(prefix) and "inv_freq" not in n]
        state = {n.removeprefix(prefix): t for n, t in self._tensors(names, device, dtype).items()}
        for name, tensor in state.items():
            if not tensor.isfinite().all():
                raise RcpuError(f"{prefix}{name} holds NaN or Inf values: the file is broken, or {dtype} is too narrow")
        try:
            net.model.layers[index].load_state_dict(apart(state, self.config, self.family), assign=True)
        except RuntimeError as error:
            raise RcpuError(f"{self.folder}, layer {index}: the files do not belong to this config.json") from error
        net.model.layers[index].requires_grad_(False)

    @staticmethod
    def let_go(net: nn.Module, index: int) -> None:
        """Take the numbers out of one layer again."""
        net.model.layers[index].to("meta")

    def empty(self) -> nn.Module:
        """The model without a number in it, to plan with."""
        plain = self.own.model_type == "llama"
        config = self.own if plain else self.config
        config._attn_implementation = "sdpa"
        with torch.device("meta"):
            return (self.family.model if plain else CompactLlamaForCausalLM)(config).eval().requires_grad_(False)

    def _tensors(self, names: Sequence[str], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        found = {}
        for path in sorted({self.places[name] for name in names}):
            with safe_open(path, "pt") as file:
                for name in (n for n in names if self.places[n] == path):
                    found[name] = file.get_tensor(name).to(device, dtype)
        return found


class ShardWriter:
    """The files of a model that comes layer by layer, each there whole or not at all; the index comes last."""

    def __init__(self, folder: Path, dtype: torch.dtype):
        self.folder, self.dtype = folder, dtype

    def write(self, name: str, tensors: dict[str, Tensor], save: Callable[[dict, Path], None]) -> None:
        """Write one file of the folder."""
        temporary = self.folder / f"{name}.tmp-new"
        save({k: t.detach().to("cpu", self.dtype).contiguous() for k, t in tensors.items()}, temporary)
        temporary.replace(self.folder / f"{name}.safetensors")

    def index(self) -> Path:
        """Name what lies where, for any loader."""
        places, total = {}, 0
        for path in sorted(self.folder.glob("model-*.safetensors")):
            with safe_open(path, "pt") as file:
                places |= dict.fromkeys(file.keys(), path.name)
            total += path.stat().st_size
        path = self.folder / "model.safetensors.index.json"
        path.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=1) + "\n")
        return path
