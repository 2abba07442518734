"""Load a LLaMA from the embedded package, a folder or the hub, and refuse what would fail later.

Everything that can be known before weights are read is checked before they are: architecture, remote code, files,
and whether the model fits the free memory.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedConfig

from rcpu.base.errors import RcpuError
from rcpu.base.hub import unreachable
from rcpu.base.paths import existing
from rcpu.base.quiet import quiet_transformers
from rcpu.models.compact_llama import CompactLlamaConfig, CompactLlamaForCausalLM
from rcpu.models.devices import DTYPES, free_memory, resolve_device, resolve_dtype
from rcpu.models.embedded import converted_folder, embedded_folder
from rcpu.models.sizes import bytes_needed, check_fits, parameter_count

CLASSES = {
    LlamaConfig.model_type: (LlamaConfig, LlamaForCausalLM),
    CompactLlamaConfig.model_type: (CompactLlamaConfig, CompactLlamaForCausalLM),
}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
)
#: What is read of a folder beside the weights; a fingerprint is of all of it.
READ = ("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json")
READ += ("vocab.*", "merges.txt")
HUB_FILES = ["*.json", "*.safetensors", "tokenizer.model", "*.jinja"]


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model with its tokenizer; ``fingerprint`` changes when its configuration, weights or tokenizer do."""

    name: str
    net: LlamaForCausalLM
    tokenizer: object
    folder: Path
    fingerprint: str

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.net.device

    @property
    def dtype(self) -> str:
        """fp32, bf16 or fp16."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.net.dtype)


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
        RcpuError: another architecture, missing, truncated or pickled weights, remote code, NaN or Inf in the
            weights, not enough free memory, no such device, or no way to the hub.
    """
    target = resolve_device(device)
    folder = _locate(name, report)
    config = _config(folder)
    kind = resolve_dtype(dtype, target, config)
    shards = _shards(folder)
    check_fits(config, kind, target)
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
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # transformers, tokenizers and torch raise all kinds for files that do not fit
            raise RcpuError(f"cannot load {folder}: {_reason(error)}") from error
    if absent := sorted(found["missing_keys"]):
        raise RcpuError(
            f"{folder} lacks {len(absent)} of the model's weights, {absent[0]} among them: the files do not belong to "
            "this config.json"
        )
    surplus = [k for k in found["unexpected_keys"] if "inv_freq" not in k and k != "lm_head.weight"]
    if surplus:
        raise RcpuError(
            f"{folder} holds {len(surplus)} weights that its config.json does not describe, {surplus[0]} among them: "
            "the files do not belong together"
        )
    report("checking weights")
    for weight, values in net.named_parameters():
        if not values.isfinite().all():
            bad = int((~values.isfinite()).sum())
            raise RcpuError(f"{weight} holds {bad:,} NaN or Inf values: the file is broken, or {kind} is too narrow")
    net = net.eval().requires_grad_(False).to(target)
    return Model(name, net, tokenizer, folder, _fingerprint(folder, shards))


@dataclass(frozen=True)
class Footprint:
    """What loading a model would take, in bytes, and what its device has free."""

    parameters: int
    device: str
    dtype: str
    need: int
    free: int

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
    config = _config(folder)
    kind = resolve_dtype(dtype, target, config)
    parameters = parameter_count(config)
    named = next(n for n, d in DTYPES.items() if d == kind)
    return Footprint(parameters, str(target), named, bytes_needed(parameters, kind), free_memory(target))


def _locate(name: str, report: Callable[[str], None]) -> Path:
    if name == "embedded":
        return embedded_folder(report)
    if path := existing(name):
        if path.is_dir():
            return path
        raise RcpuError(f"{name} is a file, expected the folder of a model")
    if not HUB_ID.fullmatch(name) or name.startswith("."):
        raise RcpuError(f"no model {name!r}: give 'embedded', an existing folder, or a hub id like 'owner/name'")
    return _download(name, report)


def _download(name: str, report: Callable[[str], None]) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download

    report(f"asking the hub for {name}")
    away = unreachable()
    try:
        # The configuration alone tells most of what we refuse: no need to fetch gigabytes first.
        _config(Path(hf_hub_download(name, "config.json", local_files_only=bool(away))).parent)
        report(f"downloading {name}")
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, local_files_only=bool(away)))
    except RcpuError:
        raise
    except Exception as error:  # the hub client raises its own, the HTTP library's and the system's errors
        raise RcpuError(
            f"cannot get {name!r} from the hub ({away or type(error).__name__}) and no folder has that name: check the "
            "spelling, the network and, for a gated model, your token; or give a local folder"
        ) from error


def _config(folder: Path) -> PreTrainedConfig:
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        kind = raw["model_type"]
    except FileNotFoundError as error:
        raise RcpuError(f"{folder} has no config.json: expected the folder of a Hugging Face model") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RcpuError(f"{path} is not the configuration of a model") from error
    if not isinstance(kind, str) or kind not in CLASSES:
        raise RcpuError(
            f"{folder.name} is a {kind!r} model ({', '.join(raw.get('architectures') or ['no class named'])}): "
            f"supported are LLaMA models, model_type {' or '.join(map(repr, CLASSES))}"
        )
    if "auto_map" in raw and kind == "llama":
        raise RcpuError(
            f"{folder.name} asks to run its own code (auto_map in config.json): code from a model folder is never run"
        )
    if raw.get("quantization_config"):
        raise RcpuError(f"{folder.name} is quantised: pruning needs the weights in fp32, bf16 or fp16")
    try:
        config = CLASSES[kind][0].from_dict(raw)
    except Exception as error:  # transformers validates with errors of several libraries
        raise RcpuError(f"{path} does not describe a LLaMA: {_reason(error)}") from error
    for size in SIZES:
        if not isinstance(value := getattr(config, size), int) or value < 1:
            raise RcpuError(f"{path} does not describe a LLaMA: {size} is {value!r}, expected a whole number from 1")
    return config


def _reason(error: Exception) -> str:
    """The words of another library's error on one line, not too many of them."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) < 300 else words[:299].rstrip(" :") + "…"


def _shards(folder: Path) -> list[Path]:
    """Weight files of a folder, each opened once, so that a missing or truncated one is named."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():  # where both are, transformers takes this one
        names = ["model.safetensors"]
    elif index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            if not all(isinstance(name, str) for name in names):
                raise TypeError("a file's name is not a text")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise RcpuError(f"{index} is not an index of weight files") from error
    else:
        pickled = sorted(p.name for p in folder.glob("*.bin")) + sorted(p.name for p in folder.glob("*.pt*"))
        found = f"only {pickled[0]}, and pickled weights are never loaded" if pickled else "no weights"
        raise RcpuError(f"{folder} holds {found}: expected model.safetensors or its shards with an index")
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise RcpuError(f"{folder} lacks {name}, one of {len(names)} weight files: copy or download it again")
        try:
            with safe_open(folder / name, framework="pt"):
                pass
        except SafetensorError as error:
            raise RcpuError(f"{folder / name} is truncated or broken ({error}): copy or download it again") from error
    return [folder / name for name in names]


def _fingerprint(folder: Path, shards: list[Path]) -> str:
    """Sixteen hex digits of every byte of the weights, and of the files in READ."""
    digest = hashlib.sha256()
    for path in (*sorted({path for pattern in READ for path in folder.glob(pattern) if path.is_file()}), *shards):
        with path.open("rb") as file:
            digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
