"""Load a LLaMA from the embedded package, a folder or the hub, and refuse what would fail later.

Everything that can be known before weights are read is checked before they are: architecture, remote code, files,
and whether the model fits the free memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from rcpu.base.errors import RcpuError, out_of_memory
from rcpu.base.hub import unreachable
from rcpu.base.paths import existing
from rcpu.base.quiet import quiet_transformers
from rcpu.models.canonical import canonical
from rcpu.models.configuration import CLASSES, check_generation, read_config
from rcpu.models.devices import dtype_name, free_memory, resolve_device, resolve_dtype
from rcpu.models.embedded import converted_folder, embedded_folder
from rcpu.models.files import adapters_below, check_adapters, fingerprint, reason, stored_dtype, weight_files
from rcpu.models.sizes import bytes_needed, check_fits, parameter_count, streamed_bytes
from rcpu.models.tokenizers import load_tokenizer

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ["*.json", "*.safetensors", "tokenizer.model", "merges.txt", "*.jinja"]


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model with its tokenizer; ``fingerprint`` changes when its configuration, weights or tokenizer do."""

    name: str
    net: LlamaForCausalLM
    tokenizer: object
    folder: Path
    fingerprint: str
    storage: str = "fp32"  # precision that exports are written in: the one asked for, else the checkpoint's own

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.net.device

    @property
    def dtype(self) -> str:
        """fp32, bf16 or fp16."""
        return dtype_name(self.net.dtype)


def load_model(
    name: str = "embedded",
    device: str = "auto",
    dtype: str = "auto",
    report: Callable[[str], None] = lambda _: None,
) -> Model:
    """Load ``embedded``, a local Hugging Face folder, or a hub id.

    ``device``: auto (cuda, else mps, else cpu), cpu, cuda, cuda:N or mps. ``dtype``: fp32, bf16, fp16, or auto: fp32
    on the CPU, the checkpoint's own elsewhere. ``report`` is told what is going on.

    Raises:
        RcpuError: another architecture, missing, truncated or pickled weights, remote code, an adapter, no tokenizer,
            a file that cannot be read, NaN or Inf in the weights, not enough free memory, no such device, or no way
            to the hub.
    """
    target = resolve_device(device)
    folder = locate(name, report)
    check_adapters(folder)
    config = read_config(folder)
    check_generation(folder)
    kind = resolve_dtype(dtype, target, config)
    shards = weight_files(folder)
    check_fits(config, kind, target)
    tokenizer = load_tokenizer(folder)
    if aside := adapters_below(folder):
        report(f"leaving out the adapters in {', '.join(aside)}")
    report("loading weights")
    net_class = CLASSES[config.model_type][1]
    with quiet_transformers():
        try:
            net, found = net_class.from_pretrained(
                folder,
                config=config,
                dtype=kind,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation="sdpa",
                ignore_mismatched_sizes=True,  # they are told below
                output_loading_info=True,
            )
        except Exception as error:  # transformers and torch raise all kinds for files that do not fit
            if out_of_memory(error):
                raise
            raise RcpuError(f"cannot load {folder}: {reason(error)}") from error
    _check_weights(folder, found)
    if net.lm_head.weight is not net.model.embed_tokens.weight:  # whatever config.json says, as long as both are there
        net.config.tie_word_embeddings = False
    report("checking weights")
    for weight, values in net.named_parameters():
        if not values.isfinite().all():
            bad = int((~values.isfinite()).sum())
            raise RcpuError(f"{weight} holds {bad:,} NaN or Inf values: the file is broken, or {kind} is too narrow")
    net = canonical(net.eval().requires_grad_(False)).to(target)
    storage = (stored_dtype(shards) if dtype == "auto" else None) or dtype_name(kind)
    return Model(name, net, tokenizer, folder, fingerprint(folder, shards), storage)


def _check_weights(folder: Path, found: dict) -> None:
    """Raise ``RcpuError`` unless the weights of the files are those of the configuration, name by name and in shape."""
    surplus = sorted(k for k in found["unexpected_keys"] if "inv_freq" not in k and k != "lm_head.weight")
    if shapes := sorted(found["mismatched_keys"]):
        weight, stored, described = shapes[0]
        raise RcpuError(
            f"{folder}: {weight} has the shape {_shape(stored)} in the weight files, config.json describes "
            f"{_shape(described)} ({len(shapes)} such weights): the files do not belong to this config.json"
        )
    if absent := sorted(found["missing_keys"]):
        instead = f" and holds {surplus[0]}" if surplus else ""
        raise RcpuError(
            f"{folder} lacks {len(absent)} of the model's weights, {absent[0]} among them{instead}: the files do not "
            "belong to this config.json"
            + (", or are of a model without an output head" if absent == ["lm_head.weight"] else "")
        )
    if surplus:
        raise RcpuError(
            f"{folder} holds {len(surplus)} weights that its config.json does not describe, {surplus[0]} among them: "
            "the files do not belong together"
        )


def _shape(size: Sequence[int]) -> str:
    return " × ".join(map(str, size))


@dataclass(frozen=True)
class Footprint:
    """What loading a model would take, in bytes, and what its device has free."""

    parameters: int
    device: str
    dtype: str
    need: int
    free: int
    streamed: int = 0  # what it would take a layer at a time

    @property
    def fits(self) -> bool:
        """Whether loading would be tried."""
        return self.need <= self.free


def footprint(name: str, device: str = "auto", dtype: str = "auto") -> Footprint | None:
    """What a model on this machine would take, from its configuration alone; None if it is not here yet.

    Raises:
        RcpuError: the folder holds no LLaMA, or there is no such device or precision.
    """
    target = resolve_device(device)
    folder = converted_folder() if name == "embedded" else existing(name)
    if folder is None or not folder.is_dir():
        return None
    check_adapters(folder)
    config = read_config(folder)
    kind = resolve_dtype(dtype, target, config)
    parameters = parameter_count(config)
    need, streamed = bytes_needed(parameters, kind), streamed_bytes(config, kind)
    return Footprint(parameters, str(target), dtype_name(kind), need, free_memory(target), streamed)


def locate(name: str, report: Callable[[str], None] = lambda _: None) -> Path:
    """The folder of a model's files; from the hub they are downloaded first. Raises as :func:`load_model`."""
    check_name(name)
    if name == "embedded":
        return embedded_folder(report)
    return existing(name) or _download(name, report)


def check_name(name: str) -> None:
    """Raise ``RcpuError`` for what names no model; whether the hub has it is found out when it is loaded."""
    path = existing(name)
    if name == "embedded" or (path and path.is_dir()):
        return
    if path:
        raise RcpuError(f"{name} is a file, expected the folder of a model")
    if not HUB_ID.fullmatch(name) or name.startswith("."):
        raise RcpuError(f"no model {name!r}: give 'embedded', an existing folder, or a hub id like 'owner/name'")


def _download(name: str, report: Callable[[str], None]) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    report(f"asking the hub for {name}")
    away = unreachable()
    try:
        # The configuration alone tells most of what we refuse: no need to fetch gigabytes first.
        read_config(Path(hf_hub_download(name, "config.json", local_files_only=bool(away))).parent)
        report(f"downloading {name}")
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, local_files_only=bool(away)))
    except RcpuError:
        raise
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):
            raise _away(name, away, error) from error
        raise RcpuError(
            f"{name!r} on the hub has no config.json: expected a whole LLaMA; an adapter has to be merged into its "
            "base first"
        ) from error
    except Exception as error:  # the hub client raises its own, the HTTP library's and the system's errors
        raise _away(name, away, error) from error


def _away(name: str, away: str, error: Exception) -> RcpuError:
    return RcpuError(
        f"cannot get {name!r} from the hub ({away or type(error).__name__}) and no folder has that name: check the "
        "spelling, the network and, for a gated model, your token; or give a local folder"
    )
