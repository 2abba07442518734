"""config.json and generation_config.json: what they must say for a model to be one that is pruned here."""

from __future__ import annotations

from pathlib import Path

from transformers import GenerationConfig, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from rcpu.base.errors import RcpuError
from rcpu.models.compact_llama import CompactLlamaConfig, CompactLlamaForCausalLM
from rcpu.models.families import FAMILIES
from rcpu.models.files import read_json, reason

CLASSES = {kind: (family.config, family.model) for kind, family in FAMILIES.items()}
CLASSES |= {CompactLlamaConfig.model_type: (CompactLlamaConfig, CompactLlamaForCausalLM)}
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
#: Flags that change what a forward returns, or that saving refuses; the weights are the same without them.
RETURNS = ("output_attentions", "output_hidden_states", "return_dict", "use_return_dict", "torchscript")
#: What a RoPE type needs beside its name.
ROPE = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def read_config(folder: Path) -> PreTrainedConfig:
    """The configuration of a folder's model, dense or compact, without flags that change what a forward returns.

    Raises:
        RcpuError: it is not there, cannot be read, or describes a model that is not pruned here.
    """
    path = folder / "config.json"
    try:
        raw = read_json(path, "the configuration of a model")
    except FileNotFoundError as error:
        raise RcpuError(f"{folder} has no config.json: expected the folder of a Hugging Face model") from error
    if "model_type" not in raw:
        raise RcpuError(f"{path} is not the configuration of a model: it has no model_type")
    kind, named = raw["model_type"], _names(raw.get("architectures"))
    if not isinstance(kind, str) or kind not in CLASSES:
        raise RcpuError(
            f"{folder.name} is a {kind!r} model ({', '.join(named) or 'no class named'}): "
            f"supported are {', '.join(f.label for f in FAMILIES.values())}, model_type {', '.join(map(repr, CLASSES))}"
        )
    if named and not any(name.endswith(("ForCausalLM", "LlamaModel")) for name in named):
        raise RcpuError(
            f"{path} describes a {named[0]}, expected a LlamaForCausalLM: a model that predicts the next token, with "
            "lm_head.weight; take the model that this one was made of"
        )
    if "auto_map" in raw and kind == "llama":  # elsewhere it stands beside a class that transformers has as well
        raise RcpuError(
            f"{folder.name} asks to run its own code (auto_map in config.json): code from a model folder is never run"
        )
    if raw.get("quantization_config"):
        raise RcpuError(f"{folder.name} is quantised: pruning needs the weights in fp32, bf16 or fp16")
    _check_rope(path, raw)
    label = FAMILIES[kind].label if kind in FAMILIES else "LLaMA"
    plain = {k: v for k, v in raw.items() if k not in RETURNS and not (k in ("dtype", "torch_dtype") and v == "auto")}
    try:
        config = CLASSES[kind][0].from_dict(plain)
    except Exception as error:  # transformers validates with errors of several libraries
        raise RcpuError(f"{path} does not describe a {label}: {reason(error)}") from error
    for size in SIZES:
        if not isinstance(value := getattr(config, size, 1), int) or value < 1:
            raise RcpuError(f"{path} does not describe a {label}: {size} is {value!r}, expected a whole number from 1")
    return config


def check_generation(folder: Path) -> None:
    """Raise ``RcpuError`` for a generation_config.json that transformers would refuse, or overlook, later."""
    path = folder / "generation_config.json"
    if not path.exists():
        return
    raw = read_json(path, "a generation configuration")
    try:
        GenerationConfig.from_dict(raw).validate()
    except Exception as error:  # of whatever its values run into
        raise RcpuError(f"{path} is refused: {reason(error)} Correct that value, or remove the file") from error
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids = raw.get(name) if isinstance(raw.get(name), list) else [raw.get(name)]
        if not all(i is None or type(i) is int for i in ids):
            raise RcpuError(f"{path}: {name} is {raw[name]!r}, expected the number of a token, or several")


def _names(architectures: object) -> list[str]:
    return [str(name) for name in architectures] if isinstance(architectures, list) else []


def _check_rope(path: Path, raw: dict) -> None:
    """A RoPE type that is not known, or lacks a value, would end in a bare KeyError when the model is built."""
    key = "rope_parameters" if raw.get("rope_parameters") else "rope_scaling"
    rope = raw.get(key)
    if not rope:
        return
    if not isinstance(rope, dict):
        raise RcpuError(f"{path}: {key} is {rope!r}, expected an object with a rope_type, or null")
    kind = rope.get("rope_type", rope.get("type"))
    if kind is None and not set(rope) <= {"rope_theta", "partial_rotary_factor"}:
        raise RcpuError(f"{path}: {key} has no rope_type, and {', '.join(rope)} would be overlooked: add the type")
    kind = "default" if kind is None else kind
    known = ("default", *ROPE)
    if kind not in known and kind not in ROPE_INIT_FUNCTIONS:
        raise RcpuError(
            f"{path} asks for positions of the RoPE type {kind!r} ({key}): expected one of {', '.join(known)}; for "
            "the model as it was before its context was stretched, set it to null"
        )
    for name in ROPE.get(kind, ()):
        value = rope.get(name, raw.get(name))
        if value is None:
            raise RcpuError(f"{path}: {key} of the type {kind!r} lacks {name}: add it, as the model's authors give it")
        if not isinstance(value, list if name.endswith("_factor") and kind == "longrope" else int | float):
            raise RcpuError(f"{path}: {name} in {key} is {value!r}, expected a number")
